"""Item response theory: closed forms, limits, recovery of simulated items, parity with girth."""

import girth
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from evomerge.maths import irt, irt_checks
from evomerge.maths.irt import Items, Prior

ONE = Items(np.ones(5), np.array([-2.0, -1.0, 0.0, 1.0, 2.0]))


def simulated(models, items, *, seed=0, slope=0.4, soft=0.0, missing=0.0):
    """(abilities, items, answers): log slopes have the spread `slope`; soft answers that of
    P (1 - P) times `soft`."""
    draw = np.random.default_rng(seed)
    theta = draw.standard_normal(models)
    true = Items(np.exp(slope * draw.standard_normal(items)), 1.2 * draw.standard_normal(items))
    p = true.probability(theta)
    if soft:
        shape = 1 / soft - 1
        answers = draw.beta(p * shape, (1 - p) * shape)
    else:
        answers = (draw.random(p.shape) < p).astype(float)
    return theta, true, np.where(draw.random(p.shape) < missing, np.nan, answers)


def rmse(a, b):
    return float(np.sqrt(np.mean((np.asarray(a) - b) ** 2)))


# Recovery


@pytest.mark.parametrize(
    "options, far, far_slopes",
    [
        ({"slope": 0.0}, 0.18, 0.05),
        ({}, 0.20, 0.25),
        ({"soft": 0.3}, 0.15, 0.18),
        ({"missing": 0.4}, 0.25, 0.27),
        ({"soft": 0.3, "missing": 0.4}, 0.19, 0.23),
    ],
    ids=["1PL", "2PL", "soft", "missing", "soft and missing"],
)
def test_what_was_simulated_is_recovered(options, far, far_slopes):
    """Abilities nearly as well as with the true items, intercepts, and slopes, whose spread in
    the logarithm is 0.47 where they differ."""
    theta, true, answers = simulated(200, 61, **options)
    model = "1PL" if options.get("slope") == 0 else "2PL"
    found = irt.fit(answers, model)
    assert found.converged and found.model == model
    best, _ = irt.ability(true, answers, dispersion=options.get("soft", 1.0))
    same = np.corrcoef(theta, best)[0, 1]
    assert np.corrcoef(theta, found.abilities)[0, 1] > same - 0.003
    assert rmse(theta, found.abilities) < 1.35 * rmse(theta, best)
    assert rmse(true.intercepts, found.items.intercepts) < far
    assert np.corrcoef(true.intercepts, found.items.intercepts)[0, 1] > 0.98
    assert rmse(np.log(true.slopes), np.log(found.items.slopes)) < far_slopes
    if model == "2PL":
        assert np.corrcoef(np.log(true.slopes), np.log(found.items.slopes))[0, 1] > 0.85


@pytest.mark.parametrize("soft", [0.0, 0.3])
def test_errors_are_as_large_as_they_say(soft):
    theta, true, answers = simulated(400, 31, seed=3, soft=soft)
    found, error = irt.ability(true, answers, dispersion=soft or 1.0)
    inside = np.abs(found - theta) < 1.96 * error
    assert 0.925 < inside.mean() < 0.975
    assert irt.fit(answers).dispersion == pytest.approx(soft or 1.0, rel=0.1)


def test_the_fit_is_the_same_twice_and_for_rows_in_another_order():
    answers = simulated(40, 13, missing=0.2)[2]
    first, again = irt.fit(answers), irt.fit(answers)
    assert np.array_equal(first.items.slopes, again.items.slopes)
    assert np.array_equal(first.abilities, again.abilities)
    turned = irt.fit(answers[::-1, ::-1])
    assert turned.abilities[::-1] == pytest.approx(first.abilities, abs=2e-3)
    assert turned.items.slopes[::-1] == pytest.approx(first.items.slopes, abs=2e-3)


def test_few_models_share_one_slope():
    answers = simulated(30, 7)[2]
    assert irt.fit(answers).model == "2PL"
    few = irt.fit(answers[:29])
    assert few.model == "1PL" and np.ptp(few.items.slopes) == 0


# Parity


