"""Strategy sae: its schedule, where it prunes, who survives, and models as sparse as it says."""

import math

import numpy as np
import pytest
from safetensors.torch import load_file

import evomerge
from evomerge import errors, plugins, saving
from evomerge.files.ledger import Ledger
from evomerge.genome import Gene, Space
from evomerge.plan import Plan
from evomerge.plugins import Observation
from evomerge.report import plots
from evomerge.strategies import sae
from tests import families


def space(groups, low=1 / 256):
    genes = [
        Gene("weight", 0, 1, 0.5, expert=e, group=str(g)) for g in range(groups) for e in "ab"
    ]
    genes += [Gene("density", low, 1, max(low, 0.5), 1 / 256, group=str(g)) for g in range(groups)]
    return Space(genes)


def densities(space, point):
    return np.array([v for k, v in space.decode(point).items() if k.startswith("density")])


def test_the_schedule_rises_by_half_a_cosine_and_restarts_over_longer_cycles():
    first = [sae.scheduled(n, 4, 2, 0.1, 0.6) for n in range(4)]
    assert first == pytest.approx([0.35 - 0.25 * math.cos(math.pi * n / 4) for n in range(4)])
    second = [sae.scheduled(n, 4, 2, 0.1, 0.6) for n in range(4, 12)]
    assert second[0] == 0.1 and second[::2] == pytest.approx(first)
    assert sae.scheduled(12, 4, 2, 0.1, 0.6) == 0.1
    assert sae.scheduled(20, 4, 2, 0.1, 0.6) == pytest.approx(0.35)
    assert [sae.scheduled(n, 3, 1, 0.2, 0.2) for n in range(9)] == [0.2] * 9


def test_ranks_are_the_share_of_members_that_are_worse():
    losses = np.array([[0.0, 5.0], [1.0, 4.0], [1.0, 4.0], [7.0, -1.0]])
    assert (sae.ranks(losses) * 3).tolist() == [[3, 0], [1, 1], [1, 1], [0, 3]]


def test_where_it_is_pruned_has_mean_one_and_keeps_proportions():
    assert sae.shares(np.array([0.9, 0.7, 0.8])) == pytest.approx([0.5, 1.5, 1.0])
    assert sae.shares(np.ones(3)).tolist() == [1.0, 1.0, 1.0]


def test_the_crowded_and_the_dominated_leave():
    def leaves(*losses):
        return sae._crowded([(np.zeros(1), np.array(row)) for row in losses])

    assert leaves([0.0, 1.0], [2.0, 2.0], [1.0, 0.0]) == 1
    assert leaves([0.0, 1.0], [0.5, 0.5], [0.45, 0.6], [1.0, 0.0]) == 2
    assert leaves([3.0], [1.0], [2.0]) == 0
    assert leaves([1.0, 1.0], [1.0, 1.0]) == 1


def test_children_are_pruned_as_scheduled_and_inherit_where():
    """Parents that prune one group alone have children that prune it more, at the level's mean."""
    here = space(5)
    strategy = sae.Strategy(here, ["a", "b"], seed=1, population=8)
    keys = {f"density@{g}": 0.5 if g == 2 else 0.95 for g in range(5)}
    parents = [here.encode({**keys, "weight[a]@0": w}) for w in (0.2, 0.8)]
    members = [(p, np.array(f)) for p, f in zip(parents, ([0.0, 1.0], [1.0, 0.0]), strict=True)]
    for number in (0, 20, 39):
        level = sae.scheduled(number, 40, 2, 0.1, 0.6)
        bred = strategy.bred(members, number, np.random.default_rng(number))
        children = [densities(here, next(bred)) for _ in range(20)]
        pruned = 1 - np.array(children)
        inside = pruned.max(axis=1) < 0.99  # nothing was cut off at the gene's end
        assert pruned[inside].mean(axis=1) == pytest.approx(level, abs=1 / 256)
        assert (pruned.argmax(axis=1) == 2).all()
        assert pruned.mean() <= level + 1 / 256


def test_numbers_lie_between_parents_that_agree_on_a_group():
    here = space(3)
    strategy = sae.Strategy(here, ["a", "b"], seed=0, mutation=0.0)
    a, b = here.encode({}), here.encode({"weight[a]@1": 0.9, "weight[b]@1": 0.1})
    bred = strategy.bred([(a, np.zeros(2)), (b, np.ones(2))], 0, np.random.default_rng(0))
    ways = []
    for _ in range(20):
        values = here.decode(next(bred))
        assert values["weight[a]@0"] == values["weight[b]@2"] == pytest.approx(0.5, abs=1e-6)
        way = (values["weight[a]@1"] - 0.5) / 0.4
        assert (0.5 - values["weight[b]@1"]) / 0.4 == pytest.approx(way, abs=1e-5)
        ways.append(way)
    assert 0 <= min(ways) < 0.2 and 0.8 < max(ways) <= 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"least": 0.5, "most": 0.4}, "least is 0.5"),
        ({"most": 1.0}, "strategy.sae.most"),
        ({"population": 3}, "strategy.sae.population: got 3"),
        ({"cycle": 0}, "strategy.sae.cycle: got 0"),
    ],
)
def test_options_out_of_range_are_refused(options, says):
    with pytest.raises(errors.RecipeError, match=says):
        plugins.check_strategy("sae", options, space(2), ["a", "b"], "strategy")


def test_it_says_where_nothing_is_pruned():
    assert "no gene is a density" in sae.explain(Space([Gene("weight")]), ["a"], {})
    assert sae.explain(space(1), ["a"], {}) == ""


def test_a_narrow_range_of_densities_is_kept():
    here = space(2, low=0.8)
    strategy = sae.Strategy(here, ["a"], seed=0, population=4)
    for _ in range(10):
        proposals = strategy.ask(8)
        assert min(densities(here, p.point).min() for p in proposals) >= 0.8
        strategy.tell([Observation(p.id, p.point, (sum(p.point),)) for p in proposals])


def test_models_are_as_sparse_as_the_ledger_says(family, tmp_path):
    objectives = {"one": str(family / "one.jsonl"), "sparse": {"measure": "sparsity"}}
    strategy = {"name": "sae", "population": 6}
    recipe = families.recipe(family, operator="prune", objectives=objectives, strategy=strategy)
    run = evomerge.search(recipe, tmp_path / "run")
    base = load_file(family / "base" / "model.safetensors")
    n = sum(tensor.numel() for tensor in base.values())
    ledger = Ledger(tmp_path / "run")
    recorded = {key: a.score for key, a in ledger.answers() if a.bank == "sparse"}
    densities = {}
    for label, key in list(run.asked().items())[3::3]:
        plan = Plan.parse(ledger.plan(key), label)
        saved = load_file(saving.write(plan, tmp_path / label) / "model.safetensors")
        apart = sum(int((saved[name] != base[name]).sum()) for name in base)
        assert recorded[key] == 1 - apart / n
        wanted = [step.genes["density"] for step in plan.groups.values()]
        assert min(wanted) - 0.01 < apart / n < max(wanted) + 0.01
        densities[label] = apart / n
    ledger.close()
    assert len(set(densities.values())) == len(densities) == 5
    best = run.front[0]
    assert best.means("search")[1] == best.means("test")[1] == recorded[best.key]
    assert run.point(best) == best and run.plan(best).key == best.key
    drawn = plots.optimism(run).layout  # sparsity has no part in the mean
    assert drawn.xaxis.title.text == "mean score in the search (20 items)"
    assert drawn.yaxis.title.text == "mean score on test (20 items)"
