"""What each strategy promises for itself: its options, restarts, first merges."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from evomerge import errors, plugins
from evomerge.genome import Gene, Space
from evomerge.maths import pareto, quadratic, sequences
from evomerge.plugins import Observation, Proposal
from evomerge.recipe import resolve
from evomerge.strategies import nsga3
from tests import families
from tests.landscapes import NESTED, make, mixed, numeric, points, search, seen


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
        ("smsemoa", {"steady": "yes"}, "strategy.smsemoa.steady: got 'yes', expected"),
        ("tpe", {"startup": 0}, "strategy.tpe.startup: got 0, expected at least 1"),
        ("map", {"least_fit": 2}, "strategy.map.least_fit: got 2, expected"),
        ("map", {"otherwise": {"name": "nsga"}}, "map.otherwise: unknown strategy 'nsga'"),
        ("staged", {"candidates": 0}, "strategy.staged.candidates: got 0, expected at least 1"),
        ("staged", {"then": {"name": "cma_es", "sigma0": 0}}, "strategy.cma_es.sigma0: got 0"),
        ("restart", {"inner": {"name": "tpe", "size": 1}}, "restart.inner (tpe): unknown option"),
        ("restart", {"growth": 0.5}, "strategy.restart.growth: got 0.5, expected"),
        ("auto", {"candidates": 3}, "strategy (auto): unknown option 'candidates'"),
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


def tell(strategy, proposals, loss):
    strategy.tell([Observation(p.id, p.point, loss(p)) for p in proposals])


@pytest.mark.parametrize(("objectives", "count"), [(2, 24), (3, 24), (4, 24), (5, 7), (8, 48)])
def test_nsga3_directions_lie_on_the_simplex(objectives, count):
    rows = nsga3.reference_directions(objectives, count)
    assert objectives <= len(np.unique(rows.round(9), axis=0)) == len(rows) <= count
    assert rows.sum(axis=1) == pytest.approx(1) and (rows >= 0).all()
    assert {tuple(row) for row in np.eye(objectives)} <= {tuple(row) for row in rows.round(9)}


def test_nsga3_needs_a_candidate_for_each_objective():
    with pytest.raises(
        errors.RecipeError, match="got 4, expected at least one candidate for each"
    ):
        make("nsga3", {"population": 4}, numeric(2), objectives=5)


@pytest.mark.parametrize("name", ["nsga2", "nsga3", "smsemoa"])
def test_a_steady_state_never_waits_and_repeats_nothing(name):
    strategy = make(name, {"population": 8, "steady": True}, numeric(3))
    first = strategy.ask(20)  # more than the first generation, nothing told
    tell(strategy, first[3:], lambda p: seen(p).losses)
    later = strategy.ask(20)
    tell(strategy, [*first[:3], *later], lambda p: seen(p).losses)
    last = strategy.ask(20)
    asked = [p.point for p in (*first, *later, *last)]
    assert len(asked) == len(set(asked)) == 60


def test_a_steady_state_learns_from_each_child():
    """From one good child the next ones descend; a generation would have to be told first."""
    strategy = make("nsga2", {"population": 8, "steady": True}, numeric(12), 1)
    for _ in range(60):
        tell(strategy, strategy.ask(1), lambda p: (float(np.mean(p.point)),))
    waiting = make("nsga2", {"population": 8}, numeric(12), 1)
    told = search(waiting, 60, 1, 1)
    children = [np.mean(strategy.ask(1)[0].point) for _ in range(8)]
    assert np.mean(children) < np.mean([o.point for o in told[:8]]) - 0.1


def test_tpe_has_no_parameter_for_a_gene_that_does_not_act():
    space = mixed()
    strategy = make("tpe", {"startup": 4}, space)
    for o in search(strategy, 40):
        trial = strategy._study.trials[o.id]
        active = space.decode(o.point)
        assert ("density" in trial.params) == ("density" in active)
        assert trial.params["method"] == active["method"]


def test_quadratics_are_recovered_and_errors_are_those_of_points_left_out():
    draw = np.random.default_rng(0)
    x, beta = draw.random((17, 3)), draw.standard_normal((quadratic.n_terms(3), 2))
    exact = quadratic.fit(x, quadratic.terms(x) @ beta)
    assert exact.coefficients == pytest.approx(beta) and exact.explained == pytest.approx(1)
    y = quadratic.terms(x) @ beta + 0.3 * draw.standard_normal((17, 2))
    rest = [np.arange(17) != i for i in range(17)]
    left_out = [quadratic.fit(x[r], y[r])(x[i])[0] - y[i] for i, r in enumerate(rest)]
    means = [y[r].mean(axis=0) - y[i] for i, r in enumerate(rest)]
    expected = 1 - np.square(left_out).sum(axis=0) / np.square(means).sum(axis=0)
    assert quadratic.fit(x, y).explained == pytest.approx(expected)
    assert quadratic.fit(x, np.ones((17, 1))).explained == [1]


@pytest.mark.parametrize("x", [np.zeros((9, 1)), np.linspace(0, 1, 3)[:, None], np.empty((0, 1))])
def test_too_few_points_for_a_quadratic_are_refused(x):
    with pytest.raises(ValueError, match="do not determine 3 coefficients"):
        quadratic.fit(x, np.ones((len(x), 1)))


def test_map_finds_the_front_of_quadratic_losses_in_one_round():
    """Between the two centres: all genes equal, from 0.3 to 0.7."""
    space = numeric(3)
    strategy = make("map", {}, space)
    search(strategy, 2 * quadratic.n_terms(3))
    asked = np.array([p.point for p in strategy.ask(24)])
    assert len(asked) >= 12
    apart = np.abs(asked - asked.mean(axis=1, keepdims=True)).max(axis=1)
    assert np.median(apart) < 0.05 and apart.max() < 0.15
    assert asked.mean(axis=1).min() < 0.36 and asked.mean(axis=1).max() > 0.64
    assert strategy.notes() == ["map: surrogates explain 1.00 of o0, 1.00 of o1, by 20 candidates"]


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (lambda p: (float(p.id % 2), float(p.id % 3)), "a surrogate explains less than 0.8"),
        (lambda p: None, "0 candidates that did not fail are too few to fit"),
    ],
)
def test_map_leaves_a_front_that_it_can_not_trust_to_another_strategy(loss, says):
    space = numeric(2)
    strategy = make("map", {"otherwise": {"name": "sobol"}}, space)
    tell(strategy, strategy.ask(50), loss)
    assert points(strategy.ask(5)) == [
        (p.id + 12, p.point) for p in make("sobol", {}, space, seed=sequences.seed(0, 0)).ask(5)
    ]
    assert strategy.notes()[-1] == f"map: {says}: another strategy goes on"


def noise(point):
    """Losses that no surrogate explains; of the same point the same."""
    return tuple(np.random.default_rng([round(1e6 * unit) for unit in point]).random(2))


def test_map_knows_what_another_strategy_has_proposed():
    """It asks for none of it again, and no point is predicted from itself."""
    space = numeric(2)
    then = {"name": "map", "otherwise": {"name": "sobol"}}
    strategy = make("staged", {"candidates": 8, "then": then}, space)
    asked = []
    while len(asked) < 12:
        asked += (proposals := strategy.ask(1))
        tell(strategy, proposals, lambda p: noise(p.point))
    first = make("sobol", {}, space).ask(8)
    second = make("sobol", {}, space, seed=sequences.seed(0, 1)).ask(4)
    assert [p.point for p in asked] == [p.point for p in (*first, *second)]
    strategy.ask(1)
    fitted, gave_up = strategy.notes()
    assert fitted.endswith("by 12 candidates") and "another strategy" in gave_up


def test_map_takes_the_front_of_its_surrogates_alone():
    """Of one objective that is a point: what is left of a population are points of a sequence."""
    space = numeric(2)
    strategy = make("map", {"population": 8}, space, objectives=1)
    told = search(strategy, 16, objectives=1)
    new = np.array([o.point for o in told[-4:]])
    assert abs(new[0] - 0.6).max() < 0.02
    assert min(np.abs(a - b).max() for a, b in itertools.combinations(new, 2)) > 0.05


def test_map_counts_a_point_once():
    space = numeric(2)
    design = [p.point for p in make("sobol", {}, space).ask(12)]
    start = [(point, noise(point)) for point in design[:6]] * 3
    strategy = plugins.begin("map", {}, space, ["o0", "o1"], seed=0, where="", start=start)
    assert [p.point for p in strategy.ask(50)] == design[6:]


def test_map_is_judged_by_the_groups_that_a_model_has(family):
    """Before a model is open it could have a tower; with that there were too many genes."""
    assert len(resolve(families.recipe(family, strategy="map")).space) == 6
    with pytest.raises(errors.RecipeError, match="at most 8 genes, and there are 12"):
        space = {"blocks": 2, "roles": ["mlp", "attention"]}
        resolve(families.recipe(family, strategy="map", space=space))


def test_the_greedy_soup_keeps_what_does_not_hurt():
    names, good = "abcd", {"b": 0.1, "d": 0.2, "a": 0.3, "c": 0.4}
    space = Space([Gene("weight", 0, 1, 0.25, 0, expert=e, group=g) for g in "01" for e in names])
    scored = {"b": 0.1, "d": 0.2, "a": 0.3, "c": 0.4, "bd": 0.15, "ab": 0.1, "abc": 0.05}
    strategy = make("greedy_soup", {}, space)
    soups = []
    while asked := strategy.ask(3):
        for p in asked:
            values = space.decode(p.point)
            members = [e for e in names if values[f"weight[{e}]@0"]]
            assert {values[f"weight[{e}]@1"] for e in members} == {round(1 / len(members), 6)}
            soups.append("".join(members))
            loss = scored[soups[-1]]
            strategy.tell([Observation(p.id, p.point, (loss - 0.01, loss + 0.01))])
    assert soups == ["a", "b", "c", "d", "bd", "ab", "abc"]
    assert list(good) == sorted(good, key=scored.get)


def test_the_greedy_soup_prefers_what_keeps_what_has_to_be_kept():
    """However large its losses are; what failed is worse than all others."""
    space = Space([Gene("weight", 0, 1, 0.25, 0, expert=e) for e in "abc"])
    strategy = make("greedy_soup", {}, space)
    a, b, c = strategy.ask(3)
    strategy.tell([Observation(a.id, a.point, (1.2, 1.2), lacks=0.1)])
    strategy.tell([Observation(b.id, b.point, (0.0, 3.0)), Observation(c.id, c.point, None)])
    (soup,) = strategy.ask(3)
    assert soup.point == (0.5, 0.5, 0.0)
    strategy.tell([Observation(soup.id, soup.point, (1.1, 1.1), lacks=0.01)])
    (last,) = strategy.ask(3)
    assert last.point == (0.0, 0.5, 0.5)


def test_the_greedy_soup_needs_weights_from_none_to_all():
    space = Space([Gene("weight", 0, 0.6, expert=e) for e in "ab"])
    with pytest.raises(
        errors.RecipeError, match=r"weight\[a\] is in \[0, 0.6\], expected a range"
    ):
        make("greedy_soup", {}, space)


def test_staged_hands_over_what_the_first_strategy_found():
    space, then = numeric(3), {"name": "nsga2", "population": 8}
    strategy = make("staged", {"candidates": 6, "then": then}, space)
    first = search(strategy, 6)
    assert points(first) == points(make("sobol", {}, space).ask(6))
    known = [(o.point, o.losses) for o in first]
    second = plugins.begin(
        "nsga2", {"population": 8}, space, ["o0", "o1"], seed=sequences.seed(0, 1), where="",
        start=known,
    )  # fmt: skip
    assert [p.point for p in strategy.ask(9)] == [p.point for p in second.ask(9)]
    many = make("staged", {"candidates": 8, "then": then}, space)
    asked = search(many, 16)
    assert len({o.point for o in asked}) >= 12  # the half of a first generation is new


@pytest.mark.parametrize("name", ["nsga2", "smsemoa"])
def test_failures_are_worse_than_any_loss(name):
    """Half of the space fails beside where losses are largest: the search moves away from it."""
    options = {"population": 8}
    strategy, told = make(name, options, numeric(4)), []
    for _ in range(15):
        for p in strategy.ask(8):
            at = float(np.mean(p.point))
            losses = None if at > 0.5 else (3 + 4 * at, 3.5 + 4 * at)
            told.append(Observation(p.id, p.point, losses))
        strategy.tell(told[-8:])
    first, last = told[:32], told[-32:]
    failed = [sum(o.losses is None for o in part) for part in (first, last)]
    assert failed[1] < failed[0] / 2
    low = [min(o.losses[0] for o in part if o.losses) for part in (first, last)]
    assert low[1] < low[0]


def test_restart_leaves_alone_what_still_comes_nearer():
    """All is beyond the reference point, so that there is no volume to grow."""
    inner = {"name": "nsga2", "population": 8}
    space = numeric(6)
    found = {}
    for name, options in (("nsga2", {"population": 8}), ("restart", {"inner": inner})):
        options = options | ({"patience": 24} if name == "restart" else {})
        strategy, told = make(name, options, space), []
        for _ in range(12):
            for p in strategy.ask(8):
                far = 5 + 20 * float(np.mean(np.abs(np.array(p.point) - 0.1)))
                told.append(Observation(p.id, p.point, (far, far + 1)))
            strategy.tell(told[-8:])
        found[name] = told
    assert points(found["restart"]) == points(found["nsga2"])
    assert pareto.hypervolume([o.losses for o in found["nsga2"]], 1.1) == 0


def test_staged_goes_on_when_the_first_strategy_ends():
    strategy = make("staged", {"first": {"name": "greedy_soup"}, "candidates": 30}, numeric(4))
    told = search(strategy, 20)
    assert [len(set(o.point)) for o in told[:3]] == [2, 2, 1]
    assert len({o.point for o in told[3:]}) == 17


RACING = {"name": "racing", "inner": {"name": "sobol"}, "rungs": [2, 3]}


def answered(proposal):
    """With as many items as were asked."""
    told = seen(proposal)
    rows = {name: dict(list(row.items())[: proposal.items]) for name, row in told.answers.items()}
    return replace(told, answers=rows)


def race(strategy, chunk, **known):
    """What 40 asks propose, or all asks if there are fewer."""
    asked = []
    for _ in range(40):
        proposals = strategy.ask(chunk)
        strategy.tell([replace(answered(p), **known) for p in proposals])
        asked += proposals
    return asked


@pytest.mark.parametrize("chunk", [1, 2, 8])
def test_staged_lets_a_race_end_first(chunk):
    """Who is asked again is no new candidate, and is waited for."""
    options = {"first": RACING, "candidates": 6, "then": {"name": "greedy_soup"}}
    asked = [p.id for p in race(make("staged", options, numeric(3)), chunk)]
    end = asked.index(6)
    assert set(asked[:end]) == set(range(6)) and len(asked[:end]) > 6
    assert not set(asked[end:]) & set(range(6))


def test_staged_waits_for_who_is_asked_again():
    options = {"first": RACING, "candidates": 2, "then": {"name": "sobol"}}
    strategy = make("staged", options, numeric(3))
    first = strategy.ask(2)
    strategy.tell([answered(first[1])])
    (again,) = strategy.ask(1)
    assert (again.id, again.items) == (1, 3)
    strategy.tell([answered(first[0])])
    promoted = strategy.ask(5)
    assert {p.id for p in promoted} <= {0} and strategy.ask(5) == []
    strategy.tell([answered(p) for p in promoted])
    assert strategy.ask(5) == []  # of 1 nothing more is known
    strategy.tell([answered(again)])
    assert [p.id for p in strategy.ask(3)] == [2, 3, 4]


def test_restart_goes_on_where_all_failed_until_its_first_look():
    strategy, told = make("restart", {"inner": {"name": "sobol"}, "patience": 4}, numeric(3)), []
    for turn in range(5):
        losses = (1 / turn, 1 / turn) if turn else None
        told += [Observation(p.id, p.point, losses) for p in strategy.ask(4)]
        strategy.tell(told[-4:])
    assert points(told) == points(make("sobol", {}, numeric(3)).ask(20))


def test_restart_counts_candidates_and_lets_a_race_end():
    asked = race(
        make("restart", {"inner": RACING, "patience": 8}, numeric(3)), 8, losses=(2.0, 2.0)
    )
    sobol = [p.point for p in make("sobol", {}, numeric(3)).ask(17)]
    first = asked[: [p.id for p in asked].index(16)]  # two looks, after eight candidates each
    assert {p.id: p.point for p in first} == dict(enumerate(sobol[:16])) and len(first) > 16
    later = asked[len(first) :]
    assert later[0].point != sobol[16] and min(p.id for p in later) == 16


@pytest.mark.parametrize(
    ("inner", "sizes"),
    [
        ({"name": "cma_es"}, [7, 14, 28]),  # 4 + 3 ln 3
        pytest.param({"name": "cma_es", "population": 6}, [6, 12, 24], marks=pytest.mark.slow),
        pytest.param({"name": "seeded"}, [7, 14, 28], marks=pytest.mark.slow),
        pytest.param({"name": "nsga2"}, [24, 48, 96], marks=pytest.mark.slow),
        pytest.param({"name": "racing"}, [24, 48, 96], marks=pytest.mark.slow),
        ({"name": "racing", "inner": {"name": "nsga2", "population": 6}}, [6, 12, 24]),
        (
            {
                "name": "staged",
                "first": {"name": "sobol"},
                "candidates": 1,
                "then": {"name": "cma_es"},
            },
            [7, 14, 28],
        ),
    ],
    ids=str,
)
def test_restart_grows_populations_wherever_they_are(inner, sizes):
    """What is asked at once is a generation, after the first merges of a combinator."""
    strategy = make("restart", {"inner": inner, "patience": 100}, numeric(3), 1)
    asked = [[] for _ in sizes]
    while strategy._restarts < len(sizes):
        batch = strategy.ask(200)
        tell(strategy, batch, lambda p: (2 + seen(p, 1).losses[0],))  # no volume at all
        if strategy._restarts < len(sizes):
            asked[strategy._restarts].append(len(batch))
    assert [max(lengths[:2]) for lengths in asked] == sizes


def test_restart_begins_anew_with_a_larger_population_where_nothing_is_gained():
    space = numeric(3)
    inner = {"name": "nsga2", "population": 4}
    strategy = make("restart", {"inner": inner, "patience": 8}, space)
    asked = []
    for _ in range(8):
        batch = strategy.ask(50)
        tell(strategy, batch, lambda p: (0.5, 0.5))
        asked += [p.point for p in batch]
    first = search(make("nsga2", {"population": 4}, space), 4)
    assert asked[:4] == [o.point for o in first]
    seed = int(np.random.SeedSequence([0, 1]).generate_state(1)[0])  # once the volume stood still
    assert asked[16:24] == [
        p.point for p in make("nsga2", {"population": 8}, space, seed=seed).ask(8)
    ]


@pytest.mark.parametrize("space", [numeric(2), numeric(12), mixed()])
@pytest.mark.parametrize("objectives", [1, 3])
def test_auto_says_what_it_chooses_and_does_it(space, objectives):
    names = [f"o{m}" for m in range(objectives)]
    line = plugins.explain("auto", {}, space, names)
    chosen = [name for name in plugins.known("strategy") if f" {name} " in line]
    assert line.startswith("strategy auto: ") and chosen and "auto" not in chosen[1:]
    assert plugins.explain("nsga2", {}, space, names) == ""
    search(make("auto", {}, space, objectives), 40, objectives=objectives)
