"""What every file of strategies/ keeps to: valid points, any order of tells, exact replay."""

import json
import random
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from evomerge import errors, plugins
from evomerge.genome import Gene, Space
from evomerge.maths import pareto
from evomerge.plugins import Observation
from tests.landscapes import (
    CASES,
    NAMES,
    make,
    mixed,
    numeric,
    observed,
    points,
    search,
    seen,
    spaces_for,
    through_json,
)

STRATEGY = pytest.mark.parametrize(("name", "options"), CASES, ids=[*NAMES, "seeded-nsga2"])


@STRATEGY
@pytest.mark.parametrize("dimension", [1, 2, 24])
def test_proposals_are_valid_canonical_and_have_dense_ids(name, options, dimension):
    space = numeric(dimension)
    told = search(make(name, options, space), 60)
    assert [o.id for o in told] == list(range(60))
    for o in told:
        assert all(type(unit) is float for unit in o.point)
        assert np.array_equal(space.canonical(o.point), o.point)
    for point in make(name, options, space).incumbents():
        assert np.array_equal(space.canonical(point), point)


@STRATEGY
def test_how_asks_are_cut_up_changes_nothing(name, options):
    for space in spaces_for(name, options):
        runs = [search(make(name, options, space), 160, chunk) for chunk in (1, 3, 8)]
        assert points(runs[0]) == points(runs[1]) == points(runs[2])


@STRATEGY
def test_another_seed_is_another_search(name, options):
    first, other = (search(make(name, options, numeric(3), seed=s), 60) for s in (1, 2))
    assert points(first) != points(other)


@STRATEGY
def test_the_order_of_tells_and_repeated_tells_change_nothing(name, options):
    """As long as the set completes; half of it first, the rest after another ask."""
    for space in spaces_for(name, options):
        strategies = [make(name, options, space) for _ in range(4)]
        for turn in range(12):
            batches = [strategy.ask(16) for strategy in strategies]
            assert batches[0] and all(batch == batches[0] for batch in batches)
            told = [seen(p, fails=lambda id: id % 5 == 0) for p in batches[0]]
            shuffled = random.Random(turn).sample(told, len(told))
            strategies[0].tell(told)
            strategies[1].tell(shuffled)
            for o in shuffled:
                strategies[2].tell([o])
            if turn == 0:  # the latest counts, as long as nothing is drawn from it
                strategies[3].tell([replace(told[0], losses=(9.0, 9.0))])
                strategies[3].tell(told[1:-1])
                strategies[3].tell([told[0]])
            strategies[3].tell(told)
            strategies[3].tell(shuffled)


@STRATEGY
def test_what_is_missing_may_come_later(name, options):
    space = numeric(3)
    strategy = make(name, options, space)
    waiting, ids = [], []
    for _ in range(30):
        proposals = strategy.ask(7)
        ids += [p.id for p in proposals]
        waiting += proposals
        half = len(waiting) // 2 if proposals else len(waiting)
        strategy.tell([seen(p) for p in waiting[:half]])
        waiting = waiting[half:]
    assert len(ids) > 60
    assert ids == list(range(len(ids)))


class Driver:
    """An asynchronous search: events come at random, and are written down."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.flying, self.done = [], []

    def event(self, strategy):
        """Do one thing to the strategy and return what was done, as JSON would hold it."""
        if self.random.random() < 0.4:
            proposals = strategy.ask(self.random.randint(1, 6))
            self.flying += proposals
            return ["ask", [[p.id, list(p.point)] for p in proposals]]
        self.random.shuffle(self.flying)
        count = self.random.randint(0, 4)
        landed, self.flying = self.flying[:count], self.flying[count:]
        told = [seen(p, fails=lambda id: self.random.random() < 0.1) for p in landed]
        if self.done and self.random.random() < 0.2:  # once more, with more items
            old = self.random.choice(self.done)
            told.append(observed(old.id, old.point, tuple(self.random.random() for _ in "mm")))
        self.done += told
        strategy.tell(told)
        return ["tell", [[o.id, o.point, o.losses] for o in told]]


def replay(strategy, events):
    for kind, content in json.loads(json.dumps(events)):
        if kind == "tell":
            strategy.tell([through_json(Observation(*entry)) for entry in content])
        elif content:
            asked = strategy.ask(len(content))
            assert [[p.id, list(p.point)] for p in asked] == content
        else:
            assert strategy.ask(1) == []


@STRATEGY
def test_a_killed_search_continues_bit_for_bit(name, options):
    for space in spaces_for(name, options):
        whole, driver = make(name, options, space), Driver(5)
        events = [driver.event(whole) for _ in range(300)]
        for kill in random.Random(name).sample(range(300), 4):
            strategy, driver = make(name, options, space), Driver(5)
            for _ in range(kill):
                driver.event(strategy)
                np.random.random(3)
            resumed = make(name, options, space)
            replay(resumed, events[:kill])
            np.random.seed(kill)
            assert [driver.event(resumed) for _ in range(300 - kill)] == events[kill:]
            assert resumed.incumbents() == whole.incumbents()


@STRATEGY
def test_global_generators_are_not_touched(name, options):
    np.random.seed(3)
    random.seed(3)
    before = np.random.get_state()[1].tolist(), np.random.get_state()[2:], random.getstate()
    search(make(name, options, numeric(3)), 100)
    after = np.random.get_state()[1].tolist(), np.random.get_state()[2:], random.getstate()
    assert before == after


FAILING = """
import sys
from evomerge.maths import pareto
from tests.landscapes import CASES, make, numeric, search
for name, options in CASES:
    for objectives in range(1, 6):
        for share in (0, 1, 3, 4):  # quarters of the first candidates
            fails = lambda id: id < 40 and id % 4 < share
            told = search(make(name, options, numeric(4), objectives), 70, 8, objectives, fails)
            left = [o.losses or [float("inf")] * objectives for o in told]
            assert pareto.hypervolume(left, 1.1) > 0
            assert pareto.hypervolume(left[:40], 1.1) > 0 or share == 4
