"""What each strategy promises for itself: its options, restarts, first merges."""

import numpy as np
import pytest

from evomerge import errors
from evomerge.genome import Gene, Space
from evomerge.plugins import Observation, Proposal
from tests.landscapes import NESTED, make, mixed, numeric, search


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("cma_es", {"sigma": 0.1}, "unknown option 'sigma'. Did you mean 'sigma0'"),
        ("cma_es", {"population": 3}, "strategy.cma_es.population: got 3, expected a whole"),
        ("cma_es", {"population": 8.5}, "strategy.cma_es.population: got 8.5"),
        ("cma_es", {"sigma0": 0}, "strategy.cma_es.sigma0: got 0, expected a number"),
        ("cma_es", {"sigma0": "big"}, "strategy.cma_es.sigma0: got 'big'"),
        ("cma_es", {"scalar": "max"}, "strategy.cma_es.scalar: unknown value 'max'"),
        ("cma_es", {"weights": [[1, 1, 1]]}, "strategy.cma_es.weights: got [[1, 1, 1]], expected"),
        ("cma_es", {"weights": [[1, -1]]}, "strategy.cma_es.weights"),
        ("cma_es", {"weights": [[0, 0]]}, "strategy.cma_es.weights"),
        ("cma_es", {"weights": [["a", 1]]}, "strategy.cma_es.weights"),
        ("cma_es", {"weights": []}, "strategy.cma_es.weights"),
        ("nsga2", {"population": 2}, "strategy.nsga2.population: got 2, expected"),
        ("nsga2", {"population": True}, "strategy.nsga2.population: got True"),
        ("seeded", {"inner": "nsga2"}, "strategy.seeded.inner: got 'nsga2', expected a mapping"),
        ("seeded", {"inner": {"name": "nsga"}}, "inner: unknown strategy 'nsga'. Did you mean"),
        ("seeded", {"inner": {"name": "nsga2", "size": 4}}, "unknown option 'size'"),
        ("seeded", {"inner": {"name": "nsga2", "population": 2}}, "inner.nsga2.population: got 2"),
    ],
)
def test_a_wrong_option_is_named(name, options, says):
    with pytest.raises(errors.RecipeError) as refusal:
        make(name, options, numeric(2))
    assert says in str(refusal.value)


def test_a_space_without_genes_is_refused():
    with pytest.raises(errors.RecipeError, match="nothing to search"):
        make("sobol", {}, Space([]))


def test_cma_es_restarts_where_it_is_stuck():
    """Losses that are all equal say nothing: the population doubles."""
    strategy = make("cma_es", {"population": 4}, numeric(2), 1)
    for _ in range(40):
        strategy.tell([Observation(p.id, p.point, (1.0,)) for p in strategy.ask(4)])
    ask = strategy.ask(100)
    assert len(ask) > 4


def test_cma_es_gives_one_mean_per_weighting():
    strategy = make("cma_es", {"weights": [[1, 0], [0, 1]]}, numeric(4))
    search(strategy, 600)
    low, high = np.mean(strategy.incumbents(), axis=1)
    assert low == pytest.approx(0.3, abs=0.05) and high == pytest.approx(0.7, abs=0.05)


def test_seeded_begins_with_the_textbook_merges():
    space = mixed()
    strategy = make(*NESTED, space)
    first = [space.decode(p.point) for p in strategy.ask(50)]
    plain = {"method": "linear", "weight[a]": 0.5, "weight[b]": 0.5, "lift": 0.0}
    assert first == [
        plain,
        {**plain, "method": "ties", "density": round(0.2 * 256) / 256},
        {**plain, "weight[a]": 1.0, "weight[b]": 0.0},
        {**plain, "weight[a]": 0.0, "weight[b]": 1.0},
    ]
    assert strategy.ask(5) == []
    strategy.tell([Observation(id, None, (1.0, 1.0)) for id in range(3)])
    assert strategy.ask(5) == []
    strategy.tell([Observation(3, None, None)])
    assert [p.id for p in strategy.ask(3)] == [4, 5, 6]
    assert isinstance(strategy.ask(1)[0], Proposal)


def test_seeded_leaves_out_what_a_narrowed_range_forbids():
    space = mixed().narrowed("weight[a]", low=0.25).narrowed("density", high=0.1)
    first = [space.decode(p.point) for p in make(*NESTED, space).ask(50)]
    assert [(m["weight[a]"], m["weight[b]"]) for m in first] == [(0.5, 0.5), (1.0, 0.0)]
    low = Space([Gene("weight", 0, 0.5, 0, 1 / 256, expert=e) for e in "ab"])
    points = [tuple(low.decode(p.point).values()) for p in make("seeded", {}, low).ask(9)]
    assert points == [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5)]


def test_cma_es_is_separable_in_high_dimension():
    space = numeric(401)
    told = search(make("cma_es", {"population": 8}, space, 1), 40, objectives=1)
    assert len({o.point for o in told}) == 40


def test_cma_es_instances_share_what_they_find():
    """The second minimises the other loss, and can only have this from the first."""
    strategy = make("cma_es", {"weights": [[1, 0], [0, 1]], "population": 4}, numeric(2))
    first = strategy.ask(8)
    lucky = first[6]
    assert lucky.id % 2 == 0
    strategy.tell([Observation(p.id, p.point, (1.0, 1.0)) for p in first if p is not lucky])
    strategy.tell([Observation(lucky.id, lucky.point, (1.0, -5.0))])
    pulled = next(p.point for p in strategy.ask(8) if p.id % 2)
    start = np.array([0.25, 0.25])
    apart = [np.array(pulled) - start, np.array(lucky.point) - start]
    cosine = apart[0] @ apart[1] / np.linalg.norm(apart[0]) / np.linalg.norm(apart[1])
    assert cosine > 0.5