@pytest.mark.parametrize(
    "model, fitted",
    [
        ("1PL", girth.onepl_mml),
        pytest.param("2PL", girth.twopl_mml, marks=pytest.mark.slow),
    ],
)
def test_girth_finds_the_same(monkeypatch, model, fitted):
    """Its marginal maximum likelihood has no priors: neither have we, with wide ones."""
    for prior, wide in (("SLOPES", 10.0), ("INTERCEPTS", 100.0), ("LEVEL", 100.0)):
        monkeypatch.setattr(irt, f"SPREAD_OF_{prior}", wide)
    _, _, answers = simulated(500, 11, seed=5, slope=0.0 if model == "1PL" else 0.35)
    theirs = fitted(answers.T.astype(int))
    found = irt.fit(answers, model).items
    slopes = np.broadcast_to(theirs["Discrimination"], (11,))
    assert rmse(np.log(found.slopes), np.log(slopes)) < 0.002
    assert rmse(found.intercepts, -slopes * theirs["Difficulty"]) < 0.005
    ours, _ = irt.ability(Items(slopes, -slopes * theirs["Difficulty"]), answers)
    their_map = girth.ability_map(answers.T.astype(int), theirs["Difficulty"], slopes)
    assert ours == pytest.approx(their_map, abs=1e-3)


# Exact limits


def test_with_one_slope_only_the_number_right_counts():
    draw = np.random.default_rng(0)
    rows = np.array([draw.permutation([1, 1, 0, 0, 1]) for _ in range(7)], dtype=float)
    theta, error = irt.ability(ONE, rows)
    assert theta == pytest.approx([theta[0]] * 7, abs=1e-10)
    p = ONE.probability(theta[0])
    assert 3 - p.sum() == pytest.approx(theta[0], abs=1e-10)  # the mode: score equals prior
    assert error[0] == pytest.approx((1 + (p * (1 - p)).sum()) ** -0.5)


def test_a_flat_prior_gives_the_maximum_of_the_likelihood():
    theta, error = irt.ability(ONE, [[1, 0, 1, 1, 0]], Prior(0.3, 1e6))
    p = ONE.probability(theta[0])
    assert p.sum() == pytest.approx(3)
    assert error[0] == pytest.approx(ONE.information(theta[0]).sum() ** -0.5)


def test_symmetric_items_and_answers_are_symmetric():
    rows = np.array([[1, 0, 1, 1, 0], [0.5, 0.5, 0.5, 0.5, 0.5]])
    theta, error = irt.ability(ONE, rows)
    mirrored, same = irt.ability(ONE, 1 - rows[:, ::-1])
    assert mirrored == pytest.approx(-theta) and same == pytest.approx(error)
    assert theta[1] == pytest.approx(0, abs=1e-12)
    found = irt.fit(np.concatenate([rows, 1 - rows]))
    assert found.items.intercepts == pytest.approx([0] * 5, abs=1e-4)


def test_information_and_difficulty_in_closed_form():
    items = Items(np.array([0.5, 2.0]), np.array([1.0, -3.0]))
    assert items.difficulties == pytest.approx([-2, 1.5])
    at = items.information(items.difficulties)
    assert np.diag(at) == pytest.approx(items.slopes**2 / 4)
    h, theta = 1e-5, np.array([-1.0, 0.3])
    slope = (items.probability(theta + h) - items.probability(theta - h)) / (2 * h)
    p = items.probability(theta)
    assert items.information(theta) == pytest.approx(slope**2 / (p * (1 - p)), rel=1e-6)


def test_the_gradient_is_that_of_the_posterior():
    answers = simulated(11, 5, soft=0.3, missing=0.2)[2]
    posterior = irt._Posterior(answers, True)
    x = 0.3 * np.random.default_rng(1).standard_normal(len(posterior.start))
    _, gradient = posterior(x)
    for i, step in enumerate(1e-5 * np.eye(len(x))):
        numeric = (posterior(x + step)[0] - posterior(x - step)[0]) / 2e-5
        assert gradient[i] == pytest.approx(numeric, rel=1e-5, abs=1e-6)


def test_the_prior_of_endpoints():
    assert irt.endpoint_prior([]) == irt.POPULATION
    assert irt.endpoint_prior([0.7]) == pytest.approx((0.7, 1.5))
    assert irt.endpoint_prior([1.0, 3.0]) == pytest.approx((2.0, 1.5 * np.sqrt(1.5)))
    near, _ = irt.ability(ONE, [[1, 1, 1, 1, 1]], Prior(-1, 0.1))
    assert near[0] == pytest.approx(-1, abs=0.1)


