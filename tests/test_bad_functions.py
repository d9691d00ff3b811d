"""Objectives of the user's own that do not do what they should."""

import json

import numpy as np
import pytest

import evomerge
from evomerge import errors
from evomerge.report import marks
from tests import command, families

FUNCTIONS = """
import sys

calls = []

def two(model, tokenizer): return 2.0
def none(model, tokenizer): return None
def nan(model, tokenizer): return float("nan")
def boom(model, tokenizer): raise RuntimeError("[red]boom[/nothing]")
def leave(model, tokenizer): sys.exit(3)
def narrow(): return 0.5

def later(model, tokenizer):
    calls.append(1)
    if len(calls) > 3:
        raise RuntimeError("boom")
    return 0.5
"""


@pytest.fixture
def functions(family, tmp_path, monkeypatch):
    """A recipe whose objective is one of a module's functions."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "bad_functions.py").write_text(FUNCTIONS)

    def write(name):
        objective = {"a": {"function": f"bad_functions:{name}"}}
        changes = {"strategy": "sobol", "fidelity": "all", "budget": {"candidates": 12}}
        return command.write(tmp_path, families.recipe(family, objectives=objective, **changes))

    return write


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("two", "objective 'a': expected a number in [0, 1], got 2.0"),
        ("none", "expected a number in [0, 1], got None"),
        ("nan", "expected a number in [0, 1], got nan"),
        ("boom", "objective 'a': RuntimeError: [red]boom[/nothing]"),
        ("leave", "objective 'a': SystemExit: 3"),
        ("narrow", "takes 0 positional arguments but 2 were given"),
    ],
)
def test_a_base_without_a_score_ends_the_search(refused, tmp_path, functions, name, says):
    path, folder = functions(name), tmp_path / "run"
    refused("search", path, "-o", folder, code=errors.INPUT, says=["base can not be scored", says])


@pytest.mark.slow
def test_an_objective_that_was_put_right_goes_on(family, tmp_path):
    def objective(model, tokenizer):
        if broken:
            raise RuntimeError("not yet")
        return 0.5

    recipe = families.recipe(family, budget={"candidates": 6})
    broken = True
    with pytest.raises(errors.InputError, match=r"base can not be scored.*not yet"):
        evomerge.search(recipe, tmp_path, objectives={"own": objective})
    broken = False
    run = evomerge.search(recipe, tmp_path, objectives={"own": objective})
    assert run.is_confirmed and run.failures() == {}


def test_nothing_new_is_scored_without_a_function(family, tmp_path, refused):
    """One that was given in Python, which no command has; it is named. Here there is no other."""
    run = evomerge.search(
        families.recipe(family, objectives={}, budget={"candidates": 6}), tmp_path / "run",
        objectives={"own": lambda model, tokenizer: 0.5},
    )  # fmt: skip
    assert run.objectives == ["own"] and run.is_confirmed
    says = "objective 'own' was given in Python and is not in the recipe"
    refused("between", run.folder, "base", run.front[0].label, code=errors.USAGE, says=says)


def test_too_many_failures_end_the_search(refused, tmp_path, functions):
    says = [
        "12 of the last 12 candidates failed; most often: objective 'a': RuntimeError: boom", "-o",
        "The first of them:", 'bad_functions.py", line', "in later",
    ]  # fmt: skip
    path = functions("later")
    refused("search", path, "-o", tmp_path / "run", code=errors.FAILURES, says=says)


def test_numbers_of_numpy_and_torch_are_scores():
    import numpy as np
    import torch

    from evomerge.scorers import function

    for value, score in ((np.float32(0.5), 0.5), (torch.tensor(0.25), 0.25), (True, 1.0)):
        bank = function.bank("own", lambda model, tokenizer, value=value: value)
        batch = function.prepare(None, bank.items[:1], **bank.options)
        assert function.score(None, batch) == {"score": [score]}


def test_one_number_has_no_interval(family, tmp_path, monkeypatch, run):
    """An objective that is a function gives one number a model: there is nothing to draw anew."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "one_number.py").write_text(
        "def small(model, tokenizer):\n"
        "    return 1 / (1 + sum(float(p.square().mean()) for p in model.parameters()))\n"
    )
    objectives = {"small": {"function": "one_number:small"}}
    recipe = families.recipe(family, objectives=objectives, budget={"candidates": 6})
    file = command.write(tmp_path, recipe | {"fidelity": "all", "strategy": "sobol"})
    code, out, _ = run("search", file, "-o", tmp_path / "run")
    assert code == 0 and "<0.001" not in out and "0.001" not in out and "nan" not in out
    searched = evomerge.Run(tmp_path / "run")
    assert all(
        np.isnan(row[key]) for row in searched.comparisons() for key in ("low", "p", "p_holm")
    )
    assert np.isnan(searched.hypervolume(searched.front)[1:]).all()
    row = json.loads(searched.to_json())["chosen_against"][0]
    assert row["low"] is None and row["p_holm"] is None and row["difference"] is not None
    page = (tmp_path / "run" / "report.html").read_text()
    assert "does not say whether it is chance" in page and "paired interval" not in page
    assert all(map(np.isnan, marks._mean_interval(searched.chosen)))
