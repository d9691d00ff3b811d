"""Racing: who is promoted, that the best stay in, and how many items that saves."""

import numpy as np
import pytest

import evomerge
from evomerge import errors, status
from evomerge.candidates import Candidate, best_of_front
from evomerge.plugins import Observation
from evomerge.strategies import racing
from tests import families, ledgers
from tests.landscapes import make, numeric


def raced(truth, seed, candidates=40, objectives=2, **options):
    """Bernoulli answers of candidates with true scores `truth(point)`: (ids by items, truths)."""
    strategy = make("racing", {"inner": {"name": "sobol"}, **options}, numeric(2), objectives)
    rng = np.random.default_rng(seed)
    hard = rng.normal(size=(objectives, 400))
    luck = rng.logistic(size=(candidates, objectives, 400))
    scores, asked = {}, {}
    while True:
        new = strategy.ask(4 if len(scores) < candidates else 1)
        if any(p.id >= candidates for p in new):  # nobody is left to promote
            return asked, scores
        told = []
        for p in new:
            scores[p.id], asked[p.id] = truth(p.id), p.items
            logits = np.log(scores[p.id] / (1 - scores[p.id]))
            answers = {
                f"o{m}": {
                    str(i): float(logits[m] + hard[m, i] + 0.5 * luck[p.id, m, i] > 0)
                    for i in range(p.items)
                }
                for m in range(objectives)
            }
            losses = tuple(1 - np.mean(list(row.values())) for row in answers.values())
            told.append(Observation(p.id, p.point, losses, (), p.items, answers))
        strategy.tell(told)


def test_the_best_is_kept_and_most_items_are_saved():
    """40 candidates from .35 to .75 in both objectives: the best is in the last rung."""
    truth = np.random.default_rng(0).permutation(np.linspace(0.35, 0.75, 40))
    kept, items = 0, []
    for seed in range(12):
        asked, scores = raced(lambda id: np.full(2, truth[id % 40]), seed, rungs=[30, 90, 270])
        best = max(scores, key=lambda id: scores[id][0])
        kept += asked[best] == 270
        items.append(np.mean(list(asked.values())))
    assert kept >= 11
    assert np.mean(items) < 0.7 * 270


def test_who_is_best_in_one_objective_is_never_beaten():
    """A front without a dominated candidate: all but a few go on to the end."""
    front = [np.array([a, 1 - a]) for a in np.linspace(0.2, 0.8, 12)]
    ends = [raced(lambda id: front[id % 12], seed, 12, rungs=[20, 60])[0] for seed in range(10)]
    shares = [np.mean(np.array(list(asked.values())) == 60) for asked in ends]
    assert np.mean(shares) > 0.95


@pytest.mark.parametrize(("sparsities", "last"), [((0.5, 0.5), 20), ((0.5, 0.6), 60)])
def test_a_measure_of_the_model_is_no_sample(sparsities, last):
    """Who knows less and is as sparse is beaten, who is sparser is not."""
    strategy = make("racing", {"inner": {"name": "sobol"}, "rungs": [20, 60]}, numeric(2))
    asked, truth = {}, (0.9, 0.1)
    for _ in range(4):
        told = []
        for p in [p for p in strategy.ask(2) if p.id < 2]:
            asked[p.id], right = p.items, truth[p.id] * p.items
            skill = {str(i): float(i < right) for i in range(p.items)}
            answers = {"o0": skill, "o1": {"o1:search": sparsities[p.id]}}
            told.append(Observation(p.id, p.point, (1.0, 1.0), (), p.items, answers))
        strategy.tell(told)
    assert asked == {0: 60, 1: last}


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        (np.zeros(9), 0.5),
        (np.array([1.0, *np.zeros(20)]), 0.5),
        (np.array([1.0, -1.0, 0, 0]), 0.5),
        (np.array([1.0, 2.0, 3.0]), 0.9629),  # t = 3.46 with two degrees of freedom
        (np.array([-1.0, -2.0, -3.0]), 1 - 0.9629),
    ],
)
def test_the_probability_to_be_better(differences, expected):
    assert racing.better(differences[None])[0] == pytest.approx(expected, abs=2e-3)


def test_items_that_one_has_not_answered_do_not_count():
    rows = np.array([[0.1, 0.2, 0.3, np.nan], [np.nan] * 4])
    alone = racing.better(np.array([[0.1, 0.2, 0.3]]))
    assert racing.better(rows).tolist() == pytest.approx([alone[0], 0.5])


