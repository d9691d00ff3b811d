"""Candidates that fail when they are asked more, and what another session makes of it."""

import json

import pytest
from transformers import AutoModelForCausalLM

import evomerge
from evomerge import errors, status
from evomerge.files import bank
from evomerge.report import page
from tests import awful, families, ledgers


@pytest.fixture
def flaky(family, tmp_path, monkeypatch):
    """A bank at whose questions of a split, after the first ones, every second merge fails, or as
    many as the environment says."""
    models = (AutoModelForCausalLM.from_pretrained(family / n) for n in ("base", "left", "right"))
    monkeypatch.setenv("AWFUL_SPARES", str([f"{awful.total(model):.9f}" for model in models]))
    monkeypatch.setenv("FLAKY", "2")

    def make(split, first=0):
        rows = [json.loads(line) for line in (family / "one.jsonl").read_text().splitlines()]
        rows = [{"id": f"q{i}", **row} for i, row in enumerate(rows)]
        keys = {"name": "flaky", "version": 1, "scorer": "tests.flaky", "source": "flaky.jsonl"}
        path = tmp_path / "flaky.yaml"
        path.write_text(json.dumps(keys))
        write(rows)
        late = {item.id for item in bank.load(path).split(split)[first:]}
        write([{**r, "prompt": r["prompt"] + " FLAKY" * (r["id"] in late)} for r in rows])
        return str(path)

    def write(rows):
        lines = "".join(f"{json.dumps(row)}\n" for row in rows)
        (tmp_path / "flaky.jsonl").write_text(lines)

    return make


def stop_after(answers):
    """A report that interrupts after so many."""
    left = [answers]

    def report(event, facts):
        left[0] -= event == "answered"
        if left[0] == 0:
            raise KeyboardInterrupt

    return report


def count(report):
    """A report that counts answers."""
    return lambda event, facts: report.append(event) if event == "answered" else None


def test_who_fails_when_asked_more_has_failed(family, tmp_path, flaky):
    recipe = families.recipe(
        family, objectives={"one": flaky("search", first=10)}, batch=10, fidelity="all",
        strategy={"name": "racing", "rungs": [10, 30], "inner": {"name": "sobol"}},
        budget={"candidates": 8},
    )  # fmt: skip
    run = evomerge.search(recipe, tmp_path / "run")
    told = {}
    for kind, body in ledgers.content(run.folder)["events"]:
        for row in body if kind == "tell" else ():
            told.setdefault(row["id"], []).append(row["losses"] is None)
    failed = [key in run.failures() for key in run.asked().values()]
    assert [rows[-1] for _, rows in sorted(told.items())] == failed
    assert [False, True] in list(told.values())  # it had a score, and lost it
    assert not {point.key for point in run.front} & run.failures().keys()
    assert status.read(run.folder)["failed"] == sum(failed)


@pytest.fixture
def tested(family, flaky):
    """A recipe of which candidates fail on `test`, that has to keep what all do."""
    keep = {"two": {"bank": str(family / "two.jsonl"), "at_least": 0.0}}
    return families.recipe(
        family, objectives={"one": flaky("test")}, keep=keep, strategy="sobol", shortlist=6,
        budget={"candidates": 6}, fidelity="all",
    )  # fmt: skip


@pytest.mark.slow
def test_a_failure_on_test_does_not_change_what_is_chosen(tested, tmp_path, monkeypatch):
    """Neither after an interruption just before the end, nor in an extension."""
    monkeypatch.setenv("FLAKY", "1")
    answered = []
    whole = evomerge.search(tested, tmp_path / "whole", report=count(answered))
    assert {point.key for point in whole.front} <= whole.failures().keys()
    with pytest.raises(KeyboardInterrupt):
        evomerge.search(tested, tmp_path / "cut", report=stop_after(len(answered)))
    evomerge.search(tested, tmp_path / "cut")
    assert ledgers.content(tmp_path / "cut") == ledgers.content(whole.folder)
    evomerge.search(tested, tmp_path / "longer", budget={"candidates": 3})
    longer = evomerge.search(tested, tmp_path / "longer")
    assert {**longer.confirmed, "looks": 1} == whole.confirmed


def test_what_has_no_test_score_is_shown_as_none(tested, tmp_path, run, monkeypatch):
    monkeypatch.setenv("FLAKY", "1")
    searched = evomerge.search(tested, tmp_path / "run", budget={"candidates": 3})
    assert searched.chosen.key in searched.failures()
    (kept,) = json.loads(searched.to_json())["kept"]
    assert kept["test"] is None and kept["mean"] > 0
    code, out, _ = run("front", searched.folder)
    assert code == 0 and "nan" not in out
    assert "nan" not in page._kept(searched)


def test_too_many_failures_are_not_forgotten(family, tmp_path, flaky, monkeypatch):
    monkeypatch.setenv("FLAKY", "1")
    recipe = families.recipe(
        family, objectives={"one": flaky("search")}, strategy="sobol", budget={"candidates": 12}
    )
    for _ in range(2):
        with pytest.raises(errors.TooManyFailures, match="12 of the last 12"):
            evomerge.search(recipe, tmp_path / "run")
        assert status.read(tmp_path / "run")["state"] == "ended: too many candidates failed"
        with pytest.raises(errors.Unconfirmed, match="too many candidates failed"):
            assert evomerge.Run(tmp_path / "run").front


@pytest.mark.slow
def test_who_was_told_is_not_told_again_by_another_session(family, tmp_path):
    """Where several candidates are one plan, whose answers grow after they were told."""
    recipe = families.recipe(
        family, objectives={"one": str(family / "one.jsonl")}, strategy="sobol", batch=4, ask=2,
        seed=0, shortlist=2, operator=["task_arithmetic", "ties", "linear"],
        space={"blocks": 1, "genes": {"weight": 0.5, "density": 0.5}},
        fidelity={"name": "random", "items": 6, "estimator": "stratified", "rotate": 1.0,
                  "every": 4, "calibration": 0},
        budget={"candidates": 14},
    )  # fmt: skip
    answered = []
    whole = evomerge.search(recipe, tmp_path / "whole", report=count(answered))
    done = ledgers.content(whole.folder)
    assert len(set(whole.asked().values())) < len(whole.asked()) == 14
    for number in (16, 25):  # in the search, in the confirmation
        folder = tmp_path / f"cut-{number}"
        with pytest.raises(KeyboardInterrupt):
            evomerge.search(recipe, folder, report=stop_after(number))
        evomerge.search(recipe, folder)
        assert ledgers.content(folder) == done
