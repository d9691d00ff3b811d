"""Whole runs on small real checkpoints: what they claim, resume, extension, export."""

import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import evomerge
from evomerge import api, errors, status
from evomerge.files.checkpoint import Checkpoint
from evomerge.loop import Search
from evomerge.recipe import resolve
from evomerge.schema import OF_A_POINT
from evomerge.worker import Worker
from tests import families, ledgers, listeners, pensive

SEARCH = """
import ast, sys, evomerge
evomerge.search(ast.literal_eval(sys.stdin.read()), sys.argv[1])
"""


@pytest.fixture(scope="module")
def run(family, tmp_path_factory):
    return evomerge.search(families.recipe(family), tmp_path_factory.mktemp("runs") / "run")


def test_an_export_has_the_bits_of_the_live_candidate(family, run, tmp_path):
    folder = run.save("best", tmp_path / "best")
    live = Worker(resolve(families.recipe(family)).setup)
    live.live.build(run.plan("best"))
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    state = live.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in loaded.state_dict().items())
    tokens = AutoTokenizer.from_pretrained(folder)("abcdef", return_tensors="pt")
    with torch.inference_mode():
        assert torch.equal(loaded(**tokens).logits, live.model(**tokens).logits)


def test_evaluating_an_export_reproduces_the_confirmed_scores(family, run, tmp_path):
    folder = run.save("best", tmp_path / "best")
    banks = [family / "one.jsonl", family / "two.jsonl"]
    for split in ("validation", "test"):
        found = evomerge.evaluate(folder, banks, split=split, batch=10)
        assert [score.mean for score in found.values()] == run.chosen.means(split)
        shown = re.compile(r"Score\(bank='\w+', mean=[^()]*\)")  # without each item's score
        assert all(shown.fullmatch(repr(score)) for score in found.values())


def test_every_label_can_be_saved_and_knee_and_best_are_in_the_front(run, tmp_path):
    labels = [point.label for point in run.front]
    assert run.knee.label in labels and run.chosen.label in labels
    assert run.chosen.mean("validation") == max(p.mean("validation") for p in run.front)
    for label in (labels[0], "knee", "TIES", "expert left"):
        assert Checkpoint.open(run.save(label, tmp_path / label)).tensors
    card = (tmp_path / "TIES" / "README.md").read_text()
    assert "base_model_relation: merge" in card and run.plan("TIES").key in card


def test_the_front_as_table_and_json(run):
    frame = run.front.to_pandas()
    assert list(frame.index) == [point.label for point in run.front]
    bounds = [f"{name}{end}" for name in run.objectives for end in ("", "_low", "_high")]
    assert {*run.front.rows()[0]} == {*bounds, *OF_A_POINT}
    assert frame.loc[run.chosen.label, "one"] == run.chosen.means("test")[0]
    assert run.chosen.label in run.front._repr_html_() and run.chosen.label in repr(run.front)


def test_a_merge_without_a_search(family, run, tmp_path):
    experts = {name: family / name for name in ("left", "right")}
    live = evomerge.merge(family / "base", experts, "ties", density=0.4, weight=[1, 0.5])
    folder = evomerge.merge(
        family / "base", experts, "ties", density=0.4, weight=[1, 0.5], out=tmp_path / "ties"
    )
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in live.state_dict().items())


def test_run_again_it_is_complete_and_asks_nothing(family, run):
    events = []
    again = evomerge.search(
        families.recipe(family), run.folder, report=lambda event, facts: events.append(event)
    )
    assert "complete" in events and "answered" not in events
    assert repr(again.front) == repr(run.front)