def test_items_of_another_split_are_put_on_the_same_scale():
    theta, true, answers = simulated(200, 80, slope=0.0, seed=8)
    found = irt.fit(answers[:, :40])
    further = irt.anchored(found, found.abilities, answers[:, 40:])
    assert rmse(further.intercepts, true.intercepts[40:]) < 0.25
    new = answers[:, 40:]
    best, _ = irt.ability(Items(true.slopes[40:], true.intercepts[40:]), new)
    assert rmse(irt.ability(further, new)[0], theta) < 1.1 * rmse(best, theta)


# Awkward input


@pytest.mark.parametrize("value, words", [(0.0, "all wrong"), (1.0, "all right")])
def test_constant_columns_and_rows_are_finite_and_named(value, words):
    answers = simulated(40, 9)[2]
    answers[:, 4] = value
    answers[7] = value
    answers[:, 8] = np.nan
    found = irt.fit(answers)
    for values in (found.items.slopes, found.items.intercepts, found.abilities, found.errors):
        assert np.isfinite(values).all()
    side = np.sign(value - 0.5)
    assert side * found.items.intercepts[4] > 2
    assert found.abilities[7] == side * np.max(side * found.abilities)
    assert found.items.intercepts[8] == 0
    named = irt_checks.faults(answers, found)
    assert named[4] == words and named[8] == "answered by no model"
    assert irt_checks.constant_models(answers)[7] == words


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 3)])
@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_the_smallest_tables_have_a_fit(shape, value):
    found = irt.fit(np.full(shape, value))
    assert found.model == "1PL" and found.items.slopes.shape == (shape[1],)
    assert np.ptp(found.abilities) == pytest.approx(0, abs=1e-9)
    at = np.sign(value - 0.5)
    assert (np.sign(found.items.intercepts) == at).all()
    assert np.isfinite(found.errors).all() and (found.errors <= 1).all()


def test_a_model_that_answered_nothing_has_the_prior():
    theta, error = irt.ability(ONE, np.full((1, 5), np.nan), Prior(0.4, 0.7))
    assert (theta[0], error[0]) == pytest.approx((0.4, 0.7))


@pytest.mark.parametrize("bad", [np.zeros((0, 3)), np.zeros((3, 0)), [0.5], [[1.1]], [[np.inf]]])
def test_what_is_no_table_of_answers_is_refused(bad):
    with pytest.raises(ValueError, match="expected answers"):
        irt.fit(bad)


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match="1PL or 2PL"):
        irt.fit([[1.0]], "3PL")


SIZES = st.sampled_from([1, 2, 3, 5, 7, 13])


@settings(max_examples=40)
@given(SIZES, SIZES, st.integers(0, 10**6), st.floats(0, 0.9))
def test_properties_on_odd_sizes(models, items, seed, missing):
    _, true, answers = simulated(models, items, seed=seed, soft=0.5, missing=missing)
    theta, error = irt.ability(true, answers)
    assert (error > 0).all() and (error <= 1).all()
    better = np.minimum(answers + 0.1, 1)
    known = np.isfinite(answers).any(axis=1)
    more = irt.ability(true, better)[0]
    assert (more >= theta - 1e-9).all() and (theta[~known] == 0).all()
    p = true.probability(theta)
    score = np.where(np.isfinite(answers), answers - p, 0) @ true.slopes
    assert score == pytest.approx(theta, abs=1e-8)  # the mode under N(0, 1)
    fitted = irt.fit(answers)
    assert (fitted.items.slopes > 0).all() and np.isfinite(fitted.items.intercepts).all()
    assert 0 < fitted.dispersion <= 1 or not known.any()


# Checks


def test_held_out_error_is_smaller_than_that_of_means_where_items_differ():
    answers = simulated(100, 40, seed=2)[2]
    found = irt_checks.held_out(answers, seen=12)
    assert found.seen == 12 and list(found.errors) == list(irt_checks.ESTIMATORS)
    assert found.better == "irt" and found.rival in ("difference", "stratified")
    assert found.errors["irt"] < 0.9 * found.errors["mean"]
    assert found.errors["irt"] < 0.7 * found.errors["item_mean"]
    for name, gain in found.gains.items():
        assert gain == pytest.approx(found.errors[name] - found.errors["irt"])
    assert irt_checks.held_out(answers, seen=12) == found


