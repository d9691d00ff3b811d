"""What becomes of jobs that fail by no fault of their candidate, and of what executors repeat."""

import math
import time
from contextlib import closing
from types import SimpleNamespace

import pytest

import evomerge
from evomerge import desk, errors, worker
from evomerge.budget import WINDOW
from evomerge.files.items import Item
from evomerge.recipe import resolve
from evomerge.session import versions
from evomerge.watch import Reserve, too_many
from evomerge.worker import Job, Worker
from tests import families, ledgers, patient


def searched(folder, recipe, **objectives):
    """A run and what was noted on the way."""
    notes = []

    def report(event, facts):
        if event == "note":
            notes.append(facts["text"])

    return evomerge.search(recipe, folder, objectives=objectives, report=report), notes


@pytest.mark.slow
def test_what_runs_out_of_memory_is_tried_again_with_half_a_batch(family, tmp_path):
    """Once: the second failure is final, and the search goes on."""
    fails = {7, 12, 13}
    calls, models = [], []

    def hungry(model, tokenizer):
        calls.append(1)
        models.append(model)  # kept, so that no later one has its address
        if len(calls) in fails:
            raise MemoryError("no room")
        return 0.5

    recipe = families.recipe(family, strategy="sobol", budget={"candidates": 15})
    run, notes = searched(tmp_path / "run", recipe, hungry=hungry)
    assert list(run.failures().values()) == ["objective 'hungry': MemoryError: no room"]
    again = [note for note in notes if "tried again in a fresh worker" in note]
    assert len(again) == 2 and len({id(model) for model in models}) == 3
    assert run.is_confirmed


def test_half_a_batch_answers_the_same(family):
    problem = resolve(families.recipe(family))
    one = Worker(problem.setup)
    plan = problem.plan([0.5] * len(problem.space))
    blocks = tuple((name, "search", 0) for name in problem.objectives)
    found = [
        one.run(Job(plan.model_dump(mode="json"), plan.key, blocks, halved=halved))
        for halved in (False, True)
    ]
    scores = [[(a.bank, a.item, a.score) for a in result.answers] for result in found]
    assert scores[0] == scores[1] and len(scores[0]) == 40


@pytest.mark.slow
def test_results_that_come_twice_or_late_count_once(family, tmp_path):
    recipe = families.recipe(family, deterministic=True)
    evomerge.search(recipe, tmp_path / "once")
    again = {**recipe, "executor": "tests.stuttering"}
    _, notes = searched(tmp_path / "twice", again)
    assert sum("a late or second result of a job is ignored" in note for note in notes) > 10
    assert ledgers.content(tmp_path / "once") == ledgers.content(tmp_path / "twice")


@pytest.mark.slow
def test_jobs_of_a_resumed_run_may_hang_from_the_first(family, tmp_path):
    """Of a new one nothing is expected yet; then, what the last session has seen is."""
    recipe = families.recipe(
        family, executor="tests.patient", strategy="sobol", budget={"candidates": 6}
    )
    patient.LIMITS.clear()
    evomerge.search(recipe, tmp_path)
    assert patient.LIMITS[0] == math.inf
    patient.LIMITS.clear()
    evomerge.search(recipe, tmp_path, budget={"candidates": 9})
    assert patient.LIMITS[0] == desk.PATIENCE


WAITS = """
import time
from pathlib import Path

def score(model, tokenizer):
    Path({folder!r}, "begun").touch()
    while not Path({folder!r}, "go on").exists():
        time.sleep(0.05)
    return 0.5
"""


@pytest.mark.slow
def test_a_pause_of_the_driver_makes_no_job_slow(family, tmp_path, monkeypatch):
    """Neither one that is being done, which hangs a minute after the pause, nor one whose answers
    have come."""
    ray = pytest.importorskip("ray")
    from evomerge.executors import ray as executors

    now = [time.monotonic()]
    monkeypatch.setattr(executors, "time", SimpleNamespace(monotonic=lambda: now[0]))
    (tmp_path / "waits.py").write_text(WAITS.format(folder=str(tmp_path)))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    objectives = {"waits": {"function": "waits:score"}}
    problem = resolve(families.recipe(family, objectives=objectives))
    plan = problem.plan([0.5] * len(problem.space))
    job = Job(plan.model_dump(mode="json"), plan.key, (("waits", "search", 0),))
    with closing(executors.Executor(problem.setup, workers=1)) as executor:
        executor.submit(job)
        results = executor.completed()
        while not (tmp_path / "begun").exists():
            assert next(results) == []
        now[0] += 3600
        assert executor.overdue(lambda job: 60.0) is None
        (tmp_path / "go on").touch()
        ray.wait(list(executor._running))
        assert executor.overdue(lambda job: -1.0) is None
        (result,) = next(results)
        assert result.failed is None and [answer.score for answer in result.answers] == [0.5]
        (tmp_path / "go on").unlink()
        executor.submit(job)
        for _ in range(6):
            now[0] += 10
            assert executor.overdue(lambda job: 60.0) is None
        now[0] += 1
        assert executor.overdue(lambda job: 60.0).cause == "slow"


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({}, "expected 2 numbers as 'score', got 0"),
        ({"score": [1.0]}, "expected 2 numbers as 'score', got 1"),
        ({"score": [1.0, math.nan]}, "item 'b': expected a finite number as 'score', got nan"),
        ({"score": [1.5, 0.0]}, r"item 'a': expected a number in \[0, 1\] as 'score', got 1.5"),
        ({"score": [1, 0], "margin": [1, math.inf]}, "expected a finite number as 'margin'"),
        ({"score": [1, 0], "margin": [1]}, "expected 2 numbers as 'margin', got 1"),
    ],
)
def test_what_is_no_score(found, says):
    items = [Item(name, "?", (), "x", "search") for name in "ab"]
    with pytest.raises(errors.EvaluationError, match=says):
        list(worker._answers("one", "search", items, found))