def test_what_is_complete_is_known_without_a_replay(family, tmp_path):
    """A strategy that thinks long would have to think all of it again; where a session has not
    noted that it was the last, as before there were notes, it does, once."""
    recipe = families.recipe(family, strategy="tests.pensive", budget={"candidates": 4})

    def asks(**changes):
        pensive.ASKS.clear()
        evomerge.search(recipe, tmp_path / "run", **changes)
        return len(pensive.ASKS)

    thought = asks()
    assert thought > 0 == asks()
    with sqlite3.connect(tmp_path / "run" / "ledger.sqlite") as ledger:
        assert ledger.execute("DELETE FROM meta WHERE key = 'finished'").rowcount == 1
    assert [asks(), asks()] == [thought, 0]
    extended = {"budget": {"candidates": 6}}
    assert asks(**extended) > thought and asks(**extended) == 0
    assert asks(budget={"candidates": 6, "seconds": 1e6}) > 0  # it may allow more next time
    assert len(evomerge.Run(tmp_path / "run").asked()) == 6


@pytest.mark.slow
def test_an_extended_run_is_the_longer_run(family, tmp_path):
    """Extension asks what the longer run would have asked, and looks at `test` a second time."""
    recipe = families.recipe(family, budget={"candidates": 6})
    evomerge.search(recipe, tmp_path / "grown")
    grown = evomerge.search(recipe, tmp_path / "grown", budget={"candidates": 12})
    whole = evomerge.search(recipe, tmp_path / "whole", budget={"candidates": 12})
    kinds = ("anchors", "ask", "tell")
    events = [
        [event for event in ledgers.content(tmp_path / name)["events"] if event[0] in kinds]
        for name in ("grown", "whole")
    ]
    assert events[0] == events[1]
    assert grown.front.rows() == whole.front.rows()
    assert (grown.confirmed["looks"], whole.confirmed["looks"]) == (2, 1)


def test_a_budget_of_items(family, tmp_path):
    by_items = evomerge.search(families.recipe(family, budget="310-items"), tmp_path / "items")
    assert len(by_items.asked()) == 4  # of 40 items each, after 180 of base and experts
    assert status.read(tmp_path / "items")["items"] == 340


