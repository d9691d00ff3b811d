"""What base and experts score before a search, and what is said where a prompt is likely wrong."""

import json
from pathlib import Path

import pytest
import torch

import evomerge
from evomerge import loading, sanity, threads
from evomerge.files.bank import Bank
from evomerge.files.companions import Form
from evomerge.files.items import Item
from evomerge.scorers import choice
from tests import command, families


def bank(scorer, n=100, choices=(), answers=("yes", "no", "no", "no")):
    items = tuple(
        Item(str(i), f"{i}?", choices, 1 if choices else answers[i % 4], "search")
        for i in range(n)
    )
    return Bank("own", 1, scorer, {}, items, "", "", Path())


FOUR = bank("choice", choices=tuple("abcd"))


@pytest.mark.parametrize(
    ("of", "base", "expert", "says"),
    [
        (FOUR, 0.25, 0.26, "guessing scores (0.250)"),
        (FOUR, 0.10, 0.33, "at most 0.330 on 100 questions, which is not clearly above what g"),
        (FOUR, 0.20, 0.40, ""),
        (FOUR, 0.40, 0.20, "scores 0.200 on 'own' (100 questions), the base 0.400"),
        (FOUR, 0.40, 0.40, "the base 0.400"),
        (bank("exact_match", 1), 0.00, 0.00, "at most 0.000 on 1 question, which is"),
        (bank("exact_match"), 0.70, 0.80, "at most 0.800 on 100 questions"),
        (bank("numeric", answers="1234"), 0.00, 0.00, "guessing scores (0.250)"),
        (bank("label"), 0.70, 0.95, ""),
        (bank("perplexity"), 0.01, 0.02, ""),
        (bank("perplexity"), 0.02, 0.01, "the base 0.020"),
        (bank("function", 1), 0.0, 0.0, ""),
    ],
)
def test_scores_that_point_to_a_wrong_prompt(of, base, expert, says):
    means = {"base": base, "expert own": expert, "expert other": base}
    found = sanity.remarks("own", of, means, len(of.items))
    assert len(found) == bool(says) and says in "".join(found)
    assert not says or "likely wrong" in found[0]
    part = sanity.remarks("own", of, means, len(of.items) - 1)
    assert not says or len(of.items) == 1 or "too few to tell" in part[0]
    others = {label: mean for label, mean in means.items() if label != "expert own"}
    assert not any("the base" in line for line in sanity.remarks("own", of, others, 100))


@pytest.fixture(scope="module")
def known(family, tmp_path_factory):
    """A bank of what the base answers, asked of the base and of an expert with the same name."""
    folder = tmp_path_factory.mktemp("known")
    rows = families.questions("known", 80)
    with threads.one_thread():
        model, words = loading.load(
            Form(family / "base", family / "base"), "float32", torch.device("cpu")
        )
        for right in range(4):
            asked = [Item(str(i), r["prompt"], tuple(r["choices"]), right, "search")
                     for i, r in enumerate(rows)]  # fmt: skip
            scores = choice.score(model, choice.prepare(words, asked))["score"]
            for row, score in zip(rows, scores, strict=True):
                row["answer"] = right if score else row["answer"]
    (folder / "known.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    experts = {"known": str(family / "left"), "two": str(family / "right")}
    objectives = {"known": str(folder / "known.jsonl"), "two": str(family / "two.jsonl")}
    changes = {
        "experts": experts,
        "objectives": objectives,
        "budget": {"candidates": 6},
        "batch": 10,
    }
    command.write(folder, families.recipe(family, **changes))
    return folder


@pytest.mark.slow
def test_plan_asks_a_part_of_each_bank_and_a_search_all_of_it(known, family, run, monkeypatch):
    """Before the run by a probe, after it from its ledger; what is odd in the report too."""
    monkeypatch.chdir(known)
    assert "--probe" in json.loads(run("plan", "recipe.yaml", "--json")[1])["sanity"]
    code, out, _ = run("plan", "recipe.yaml", "--probe", "--json")
    found = json.loads(out)
    rows = found["sanity"]
    assert code == 0 and "runs" not in [path.name for path in known.iterdir()]
    assert (rows["known"]["questions"], rows["known"]["of"]) == (50, 80)
    assert (rows["two"]["questions"], rows["two"]["of"]) == (30, 30)
    left = evomerge.evaluate(family / "left", [family / "two.jsonl"], split="search")["two"]
    assert rows["two"]["scores"]["expert known"] == round(left.mean, 4)
    assert rows["known"]["scores"]["base"] == 1.0
    odd = [line for line in found["notes"] if "to tell" in line or "likely" in line]
    assert len(odd) == 2
    assert "expert 'known' scores" in odd[0] and "(50 questions), the base 1.000" in odd[0]
    assert "'two': base and experts score at most" in odd[1] and "30 questions" in odd[1]

    said = []
    searched = evomerge.search(
        "recipe.yaml", "run", report=lambda event, facts: said.append(facts.get("text"))
    )
    code, out, _ = run("plan", "recipe.yaml", "-o", "run", "--json")
    found = json.loads(out)
    for i, (name, row) in enumerate(found["sanity"].items()):
        assert row["questions"] == row["of"]
        means = {p.label: p.means("search")[i] for p in searched.baselines}
        assert row["scores"] == {label: round(means[label], 4) for label in row["scores"]}, name
    odd = [line for line in found["notes"] if "likely" in line]
    assert len(odd) == 2 and "(80 questions), the base 1.000" in odd[0]
    assert set(odd) <= set(said)
    page = searched.report().read_text()
    assert all("Expert &#x27;known&#x27; scores" in page or line[1:40] in page for line in odd)
    (known / "known.jsonl").write_text((family / "one.jsonl").read_text())
    code, out, _ = run("plan", "recipe.yaml", "-o", "run", "--json")
    assert code == 0 and "--probe" in json.loads(out)["sanity"], "answers to other questions"