def test_where_ability_says_nothing_the_item_means_are_not_worse():
    draw = np.random.default_rng(0)
    answers = (draw.random((100, 40)) < draw.random(40)).astype(float)
    found = irt_checks.held_out(answers, seen=10)
    assert found.rival == "item_mean" and found.better != "irt"


def test_held_out_refuses_what_it_can_not_split():
    with pytest.raises(ValueError, match="5 models"):
        irt_checks.held_out(np.ones((4, 9)))
    with pytest.raises(ValueError, match="nothing to predict"):
        irt_checks.held_out(np.ones((9, 1)))


def test_infit_is_one_where_the_model_holds_and_names_a_noisy_item():
    _, _, answers = simulated(300, 40, seed=4)
    answers[:, 11] = np.random.default_rng(0).random(300) < 0.5
    answers[:, 12] = simulated(300, 40, seed=4)[0] > 0
    found = irt_checks.infit(answers, irt.fit(answers, "1PL"))
    others = np.delete(found, [11, 12])
    assert np.median(others) == pytest.approx(1, abs=0.05)
    assert found[11] == found.max() > 1.2 and found[12] == found.min() < 0.7


def test_a_repeated_item_is_a_dependent_pair():
    _, _, answers = simulated(200, 30, seed=6)
    answers[:, 29] = answers[:, 3]
    found = irt_checks.dependence(answers, irt.fit(answers))
    first, second, excess = found.pairs[0]
    assert (first, second) == (3, 29) and excess > 0.8
    assert len(found.pairs) <= 2 and found.examined == 30 * 29 // 2
    assert found.average == pytest.approx(0, abs=0.05)


def test_dependence_with_missing_cells_is_that_of_the_complete_rows():
    _, _, answers = simulated(60, 3, seed=1)
    answers[20:40, 1] = np.nan
    found = irt.fit(answers)
    residuals = answers - found.items.probability(found.abilities)
    both = np.isfinite(residuals[:, 1])
    q3, counts = irt_checks._correlations(residuals, np.ones(3, dtype=bool))
    assert q3[0, 1] == pytest.approx(np.corrcoef(residuals[both, 0], residuals[both, 1])[0, 1])
    assert counts[0, 1] == 40 and counts[0, 2] == 60


@pytest.mark.parametrize(("models", "slope", "seed"), [(10, 3.0, 2), (10, 3.0, 3), (29, 4.0, 3)])
def test_slopes_do_not_run_away_where_items_are_many(models, slope, seed):
    """Posteriors of abilities are narrow there: between two nodes a slope would cost nothing."""
    draw = np.random.default_rng(seed)
    theta, b = draw.normal(size=models), draw.normal(size=400) * 1.5
    answers = (draw.random((models, 400)) < expit(slope * theta[:, None] + b)) * 1.0
    found = irt.fit(answers)
    assert slope - 0.2 < found.items.slopes[0] < slope + 1.2
    assert found.abilities.std() == pytest.approx(theta.std(), rel=0.4)


@pytest.mark.parametrize("slope", [4, 10, 20])
def test_an_ability_is_the_mode_however_steep_items_are(slope):
    """Both sides of it are flat: a step of half a unit leads from one to the other and back."""
    steep = Items(np.full(2, float(slope)), np.full(2, -0.25 * slope))
    theta = irt.ability(steep, [[1.0, 0.0]])[0][0]
    assert slope * (1 - 2 * expit(slope * (theta - 0.25))) == pytest.approx(theta, abs=1e-9)


def test_a_wrong_key_is_named():
    _, _, answers = simulated(100, 20, seed=9)
    answers[:, 5] = 1 - answers[:, 5]
    named = irt_checks.faults(answers, irt.fit(answers))
    assert list(named) == [5] and named[5].startswith("negative discrimination")


def test_item_means_are_where_a_fit_of_one_ability_starts():
    """With all abilities alike b is the logit of the mean, shrunk by its prior alone."""
    answers = np.repeat([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]], 500, axis=0)
    further = irt.anchored(irt.fit(answers[:20]), np.zeros(2000), answers)
    assert further.intercepts == pytest.approx(logit([0.75, 0.25]), abs=2e-3)
    assert expit(further.intercepts) == pytest.approx([0.75, 0.25], abs=1e-3)