@pytest.mark.parametrize("seed", range(4))
def test_who_is_left_out_at_first_could_not_have_been_better(seed):
    """By sums over the items that both have answered; ids and items come in any order."""
    rng = np.random.default_rng(seed)
    scores, told = racing._Scores(), {}
    for id in rng.permutation(23).tolist():
        items = rng.permutation(17)[: rng.integers(6, 18)]
        told[id] = {str(i): float(rng.integers(2)) for i in items}
        scores.keep(id, told[id])
    others = np.array([id for id in told if id != 5])
    apart = scores.above(others, 5)
    for row, other in zip(apart, others, strict=True):
        both = told[other].keys() & told[5].keys()
        known = sorted(told[other][i] - told[5][i] for i in both)
        assert sorted(row[np.isfinite(row)]) == known
    left = scores.may_be_above(others, 5)
    assert left.tolist() == (np.nansum(apart, axis=1) >= 0).tolist()
    assert not (racing.better(apart[~left]) > 0.5).any() and 0 < left.sum() < len(left)


def test_equal_differences_are_sure_only_in_number():
    few, many = (racing.better(np.full((1, n), 0.1))[0] for n in (2, 20))
    assert 0.5 < few < many < 1


def one(strategy, id, score, items, lacks=0.0, keeps=1.0):
    answers = {"o0": {str(i): score + 0.01 * (i % 3) for i in range(items)}}
    strategy.tell([Observation(id, None, (1 - score,), (), items, answers, lacks, keeps)])


def test_promotion_waits_for_nobody_and_comes_first():
    strategy = make("racing", {"inner": {"name": "sobol"}, "rungs": [10, 30]}, numeric(2), 1)
    first = strategy.ask(4)
    assert [(p.id, p.items) for p in first] == [(i, 10) for i in range(4)]
    one(strategy, 2, 0.5, 10)
    again, new = strategy.ask(2)
    assert (again.id, again.items, again.point) == (2, 30, first[2].point)
    assert (new.id, new.items) == (4, 10)
    one(strategy, 0, 0.4, 10)  # worse on every item
    assert strategy.ask(1)[0].id == 5
    one(strategy, 2, 0.5, 30)  # was the last rung
    one(strategy, 1, 0.6, 10)
    one(strategy, 1, 0.6, 10)  # nothing new
    assert [(p.id, p.items) for p in strategy.ask(2)] == [(1, 30), (6, 10)]


@pytest.mark.parametrize(
    ("rebuild", "visits"),
    [
        (0, [10, 30, 90, 270]),
        (10, [10, 30, 90, 270]),
        (11, [30, 90, 270]),
        (60, [90, 270]),
        (61, [90, 270]),
        (91, [270]),
        (1000, [270]),
    ],
)
def test_a_rung_that_costs_less_than_a_build_is_passed_over(rebuild, visits):
    rungs = [10, 30, 90, 270]
    options = {"inner": {"name": "sobol"}, "rungs": rungs, "rebuild": rebuild}
    strategy, asked = make("racing", options, numeric(2), 1), []
    for _ in visits:
        (proposal,) = strategy.ask(1)
        assert proposal.id == 0
        one(strategy, 0, 0.5, proposal.items)
        asked.append(proposal.items)
    assert asked == visits and strategy.ask(1)[0].id == 1


def test_who_lacks_what_has_to_be_kept_beats_nobody_who_does_not():
    """One that surely lacks it stops at once; one that may, goes on unless it is beaten."""
    strategy = make("racing", {"inner": {"name": "sobol"}, "rungs": [10, 30]}, numeric(2), 1)
    strategy.ask(6)
    one(strategy, 0, 0.9, 10, lacks=0.3, keeps=0.01)
    assert strategy.promoted() == 0
    one(strategy, 1, 0.8, 10, lacks=0.05, keeps=0.3)
    assert strategy.promoted() == 1
    one(strategy, 2, 0.7, 10, lacks=0.02, keeps=0.4)  # 1 is likelier to lack something
    one(strategy, 3, 0.6, 10, keeps=0.97)
    one(strategy, 4, 0.5, 10, keeps=0.99)  # 3 is sure enough
    one(strategy, 5, 0.55, 10, lacks=0.03, keeps=0.35)
    assert [(p.id, p.items) for p in strategy.ask(strategy.promoted())] == [
        (id, 30) for id in (1, 2, 3)
    ]


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize(
    "inner",
    [
        {"name": "staged", "first": {"name": "sobol"}, "candidates": 16},
        {"name": "seeded"},
        {"name": "auto"},
        {"name": "map"},
    ],
    ids=["staged", "seeded", "auto", "map"],
)
def test_an_ask_that_is_filled_by_promoted_ones_ends_no_stage_inside(inner, n):
    """In a race in which nobody is beaten, the first stage proposes all that it does without."""
    options = dict(inner)
    first = make(options.pop("name"), options, numeric(2), 1).ask(100)
    strategy = make("racing", {"inner": inner, "rungs": [10, 30]}, numeric(2), 1)
    points = {}
    while len(points) < len(first):
        for p in strategy.ask(n):
            points.setdefault(p.id, p.point)
            one(strategy, p.id, 0.5, p.items)
    assert [points[p.id] for p in first] == [p.point for p in first]


