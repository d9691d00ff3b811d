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
from evomerge.objectives import Anchor, Losses, exact_anchor
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


def measured(family):
    return {
        "one": str(family / "one.jsonl"),
        "sparsity": {"measure": "sparsity"},
        "near": {"measure": "closeness"},
    }


@pytest.fixture(scope="module")
def run(family, tmp_path_factory):
    recipe = families.recipe(family, operator="breadcrumbs", objectives=measured(family))
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


@pytest.mark.slow
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
    recipe |= {"budget": {"candidates": 8}, "batch": 10}
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


@pytest.mark.slow
def test_one_point_is_chosen_by_skills_unless_measures_are_preferred(run, family, tmp_path):
    """A mean of accuracies and shares of zeros would be one of apples and pears."""
    means = {p.label: p.means("validation") for p in run.front}
    assert len({row[1] for row in means.values()}) > 1  # there is something to trade off
    assert means[run.chosen.label][0] == max(row[0] for row in means.values())
    assert run.prefer().means("validation")[0] == means[run.chosen.label][0]
    assert run.chosen.mean("test") == run.chosen.means("test")[0]
    gain = run.chosen.means("test")[0] - run.baselines[0].means("test")[0]
    assert run.comparisons()[0]["difference"] == pytest.approx(gain)
    recipe = families.recipe(
        family, operator="breadcrumbs", space={"blocks": 1}, objectives=measured(family),
        prefer={"sparsity": 2, "near": 1},
    )  # fmt: skip
    sparse = evomerge.search(recipe, tmp_path / "run")
    rows = {p.label: p.means("validation") for p in sparse.front}
    worth = {label: 2 * sparsity + near for label, (_, sparsity, near) in rows.items()}
    assert worth[sparse.chosen.label] == max(worth.values())
    _, sparsity, near = sparse.chosen.means("test")
    assert sparse.chosen.mean("test") == pytest.approx((2 * sparsity + near) / 3)
    assert sparse.asked() == run.asked()  # what the search does is no matter of the choice


@pytest.mark.slow
def test_the_chosen_point_is_in_the_front_where_scores_are_equal(family, tmp_path):
    """Of merges that answer equally well the nearest to the base alone is nondominated."""
    objectives = {
        "one": {"bank": str(family / "one.jsonl"), "signal": "score"},
        "near": {"measure": "closeness"},
    }
    recipe = families.recipe(
        family, objectives=objectives, space={"blocks": 1, "genes": {"weight": [0, 1]}},
        strategy="sobol", budget={"candidates": 12},
    )  # fmt: skip
    equal = []
    for seed in range(4):
        found = evomerge.search(recipe, tmp_path / str(seed), seed=seed)
        shown = found.confirmed["shortlist"]
        means = dict.fromkeys(shown.values(), 0.0)
        for key, answer in Ledger(found.folder).answers():
            if key in means and (answer.bank, answer.split) == ("one", "validation"):
                means[key] += answer.score
        best = [label for label, key in shown.items() if means[key] == max(means.values())]
        assert found.chosen.label in best and found.chosen.label in found.confirmed["front"]
        equal += best if set(best) - set(found.confirmed["front"]) else []
    assert equal


@pytest.mark.parametrize(
    ("prefer", "says"),
    [
        ({"sparse": 1}, "prefer: unknown objective 'sparse'. Did you mean 'sparsity'"),
        ({"one": 0}, "all weights are 0"),
        ({"one": -1}, "prefer.one"),
    ],
)
def test_preferences_that_are_none_are_refused(family, prefer, says):
    with pytest.raises(errors.RecipeError, match=says):
        resolve(families.recipe(family, objectives=measured(family), prefer=prefer))


def test_measures_alone_weigh_the_same():
    skills, measure = (Anchor(1.0, 0.5, exact=exact) for exact in (False, True))
    assert Losses({"a": skills, "b": measure, "c": skills}, {}).weights({}) == [1, 0, 1]
    assert Losses({"b": measure, "c": measure}, {}).weights({}) == [1, 1]
    assert Losses({"a": skills, "b": measure}, {}).weights({"b": 3.0}) == [0, 3]
