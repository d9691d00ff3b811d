"""Objectives that are measures of the model: exact, for the plan as built and as saved."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import evomerge
from evomerge import errors, saving
from evomerge.files.ledger import Ledger
from evomerge.maths import totals
from evomerge.maths.totals import Totals
from evomerge.objectives import exact_anchor
from evomerge.recipe import resolve
from evomerge.scorers import structural
from tests import families


@pytest.mark.parametrize("shape", [(), (1,), (7,), (5, 3)])
def test_totals_are_counts_of_what_is_stored_and_add_up(shape):
    base = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    stored = torch.where(base > 0, base, base * 2).reshape(-1)
    flat = base.reshape(-1)
    whole = totals.of(stored, flat)
    lower = int((base < 0).sum())
    assert (whole.entries, whole.changed, whole.nonzero) == (base.numel(), lower, base.numel())
    below = float(flat.double().clamp(max=0).square().sum())
    assert whole.difference == pytest.approx(below)
    parts = [totals.of(stored[i : i + 1], flat[i : i + 1]) for i in range(len(flat))]
    added = sum(parts, Totals())
    assert (added.entries, added.changed, added.nonzero) == (base.numel(), lower, base.numel())
    assert added.difference == pytest.approx(whole.difference)
    assert added.base == pytest.approx(float(flat.double().square().sum()))


def test_what_rounds_to_the_base_is_no_difference():
    base = torch.tensor([1.0, 1.0, 0.0])
    stored = torch.tensor([1.0 + 1e-6, 1.5, 0.0]).to(torch.bfloat16)
    found = totals.of(stored, base)
    assert (found.changed, found.nonzero, found.difference) == (1, 2, 0.25)


@pytest.mark.parametrize(
    ("measure", "expected"),
    [("sparsity", 0.75), ("weight_sparsity", 0.5), ("closeness", 0.5)],
)
def test_measures_are_their_formulas(measure, expected):
    found = Totals(entries=8, changed=2, nonzero=4, difference=4.0, base=16.0)
    bank = structural.bank("own", measure)
    batch = structural.prepare(None, bank.split("test"), **bank.options)
    assert structural.score(found, batch) == {"score": [expected]}


def test_measures_of_nothing_and_of_what_is_far():
    assert structural.MEASURES["sparsity"](Totals()) == 1.0
    assert structural.MEASURES["closeness"](Totals(1, 1, 1, 9.0, 1.0)) == 0.0
    assert structural.MEASURES["closeness"](Totals(1, 1, 1, 9.0, 0.0)) == 0.0


def test_losses_go_from_the_ideal_to_the_worst_of_base_and_experts():
    scores = [np.array([1.0]), np.array([0.2]), np.array([0.6])]
    anchor = exact_anchor(scores[0], scores[1:])
    assert [anchor.loss(score) for score in (1.0, 0.2, 0.6)] == pytest.approx([0.0, 1.0, 0.5])
    assert exact_anchor(scores[0], scores[:1]).unit == 1.0


@pytest.fixture(scope="module")
def run(family, tmp_path_factory):
    objectives = {
        "one": str(family / "one.jsonl"),
        "sparsity": {"measure": "sparsity"},
        "near": {"measure": "closeness"},
    }
    recipe = families.recipe(family, operator="breadcrumbs", objectives=objectives)
    recipe["space"] = {"blocks": 1}
    return evomerge.search(recipe, tmp_path_factory.mktemp("structural") / "run")


def test_the_search_sees_what_the_saved_file_holds(run, family, tmp_path):
    base = load_file(family / "base" / "model.safetensors")
    for point in run.front[:3]:
        folder = saving.write(run.plan(point.label), tmp_path / point.label)
        merged = load_file(folder / "model.safetensors")
        apart = [(merged[name].double() - base[name].double()).flatten() for name in base]
        task_vector = torch.cat(apart)
        weights = torch.cat([base[name].double().flatten() for name in base])
        sparsity = 1 - float(task_vector.count_nonzero()) / len(task_vector)
        near = 1 - float(task_vector.norm() / weights.norm())
        for split in ("search", "validation", "test"):
            _, found, close = point.means(split)
            assert found == sparsity and close == pytest.approx(near, abs=1e-12)
        assert 0 < sparsity < 1 and point.text(1) == f"{sparsity:.3f}"


def test_base_and_experts_are_measured_against_the_base(run):
    scores = {p.label: p.means("test")[1:] for p in run.baselines}
    assert scores["base"] == [1.0, 1.0]
    assert scores["expert left"][0] < 0.1 and 0 < scores["expert left"][1] < 1
    anchors = run.losses.anchors
    assert anchors["sparsity"].exact and not anchors["one"].exact
    assert anchors["near"].loss(min(s[1] for n, s in scores.items() if "expert" in n)) == 1.0


@pytest.mark.parametrize(
    ("objective", "says"),
    [
        ({"measure": "sparsiti"}, "Did you mean 'sparsity'"),
        ({"measure": "sparsity", "function": "os:sep"}, "either 'bank', 'function' or 'measure'"),
    ],
)
def test_what_can_not_be_measured_is_refused(family, objective, says):
    with pytest.raises(errors.RecipeError, match=says):
        resolve(families.recipe(family, objectives={"a": objective}))


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": {"name": "racing", "rungs": [10, 20]}, "fidelity": "all"},
        {"fidelity": {"name": "stratified", "items": 10}},
        {"fidelity": {"name": "informative", "items": 10, "calibration": 6}},
    ],
    ids=["racing", "stratified", "informative"],
)
def test_what_the_search_is_told_is_exact_however_items_are_chosen(family, tmp_path, changes):
    objectives = {"one": str(family / "one.jsonl"), "sparsity": {"measure": "sparsity"}}
    recipe = families.recipe(family, operator="breadcrumbs", objectives=objectives, **changes)
    recipe["budget"] = {"candidates": 8}
    run = evomerge.search(recipe, tmp_path / "run")
    ledger = Ledger(tmp_path / "run")
    measured = {key: a.score for key, a in ledger.answers() if a.bank == "sparsity"}
    asked = {int(label[1:]): key for label, key in run.asked().items()}
    anchor = run.searched.anchors["sparsity"]
    rows = [row for event in ledger.events("tell") for row in event.body]
    ledger.close()
    assert len(rows) >= 8 and anchor.exact
    for row in rows:
        assert row["losses"][1] == pytest.approx(anchor.loss(measured[asked[row["id"]]]), abs=1e-9)
        assert row["errors"][1] == 0.0
    assert max(row["errors"][0] for row in rows) > 0