def test_what_the_inner_strategy_has_to_say_is_said():
    strategy = make("racing", {"inner": {"name": "map"}, "rungs": [10]}, numeric(2), 1)
    assert strategy.notes() == []
    for p in strategy.ask(100):
        one(strategy, p.id, p.point[0] / 2, p.items)
    strategy.ask(1)
    assert strategy.notes()[0].startswith("map: surrogates explain 1.00 of o0")


def test_a_candidate_that_fails_later_beats_nobody():
    strategy = make("racing", {"rungs": [10, 30]}, numeric(2), 1)
    strategy.ask(3)
    one(strategy, 0, 0.9, 10)
    strategy.tell([Observation(0, None, None)])
    one(strategy, 1, 0.3, 10)
    assert [p.id for p in strategy.ask(2)] == [0, 1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rungs": [30, 30]}, "strategy.racing.rungs: got [30, 30], expected rising"),
        ({"rungs": [90, 30]}, "strategy.racing.rungs"),
        ({"rungs": []}, "strategy.racing.rungs"),
        ({"rungs": [1, 3]}, "strategy.racing.rungs"),
        ({"confidence": 1.0}, "strategy.racing.confidence"),
        ({"inner": "nsga2"}, "strategy.racing.inner: got 'nsga2', expected a mapping"),
        ({"inner": {"name": "nsga3x"}}, "unknown strategy 'nsga3x'"),
        ({"inner": {"name": "nsga2", "size": 1}}, "unknown option 'size'"),
    ],
)
def test_a_wrong_option_is_named(options, says):
    with pytest.raises(errors.RecipeError) as refusal:
        make("racing", options, numeric(2))
    assert says in str(refusal.value)


@pytest.mark.slow
def test_a_race_in_a_run_is_resumed(family, tmp_path):
    """Extended once, it is the longer run; survivors of the last rung are confirmed."""
    strategy = {"name": "racing", "rungs": [10, 20, 30], "inner": {"name": "sobol"}}
    recipe = families.recipe(family, fidelity="all", strategy=strategy, batch=10)
    whole = evomerge.search(recipe, tmp_path / "whole", budget={"candidates": 9})
    for candidates in (4, 9):
        evomerge.search(recipe, tmp_path / "grown", budget={"candidates": candidates})
    asks = [e for e in ledgers.content(whole.folder)["events"] if e[0] == "ask"]
    wanted = [p["items"] for _, body in asks for p in body["proposals"]]
    assert set(wanted) == {10, 20, 30} and len(wanted) > 9
    most = {p["id"] for _, body in asks for p in body["proposals"] if p["items"] == 30}
    assert {p.label for p in whole.front} <= {f"c{id}" for id in most}
    assert {p.key for p in evomerge.Run(tmp_path / "grown").front}


RACE = {"name": "racing", "rungs": [10, 20, 30], "inner": {"name": "sobol"}}


