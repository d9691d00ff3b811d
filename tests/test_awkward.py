"""The cases that a contract has to carry without a special case."""

import dataclasses
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import evomerge
from evomerge import errors, passes
from evomerge.api import plan_of
from evomerge.materialize import Merged, Workshop
from evomerge.maths import sparsify
from evomerge.plan import nested
from evomerge.recipe import resolve
from tests import families, ledgers


def whole(plan, tile):
    """All tensors of a plan, merged in tiles of the given size."""
    workshop = dataclasses.replace(Workshop.of(plan), tile=tile)
    merged = Merged(plan, workshop)
    return {name: merged.read(name) for name in merged.tensors}


def ties_plan(family, **genes):
    names = {"left": family / "left", "right": family / "right"}
    return plan_of(family / "base", names, "ties", **genes)


@pytest.mark.parametrize("scope", ["model", "tensor", "row"])
@pytest.mark.parametrize("balanced", ["base", pytest.param("majority", marks=pytest.mark.slow)])
def test_ties_is_the_same_in_any_tiles(family, scope, balanced):
    plan = ties_plan(
        family, density=0.3, weight=[1, -0.5], threshold_scope=scope, balanced=balanced
    )
    untiled = whole(plan, 10**9)
    for tile in (509, 4096):
        tiled = whole(plan, tile)
        assert all(torch.equal(tiled[name], untiled[name]) for name in untiled)


@pytest.fixture
def small_sample(monkeypatch):
    """One pass brackets thresholds by a sample, which a model of this size is too small for."""
    monkeypatch.setattr(sparsify, "_LEAST_SAMPLE", 50)
    monkeypatch.setattr(sparsify, "_MOST_CELLS", 2**21)
    monkeypatch.setattr(passes, "SAMPLED", 1)


@pytest.mark.parametrize("scope", ["model", "tensor"])
@pytest.mark.parametrize("density", [0.3, pytest.param(1.0, marks=pytest.mark.slow)])
def test_ties_in_one_pass_has_the_bits_of_all_passes(family, small_sample, scope, density):
    """A merge without a search looks for one threshold, between bounds that a sample gives."""
    plan = ties_plan(family, density=density, weight=[1, 0.5], threshold_scope=scope)
    brief = Merged(plan, Workshop.of(plan))
    full = Merged(plan, dataclasses.replace(Workshop.of(plan), once=False))
    assert all(torch.equal(brief.read(name), full.read(name)) for name in full.tensors)
    some = [brief.stats(name)["thresholds"].isnan().any() for name in brief.mergeable]
    assert any(some) == (density < 1)


def test_two_nested_plans_of_ties_have_thresholds_of_their_own(family, small_sample):
    """In one pass, which looks for those of one density alone."""
    names = {name: family / name for name in ("left", "right")}
    inner = [
        nested(ties_plan(family, density=density), name)
        for name, density in zip(names, (0.2, 0.8), strict=True)
    ]
    outer = plan_of(family / "base", names, "linear", weight=[0.5, 0.5])
    plan = outer.model_copy(update={"experts": tuple(inner)})
    brief = Merged(plan, Workshop.of(plan))
    full = Merged(plan, dataclasses.replace(Workshop.of(plan), once=False))
    assert all(torch.equal(brief.read(name), full.read(name)) for name in full.tensors)


def test_a_gene_that_a_plan_does_not_name_has_its_default(family):
    """Even the one that says over what statistics are pooled."""
    named = ties_plan(family, density=0.3)
    steps = {
        group: step.model_copy(update={"genes": {"density": step.genes["density"]}})
        for group, step in named.groups.items()
    }
    found, expected = whole(named.model_copy(update={"groups": steps}), 4096), whole(named, 4096)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_thresholds_of_ties_are_those_of_the_whole_model(family):
    """Against the definition: one flat vector a model, sorted."""
    plan = ties_plan(family, density=0.25)
    sources = [Merged(plan, Workshop.of(plan)).base, *Merged(plan, Workshop.of(plan)).experts]
    base, *experts = [torch.cat([s.read(n).flatten() for n in s.tensors]) for s in sources]
    task_vectors = torch.stack(experts) - base
    kept = round(0.25 * base.numel())
    limit = task_vectors.abs().topk(kept, dim=1).values[:, -1:]
    trimmed = torch.where(task_vectors.abs() >= limit, task_vectors, 0.0)
    sign = trimmed.sum(0).sign()
    agrees = trimmed.sign() == sign
    mean = (trimmed * agrees).sum(0) / (agrees & (trimmed != 0)).sum(0).clamp(min=1)
    found = torch.cat([tensor.flatten() for tensor in whole(plan, 1000).values()])
    assert torch.allclose(found, base + mean, atol=1e-7)