def permuted(file, splits):
    """The items of a bank with ids of their own, answers permuted among those of some splits."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for i, row in enumerate(rows):
        row["id"] = f"{i}"
    draw = random.Random(1)
    for split in splits:
        mine = [row for row in rows if row["split"] == split]
        answers = [row["answer"] for row in mine]
        draw.shuffle(answers)
        for row, answer in zip(mine, answers, strict=True):
            row["answer"] = answer
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def searched(folder):
    """What a run found before it was confirmed."""
    found = ledgers.content(folder)
    answers = [row for row in found["answers"] if row[3] == "search"]
    (body,) = [json.dumps(body) for kind, body in found["events"] if kind == "confirmed"]
    events = [event for event in found["events"] if event[0] != "confirmed"]
    return events, answers, json.loads(body)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["nsga2", "cma_es"])
def test_validation_and_test_never_reach_the_search(family, tmp_path, strategy):
    """With their answers permuted, all that is asked, answered and told in the search stays as it
    was, and so does the shortlist; what is confirmed does not."""
    runs, found = [], []
    for i, splits in enumerate(((), ("validation", "test"))):
        place = tmp_path / f"{i}"
        place.mkdir()
        for name in ("one", "two"):
            (place / f"{name}.jsonl").write_text(permuted(family / f"{name}.jsonl", splits))
        objectives = {n: {"bank": str(place / f"{n}.jsonl"), "signal": "probability"}
                      for n in ("one", "two")}  # fmt: skip
        recipe = families.recipe(family, objectives=objectives, strategy=strategy)
        runs.append(evomerge.search(recipe, place / "run"))
        found.append(searched(place / "run"))
    (events, answers, before), (again, same, after) = found
    assert [kind for kind, _ in events if kind in ("ask", "tell")] and events == again
    assert len(answers) > 18 * 40 and answers == same
    assert before["shortlist"] == after["shortlist"]
    assert runs[0].baselines.rows() != runs[1].baselines.rows()
    shortlisted = [[[scores.tolist() for scores in r.point(label).scores["validation"]]
                    for label in before["shortlist"]] for r in runs]  # fmt: skip
    assert shortlisted[0] != shortlisted[1]


def sometimes(model, tokenizer):
    """Fails for a third of all models, by their weights."""
    total = float(model.get_input_embeddings().weight.sum())
    if int(abs(total) * 1e4) % 3 == 0:
        raise RuntimeError("this model displeases")
    return 0.5


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["sobol", "cma_es", "nsga2", "seeded"])
def test_failed_candidates_do_not_stop_a_run(family, tmp_path, strategy):
    recipe = families.recipe(family, strategy=strategy)
    endpoints = [family / name for name in ("base", "left", "right")]
    models = [AutoModelForCausalLM.from_pretrained(path) for path in endpoints]

    def fussy(model, tokenizer):
        """The endpoints themselves are spared, or there would be no anchors."""
        mine = model.get_input_embeddings().weight
        spared = any(torch.equal(mine, m.get_input_embeddings().weight) for m in models)
        return 0.5 if spared else sometimes(model, tokenizer)

    run = evomerge.search(recipe, tmp_path / "run", objectives={"fussy": fussy})
    assert run.failures() and all("displeases" in r for r in run.failures().values())
    assert not {p.key for p in run.front} & set(run.failures())


def test_ctrl_c_in_the_middle_of_the_search_loses_nothing(family, tmp_path):
    """Between two candidates the search ends; started again, it ends as one left alone."""
    calls = []

    def pressed(model, tokenizer):
        calls.append(1)
        if len(calls) == 9:  # three are the endpoints'
            signal.raise_signal(signal.SIGINT)
        return 0.5

    def search(folder):
        return evomerge.search(families.recipe(family), folder, objectives={"pressed": pressed})

    with pytest.raises(errors.Interrupted, match="run the same command again"):
        search(tmp_path / "stopped")
    assert 9 <= len(calls) <= 10
    done = ledgers.content(tmp_path / "stopped")["answers"]
    assert {plan for plan, objective, *_ in done if objective == "pressed"}
    search(tmp_path / "stopped")
    once = len(calls)
    search(tmp_path / "whole")
    assert len(calls) - once == once
    assert ledgers.content(tmp_path / "stopped") == ledgers.content(tmp_path / "whole")


HASTY = """
from evomerge.executors import inline

class Executor(inline.Executor):
    def close(self):
        raise KeyboardInterrupt
"""


def test_ctrl_c_while_workers_end_gives_the_folder_back(family, tmp_path, monkeypatch):
    """To the same process, as in a notebook."""
    (tmp_path / "hasty_lab").mkdir()
    (tmp_path / "hasty_lab" / "hasty.py").write_text(HASTY)
    monkeypatch.syspath_prepend(tmp_path)
    recipe = families.recipe(family, budget={"candidates": 6})
    with pytest.raises(KeyboardInterrupt):
        evomerge.search({**recipe, "executor": "hasty_lab.hasty"}, tmp_path / "run")
    assert evomerge.search(recipe, tmp_path / "run").is_confirmed


def test_too_many_failures_end_a_run(family, tmp_path):
    calls = []

    def once(model, tokenizer):
        calls.append(1)
        if len(calls) > 3:
            raise RuntimeError("no more")
        return 0.5

    with pytest.raises(errors.TooManyFailures, match=r"RuntimeError: no more"):
        evomerge.search(families.recipe(family), tmp_path / "run", objectives={"once": once})


def test_a_worker_changes_only_what_differs(family, run):
    """A, B, A: the third build gives the first's answers."""
    worker = Worker(resolve(families.recipe(family)).setup)
    a, b = run.plan("best"), run.plan("TIES")
    bits = []
    for plan in (a, b, a):
        worker.live.build(plan)
        bits.append({name: t.clone() for name, t in worker.model.state_dict().items()})
    assert all(torch.equal(bits[0][name], bits[2][name]) for name in bits[0])
    assert not all(torch.equal(bits[0][name], bits[1][name]) for name in bits[0])


