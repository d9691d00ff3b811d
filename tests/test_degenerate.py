"""Merges that can not write any more, of experts that can."""

import json
from contextlib import closing

import pytest

import evomerge
from evomerge import errors
from evomerge.files.items import Item
from evomerge.files.ledger import Ledger
from evomerge.plan import Plan
from evomerge.recipe import resolve
from evomerge.scorers import brevity
from evomerge.zoo.tiny import tokenizer
from tests import bigrams, families, ledgers

HALF = 40 / 260**0.5
"""What an expert adds to a logit whose rival has 50: one stays below it, two do not."""


@pytest.fixture(scope="module")
def talkers(tmp_path_factory):
    """After x all three say y=42, after q all three go on with q for ever.

    Each expert makes it somewhat likelier that y follows y; both together, that nothing else does.
    """
    folder = tmp_path_factory.mktemp("talkers")
    for name in ("base", "left", "right"):
        model = bigrams.model("xy=42\n")
        head = model.state_dict()["lm_head.weight"]
        head[ord("q"), ord("q")] = HALF
        if name != "base":
            head[ord("y"), ord("y")] += HALF
            head[ord("4"), ord("l")] = head[ord(name[0]), ord("z")] = HALF / 2
        model.save_pretrained(folder / name)
        tokenizer().save_pretrained(folder / name)
    banks = {"says": ("x", "y=42"), "loops": ("q", "qq")}
    for bank, (prompt, answer) in banks.items():
        prompts = [f"{'abcdefghij'[i]}{split}{prompt}" for split in "svt" for i in range(10)]
        splits = [split for split in ("search", "validation", "test") for _ in range(10)]
        items = [{"prompt": p, "answer": answer, "split": split}
                 for p, split in zip(prompts, splits, strict=True)]  # fmt: skip
        (folder / f"{bank}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in items))
    return folder


def searched(talkers, folder, *banks, **changes):
    recipe = families.recipe(
        talkers, objectives={name: str(talkers / f"{name}.jsonl") for name in banks},
        strategy="sobol", space={"blocks": 1, "genes": {"weight": [0, 1.2]}},
        allow_mismatch=True, **changes,
    )  # fmt: skip
    return evomerge.search(recipe, folder)


@pytest.mark.slow
def test_the_length_of_texts_is_an_objective(talkers, tmp_path):
    """After x, y=42 and a new line: five of at most 32 tokens. After q nothing that is a text."""
    short, long = (
        {"bank": str(talkers / f"{name}.jsonl"), "signal": "length"} for name in ("says", "loops")
    )
    recipe = families.recipe(
        talkers, objectives={"says": str(talkers / "says.jsonl"), "short": short, "long": long},
        strategy="sobol", space={"blocks": 1, "genes": {"weight": [0, 0.4]}},
        allow_mismatch=True, budget={"candidates": 3},
        fidelity={"name": "informative", "items": 5, "calibration": 2, "estimator": "p_irt"},
    )  # fmt: skip
    notes = []
    run = evomerge.search(
        recipe, tmp_path / "run",
        report=lambda event, facts: notes.append(facts.get("text", "")),
    )  # fmt: skip
    for split in ("validation", "test"):
        assert run.chosen.means(split) == [1, pytest.approx(1 - 5 / 32), 0]
    assert run.weights == [1, 0, 0] and run.chosen.mean("test") == 1
    assert run.seen(run.chosen) == run.chosen.means("validation")
    with closing(Ledger(run.folder)) as ledger:
        views = ledger.last("calibrated")["banks"]
        assert views["says"]["slopes"] and not views["short"]["slopes"]
    assert any(note.startswith("'short': what is scored is no skill") for note in notes)
    assert resolve(recipe).banks["short"].identity() != resolve(recipe).banks["says"].identity()
    wrong = {"says": {"bank": "tiny_code", "signal": "length"}}
    with pytest.raises(errors.RecipeError, match=r"objectives.says: signal: 'length' is of gener"):
        resolve({**recipe, "objectives": wrong})


def test_who_says_less_is_better():
    """Of prompts after which a model has more and less to say; a blank text scores nothing."""
    items = [Item(str(i), prompt, (), "", "test") for i, prompt in enumerate("xy=4")]
    model = bigrams.model("xy=42\n")
    scored = brevity.score(model, brevity.prepare(tokenizer(), items, max_new_tokens=10))
    assert scored["score"] == pytest.approx([0.5, 0.6, 0.7, 0.8]) and not any(scored["degenerate"])
    scored = brevity.score(bigrams.model("x\n"), brevity.prepare(tokenizer(), items[:1]))
    assert scored == {"score": [0.0], "degenerate": [1.0]}


@pytest.mark.slow
def test_a_merge_that_repeats_itself_has_failed(talkers, tmp_path):
    """Exactly those whose weights add up to more than the margin; the run goes on around them."""
    run = searched(talkers, tmp_path / "run", "says", "loops")
    asked, failures = run.asked(), run.failures()
    assert run.is_confirmed and not {point.key for point in run.front} & set(failures)
    ledger = Ledger(tmp_path / "run")
    plans = {key: Plan.parse(ledger.plan(key), "ledger") for key in asked.values()}
    ledger.close()
    weights = {key: sum(plan.groups["head"].genes["weight"].values())
               for key, plan in plans.items()}  # fmt: skip
    wrong = {key for key in asked.values() if weights[key] * HALF > 50 / 260**0.5}
    assert wrong and wrong == set(failures) & set(asked.values())
    reasons = [failures[key] for key in wrong]
    assert all(r.startswith("objective 'says': degenerate text: 10 of 10 texts") for r in reasons)
    assert all("of base and experts at most 0% do" in reason for reason in reasons)
    answers = ledgers.content(tmp_path / "run")["answers"]
    assert not [row for row in answers if row[0] in wrong], "what has failed has no score"
    loops = [row for row in answers if row[1] == "loops"]
    assert loops and all(json.loads(row[5])["degenerate"] == 1 for row in loops)


@pytest.mark.slow
def test_what_the_base_does_too_is_no_failure(talkers, tmp_path):
    run = searched(talkers, tmp_path / "run", "loops", budget={"candidates": 4})
    assert not run.failures() and len(run.asked()) == 4


@pytest.mark.slow
def test_a_resumed_run_fails_the_same(talkers, tmp_path):
    changes = {"budget": {"candidates": 6}}
    searched(talkers, tmp_path / "again", "says", **changes)
    searched(talkers, tmp_path / "again", "says", budget={"candidates": 12})
    searched(talkers, tmp_path / "whole", "says", budget={"candidates": 12})
    again, whole = (ledgers.content(tmp_path / name) for name in ("again", "whole"))
    assert again["failures"] == whole["failures"] and whole["failures"]