def asked(folder):
    """The items that each candidate was asked last."""
    asks = [body for kind, body in ledgers.content(folder)["events"] if kind == "ask"]
    return {p["id"]: p["items"] for body in asks for p in body["proposals"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy",
    [
        RACE,
        {"name": "seeded", "inner": RACE},
        {"name": "staged", "first": {"name": "sobol"}, "candidates": 3, "then": RACE},
        {"name": "staged", "first": RACE, "candidates": 12},
        {"name": "restart", "inner": RACE},
    ],
    ids=["alone", "seeded", "then", "first", "restart"],
)
def test_who_comes_last_is_raced_too(family, tmp_path, strategy):
    """A used-up budget of candidates ends no race; nothing is left to do then."""
    recipe = families.recipe(
        family, fidelity="all", strategy=strategy, budget={"candidates": 12}, ask=8, batch=10
    )
    found = evomerge.search(recipe, tmp_path)
    last = asked(tmp_path)
    assert len(last) == 12 and 30 in (last[10], last[11])
    done = ledgers.content(tmp_path)
    assert done["events"][-1][0] == "confirmed"
    assert evomerge.search(recipe, tmp_path).confirmed == found.confirmed
    assert ledgers.content(tmp_path) == done and status.read(tmp_path)["state"] == "confirmed"


@pytest.mark.slow
def test_a_race_that_is_interrupted_at_its_end_goes_on(family, tmp_path):
    recipe = families.recipe(
        family, fidelity="all", strategy=RACE, budget={"candidates": 6}, ask=8, batch=10
    )
    states = []

    class Stopped(Exception):
        pass

    def stop(event, facts):
        if event == "told" and facts["told"][0].asked == 20:
            states.append(status.read(tmp_path / "cut")["state"])
            raise Stopped

    evomerge.search(recipe, tmp_path / "whole")
    with pytest.raises(Stopped):
        evomerge.search(recipe, tmp_path / "cut", report=stop)
    evomerge.search(recipe, tmp_path / "cut")
    assert states == ["in its search"]
    assert ledgers.content(tmp_path / "cut") == ledgers.content(tmp_path / "whole")


@pytest.mark.slow
def test_a_race_that_had_no_items_left_goes_on_with_more(family, tmp_path):
    """Nobody is new, and the run was confirmed: more items are more of the same race."""
    recipe = families.recipe(family, fidelity="all", strategy=RACE, ask=8)
    few = {"candidates": 8, "items": 180 + 8 * 20}  # base and experts answer all 60 each
    evomerge.search(recipe, tmp_path / "grown", budget=few)
    assert 10 in asked(tmp_path / "grown").values()
    before = ledgers.content(tmp_path / "grown")
    evomerge.search(recipe, tmp_path / "grown", budget=few)
    assert ledgers.content(tmp_path / "grown") == before
    evomerge.search(recipe, tmp_path / "grown", budget={"candidates": 8})
    evomerge.search(recipe, tmp_path / "whole", budget={"candidates": 8})
    assert asked(tmp_path / "grown") == asked(tmp_path / "whole")
    assert 30 in asked(tmp_path / "whole").values()


def test_points_without_a_wish_for_items_are_confirmed_beside_the_last_rung():
    """Textbook merges, or another run's points, before a race; who stopped early is not."""
    rows = [(None, (0.2, 0.8)), (30, (0.0, 0.0)), (90, (0.8, 0.2)), (90, (0.9, 0.9))]
    told = [
        Candidate(id, None, f"k{id}", [], rung=rung, losses=losses)
        for id, (rung, losses) in enumerate(rows)
    ]
    assert [c.id for c in best_of_front(told, 4, [1, 1])] == [0, 2]
    assert [c.id for c in best_of_front(told, 1, [0, 1])] == [2]


def test_the_best_mean_is_confirmed_however_few_are():
    """Though the others are the best in something."""
    rows = [(0.0, 0.9, 0.9), (0.9, 0.0, 0.9), (0.9, 0.9, 0.0), (0.15, 0.15, 0.15)]
    told = [Candidate(id, None, f"k{id}", [], losses=losses) for id, losses in enumerate(rows)]
    for n, ids in ((1, [3]), (2, [0, 3]), (3, [0, 1, 3]), (4, [0, 1, 2, 3])):
        assert [c.id for c in best_of_front(told, n, [1, 1, 1])] == ids


def test_who_lacks_what_has_to_be_kept_is_confirmed_only_where_all_do():
    """Though a candidate that keeps it may have a loss that is larger than what lacks is told."""
    rows = [(0.0, (0.0, 3.0)), (0.1, (1.21, 1.21)), (0.2, (1.32, 1.32))]
    told = [
        Candidate(id, None, f"k{id}", [], losses=losses, lacks=lacks)
        for id, (lacks, losses) in enumerate(rows)
    ]
    assert [c.id for c in best_of_front(told, 4, [1, 1])] == [0]
    assert [c.id for c in best_of_front(told[1:], 4, [1, 1])] == [1]


def test_where_something_has_to_be_kept_there_are_as_many_as_there_is_room_for():
    """What a search thinks best may not keep it on other questions, and the next best may."""
    rows = [(0.0, (0.5, 0.5)), (0.0, (0.2, 0.2)), (0.1, (0.1, 0.1)), (0.0, (0.3, 0.6))]
    told = [
        Candidate(id, None, f"k{id}", [], losses=losses, lacks=lacks)
        for id, (lacks, losses) in enumerate(rows)
    ]
    for n, ids in ((1, [1]), (2, [1, 3]), (3, [1, 0, 3]), (4, [1, 0, 3, 2]), (9, [1, 0, 3, 2])):
        assert [c.id for c in best_of_front(told, n, [1, 1], fill=True)] == ids