def test_more_than_half_of_the_last_candidates():
    """Many failures long ago do not count, nor do few in a short run."""
    reasons = {"x": "boom", "y": "bang"}
    too_many(["x"] * 10, reasons, {})
    too_many([*["x"] * 10, *[None] * 10, *["x"] * 10], reasons, {})
    too_many(["x", None] * 50, reasons, {})
    with pytest.raises(errors.TooManyFailures, match=r"11 of the last 11 .* most often: boom"):
        too_many(["x"] * 11, reasons, {})
    with pytest.raises(errors.TooManyFailures, match=r"11 of the last 20 .* bang[^$]*line 3"):
        too_many([*[None] * 90, *["x"] * 5, *["y"] * 6], reasons, {"y": "line 3"})
    assert WINDOW == 20


def test_below_the_reserve_it_waits(tmp_path):
    free, said, slept = [10, 10, 10, 700], [], []
    reserve = Reserve(tmp_path, 600, free=lambda folder: free.pop(0), sleep=slept.append)
    reserve.wait(said.append, lambda: False)
    assert len(slept) == 2 and "paused: 0 MB are free" in said[0] and "goes on" in said[1]
    Reserve(tmp_path, 600, free=lambda folder: 600).wait(said.append, lambda: False)
    assert len(said) == 2
    Reserve(tmp_path, 600, free=lambda folder: 0).wait(said.append, lambda: True)
    assert len(said) == 3 and "paused" in said[2]


def test_other_inputs_or_libraries_are_refused_unless_one_insists(family, tmp_path, monkeypatch):
    """A run that began with another torch; then, what no insistence changes."""
    recipe = families.recipe(family, budget={"candidates": 6})
    old = {**versions(), "torch": "1.0"}
    with monkeypatch.context() as patch:
        patch.setattr("evomerge.session.versions", lambda: old)
        evomerge.search(recipe, tmp_path)
    says = r"libraries.torch: the run has 1.0, now it is [^$]*--allow-change"
    with pytest.raises(errors.RecipeError, match=says):
        evomerge.search(recipe, tmp_path, budget={"candidates": 9})
    run = evomerge.search(recipe, tmp_path, budget={"candidates": 9}, allow_change=True)
    assert len(run.asked()) == 9
    changed = [body for kind, body in ledgers.content(tmp_path)["events"] if kind == "changed"]
    assert len(changed) == 1 and "torch" in changed[0][0]
    evomerge.search(recipe, tmp_path, budget={"candidates": 9})
    with pytest.raises(errors.RecipeError, match="seed: the run has 3, now it is 4"):
        evomerge.search({**recipe, "seed": 4}, tmp_path, allow_change=True)


def test_a_run_from_before_a_library_was_noted_goes_on(family, tmp_path, monkeypatch):
    """Without insistence, and nothing has changed; from then on it is noted."""
    recipe = families.recipe(family, budget={"candidates": 6})
    new = ("optuna", "scipy", "tokenizers")
    for candidates, noted in (
        (6, {name: x for name, x in versions().items() if name not in new}),
        (9, {**versions(), "scipy": "1.0"}),
    ):
        with monkeypatch.context() as patch:
            patch.setattr("evomerge.session.versions", lambda noted=noted: noted)
            evomerge.search(recipe, tmp_path, budget={"candidates": candidates})
    assert not [kind for kind, _ in ledgers.content(tmp_path)["events"] if kind == "changed"]
    with pytest.raises(errors.RecipeError, match=r"libraries.scipy: the run has 1.0, now it is"):
        evomerge.search(recipe, tmp_path, budget={"candidates": 12})