@settings(max_examples=10)
@given(first=st.floats(0, 1.5), second=st.floats(0, 1))
def test_a_plan_can_be_an_input_of_a_plan(family, first, second):
    """Task arithmetic over a task-arithmetic merge is task arithmetic over the experts."""
    inner = plan_of(
        family / "base", {"left": family / "left"}, weight=first, operator="task_arithmetic"
    )
    two = {"left": family / "left", "right": family / "right"}
    outer = plan_of(family / "base", two, "task_arithmetic", weight=[second, 0.5])
    stacked = outer.model_copy(update={"experts": (nested(inner, "left"), outer.experts[1])})
    flat = plan_of(
        family / "base", two, "task_arithmetic", weight=[round(second, 6) * round(first, 6), 0.5]
    )
    found, expected = whole(stacked, 1000), whole(flat, 10**6)
    assert stacked.key != flat.key
    assert all(torch.allclose(found[n], expected[n], atol=1e-5) for n in expected)


def test_nested_plans_take_statistics_of_their_inputs(family, tmp_path):
    """TIES over a nested plan, tiled or saved, has the bits of TIES over that plan saved first."""
    inner = plan_of(family / "base", {"left": family / "left"}, "task_arithmetic", weight=0.7)
    outer = ties_plan(family, density=0.5)
    stacked = outer.model_copy(update={"experts": (nested(inner, "left"), outer.experts[1])})
    from evomerge.live import save

    folder = save(inner, Workshop.of(inner), tmp_path / "inner")
    names = {"left": folder, "right": family / "right"}
    saved = plan_of(family / "base", names, "ties", density=0.5)
    found, expected = whole(stacked, 1000), whole(saved, 10**6)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("strategy", [pytest.param("sobol", marks=pytest.mark.slow), "nsga2"])
def test_a_choice_of_operators_is_searched(family, tmp_path, strategy):
    recipe = families.recipe(
        family, operator=["ties", "task_arithmetic", "dare"], strategy=strategy,
        space={"blocks": 1, "genes": {"ties.reducer": "search"}}, budget={"candidates": 30},
    )  # fmt: skip
    run = evomerge.search(recipe, tmp_path / "run")
    assert len(run.front) >= 1
    plans = [run._ledger.plan(key) for key in run.asked().values()]
    used = {step["operator"] for plan in plans for step in plan["groups"].values()}
    assert used == {"ties", "task_arithmetic", "dare"}
    for plan in plans:
        for step in plan["groups"].values():
            assert ("reducer" in step["genes"]) == (step["operator"] == "ties")


def test_a_choice_is_refused_by_name_where_only_numbers_are_searched(family):
    recipe = families.recipe(family, operator=["ties", "task_arithmetic"], strategy="cma_es")
    del recipe["space"]
    with pytest.raises(errors.RecipeError, match=r"cma_es.*'operator' is a choice.*nsga2"):
        resolve(recipe)


GROWING = """
    from evomerge.plugins import Proposal
    from evomerge.strategies import sobol

    class Strategy(sobol.Strategy):
        \"\"\"Every candidate is asked for at 10 items, and again at 30.\"\"\"

        def __init__(self, space, objectives, *, seed):
            super().__init__(space, objectives, seed=seed)
            self.again, self.told = [], []

        def ask(self, n):
            if self.again:
                return [self.again.pop(0)]
            return [Proposal(p.id, p.point, items=10) for p in super().ask(1)]

        def tell(self, observations):
            super().tell(observations)
            for o in observations:
                self.told.append((o.id, o.items))
                if o.items == 20:  # two banks
                    self.again.append(Proposal(o.id, o.point, items=30))
"""


@pytest.mark.slow
def test_a_candidate_is_told_twice_with_a_kill_between(family, tmp_path):
    """Killed after each number of recorded events in turn, the run ends like an untouched one."""
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "growing.py").write_text(textwrap.dedent(GROWING))
    recipe = families.recipe(
        family,
        strategy={"name": "lab.growing"},
        fidelity="all",
        budget={"candidates": 3},
        batch=10,
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-m", "tests.kill_at_events"]
    arguments = [str(tmp_path / "killed"), str(tmp_path / "whole")]
    done = subprocess.run(
        [*command, *arguments], input=repr(recipe), text=True, env=environment, timeout=600,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    killed, untouched = (ledgers.content(tmp_path / name) for name in ("killed", "whole"))
    assert killed == untouched
    told = [row for kind, body in untouched["events"] if kind == "tell" for row in body]
    assert [(row["id"], row["items"]) for row in told] == [
        (0, 20), (0, 60), (1, 20), (1, 60), (2, 20),
    ]  # fmt: skip