print("done")
"""


def test_failures_neither_hang_nor_crash(request):
    """In a process of its own: hypervolume code can take the whole interpreter with it."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FAILING],
        cwd=request.config.rootpath,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "done\n", done.stderr


@STRATEGY
def test_numbers_that_are_none_count_as_failures(name, options):
    bad, none = make(name, options, numeric(3)), make(name, options, numeric(3))
    for turn in range(10):
        batch = bad.ask(12)
        assert batch == none.ask(12)
        odd = turn % 2 == 0
        bad.tell([replace(seen(p), losses=(0.1, float("inf"))) if odd else seen(p) for p in batch])
        none.tell([replace(seen(p), losses=None) if odd else seen(p) for p in batch])


@STRATEGY
@pytest.mark.parametrize("objectives", [1, 2])
def test_it_beats_quasi_random_search(name, options, objectives):
    if name == "sobol":
        pytest.skip("is the one to beat")

    def volume(name, options, seed):
        told = search(make(name, options, numeric(8), objectives, seed), 240, 8, objectives)
        return pareto.hypervolume([o.losses for o in told], 0.2)

    for seed in range(3):
        assert volume(name, options, seed) > volume("sobol", {}, seed)


@STRATEGY
def test_choices_are_searched_or_refused_by_name(name, options):
    space, able = mixed(), [n for n, o in CASES if not plugins.strategy_needs(n, o)]
    if "numbers_only" in plugins.strategy_needs(name, options):
        with pytest.raises(errors.RecipeError, match=f"'{name}' searches numbers only") as refusal:
            make(name, options, space)
        listed = str(refusal.value).split("Strategies that can:")[1]
        assert all(f"'{n}'" in listed for n in able if n in NAMES and n != "seeded")
        assert f"'{name}'" not in listed
        return
    told = search(make(name, options, space), 120)
    models = [space.decode(o.point) for o in told]
    assert {model["method"] for model in models} == {"linear", "ties", "slerp"}
    assert {("density" in model) == (model["method"] == "ties") for model in models} == {True}
    assert len({json.dumps(model) for model in models}) > 80


def test_the_contract_names_those_that_search_choices():
    assert "numbers_only" in plugins.strategy_needs("seeded", {})
    assert not plugins.strategy_needs("seeded", {"inner": {"name": "sobol"}})


@STRATEGY
def test_a_small_space_can_be_exhausted(name, options):
    space = Space([Gene("weight", 0, 1, 0, 0.5)])
    assert {o.point[0] for o in search(make(name, options, space), 150)} == {1 / 6, 0.5, 5 / 6}


@STRATEGY
def test_start_is_known_and_not_an_option(name, options):
    with pytest.raises(errors.RecipeError, match="unknown option 'start'"):
        make(name, {**options, "start": ()}, numeric(2))
    module = plugins.load("strategy", name)
    if not plugins.takes(module.Strategy, "start"):
        return
    start = [((0.5, 0.5), (0.0, 0.0)), ((0.1, 0.1), None), ((0.9, 0.9), (1.0, 1.0))]
    strategy = module.Strategy(numeric(2), ["a", "b"], seed=0, start=start, **options)
    search(strategy, 100)


@STRATEGY
def test_a_recorded_point_counts_where_it_differs_from_the_proposal(name, options):
    """As in a replay on another machine, whose arithmetic led elsewhere."""
    space = numeric(3)
    recorded, elsewhere = make(name, options, space), make(name, options, space)
    for _ in range(8):
        for strategy, shift in ((recorded, 0.0), (elsewhere, 0.1)):
            moved = []
            for p in strategy.ask(24):
                point = tuple(space.canonical(np.array(p.point) + shift).tolist())
                moved.append(seen(replace(p, point=point)))
            strategy.tell(moved)
    if name != "sobol":
        assert recorded.ask(24) != elsewhere.ask(24)