@pytest.mark.slow
def test_ray_and_inline_give_the_same_ledger(family, tmp_path):
    """Without an address, on a cluster of its own, whichever others are there."""
    recipe = families.recipe(family, deterministic=True)
    evomerge.search(recipe, tmp_path / "inline")
    with_ray = {**recipe, "executor": {"name": "ray", "workers": 2}}
    done = subprocess.run(
        [sys.executable, "-c", SEARCH, str(tmp_path / "ray")], input=repr(with_ray), text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "RAY_ADDRESS": "127.0.0.1:1"},
        timeout=300, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ledgers.content(tmp_path / "ray") == ledgers.content(tmp_path / "inline")


@pytest.mark.slow
def test_an_asynchronous_run_on_ray_resumes(family, tmp_path):
    recipe = families.recipe(family, executor={"name": "ray", "workers": 2})
    for candidates in (8, 16):
        recipe["budget"] = {"candidates": candidates}
        done = subprocess.run(
            [sys.executable, "-c", SEARCH, str(tmp_path / "run")], input=repr(recipe), text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, timeout=300,
            capture_output=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    run = evomerge.Run(tmp_path / "run")
    assert len(run.asked()) == 16 and np.isfinite(run.chosen.mean("test"))


def test_a_strategy_that_waits_is_asked_again_when_it_is_told(family, tmp_path):
    """A generation of six ends while the last answers are awaited; a session that ends then goes
    on as if it had not."""
    recipe = families.recipe(family, executor="tests.ticking", budget={"candidates": 12})

    def stop(event, facts):
        if (
            event == "told"
            and len(facts["search"].candidates) == 6
            and facts["search"].outstanding
        ):
            raise KeyboardInterrupt

    evomerge.search(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        evomerge.search(recipe, tmp_path / "cut", report=stop)
    evomerge.search(recipe, tmp_path / "cut")
    done = ledgers.content(tmp_path / "whole")
    events = [(kind, body) for kind, body in done["events"] if kind in ("ask", "tell")]
    empty = [kind == "ask" and not body["proposals"] for kind, body in events]
    assert any(empty)
    assert all(
        kind == "tell" for (kind, _), waits in zip(events[1:], empty, strict=False) if waits
    )
    assert ledgers.content(tmp_path / "cut") == done


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/net")
def test_ray_listens_to_this_machine_alone(family, tmp_path):
    objectives = {"one": str(family / "one.jsonl"), "alone": {"function": "tests.listeners:score"}}
    recipe = families.recipe(
        family, executor={"name": "ray", "workers": 1}, objectives=objectives,
        budget={"candidates": 6},
    )  # fmt: skip
    paths = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", SEARCH, str(tmp_path / "run")], input=repr(recipe), text=True,
        env={**os.environ, "PYTHONPATH": paths, listeners.MARK: str(tmp_path)}, timeout=300,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not evomerge.Run(tmp_path / "run").failures()


def test_the_public_names():
    assert sorted(evomerge.__all__) == evomerge.__all__
    assert evomerge.search is api.search


@pytest.mark.slow
def test_a_search_by_surrogates_says_how_well_they_fit(family, tmp_path):
    """Random models answer at random: the fit is poor, and stays so after a resume."""
    said = []
    changes = {
        "space": {"blocks": 1, "genes": {"weight@embedding": 0.3}},
        "strategy": {"name": "map", "population": 4},
    }
    for candidates in (13, 18):
        recipe = families.recipe(family, budget={"candidates": candidates}, **changes)
        search = Search(resolve(recipe), tmp_path / "run", lambda *event: said.append(event))
        search.run()
    notes = [data["text"] for event, data in said if event == "note"]
    notes = [text for text in notes if text.startswith("map: ")]
    assert notes[:2] == notes[2:]
    assert notes[0].startswith("map: surrogates explain ")
    assert notes[0].endswith(" of two, by 12 candidates")
    assert notes[1] == "map: a surrogate explains less than 0.8: another strategy goes on"
