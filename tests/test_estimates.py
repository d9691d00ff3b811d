"""Scores on all items from answers to some: closed forms, and errors that cover."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evomerge.maths import estimates, irt
from evomerge.maths.irt import Items, Prior


def test_stratified_is_the_weighted_mean_of_strata():
    groups = np.array([0, 0, 0, 1, 1, 1, 1, 1, 1])
    answers = np.array([0.2, 0.4, np.nan, 1.0, 0.8, np.nan, np.nan, np.nan, np.nan])
    found = estimates.stratified(answers, groups)
    assert found.score == pytest.approx(0.3 / 3 + 0.9 * 2 / 3)
    variance = (0.02 + 0.02) / 2
    parts = variance / 2 * (1 / 9 * (1 - 2 / 3) + 4 / 9 * (1 - 2 / 6))
    assert found.error == pytest.approx(np.sqrt(parts))


@pytest.mark.parametrize("score", [0.0, 0.1, 0.7, 19 / 24, 0.75, 1.0])
def test_equal_scores_have_the_error_of_half_an_answer(score):
    """Also where their mean is rounded, so that they do not seem to be equal."""
    p = (30 * score + 0.5) / 31
    error = np.sqrt(p * (1 - p) / 30)
    assert estimates.standard_error(np.full(30, score)) == pytest.approx(error)
    answers = np.append(np.full(30, score), np.full(30, np.nan))
    assert estimates.stratified(answers, np.tile([0, 1], 30)).error == pytest.approx(
        error * np.sqrt(1 / 2)
    )


def test_a_stratum_without_answers_has_the_whole_mean():
    groups = np.repeat([0, 1], 5)
    answers = np.array([0.2, 0.6, 0.4, np.nan, np.nan, *[np.nan] * 5])
    assert estimates.stratified(answers, groups).score == pytest.approx(0.4)
    with pytest.raises(ValueError, match="no answers"):
        estimates.stratified(np.full(10, np.nan), groups)


@given(st.integers(1, 23), st.integers(0, 2**32 - 1))
def test_all_answers_are_their_mean_without_error(size, seed):
    rng = np.random.default_rng(seed)
    answers, items = rng.random(size), Items(rng.uniform(0.5, 2, size), rng.normal(size=size))
    groups = estimates.strata(rng.random(size))
    means = rng.random(size)
    for found in (
        estimates.stratified(answers, groups), estimates.p_irt(answers, items, Prior()),
        estimates.equated(answers, items, Prior(), means),
    ):  # fmt: skip
        assert found.score == pytest.approx(answers.mean()) and found.error == pytest.approx(0)


@given(st.integers(1, 40))
def test_strata_are_of_equal_size_and_in_order(size):
    means = np.random.default_rng(size).random(size)
    groups = estimates.strata(means)
    assert np.ptp(np.bincount(groups, minlength=estimates.STRATA)) <= 1
    assert (np.diff(groups[np.argsort(means)]) >= 0).all()


def test_p_irt_is_what_was_seen_and_what_is_predicted():
    items = Items(np.ones(4), np.array([0.0, 0.0, 1.0, -1.0]))
    answers = np.array([1.0, 0.0, np.nan, np.nan])
    found = estimates.p_irt(answers, items, Prior(), misfit=0.1)
    assert found.score == pytest.approx(0.5)  # the ability is 0, and P of the two is 1 in sum
    p = items.probability(0.0)[2:]
    noise = p * (1 - p)
    ability = 1 / (0.5 + 1)
    expected = noise.mean() ** 2 * ability + noise.sum() / 4 + 0.01
    assert found.error == pytest.approx(0.5 * np.sqrt(expected))


def test_errors_cover_models_that_keep_to_the_theory():
    """Answers of 0 or 1 to 30 of 200 items: 95 % intervals hold about as often as they say."""
    rng = np.random.default_rng(4)
    items = Items(rng.lognormal(0, 0.3, 200), rng.normal(size=200))
    groups = estimates.strata(items.probability(0.0))
    inside, gain = np.zeros(3), []
    for theta in rng.normal(size=400):
        answers = (rng.random(200) < items.probability(theta)).astype(float)
        seen = np.where(rng.permutation(200) < 30, answers, np.nan)
        found = (
            estimates.p_irt(seen, items, irt.POPULATION), estimates.stratified(seen, groups),
            estimates.equated(seen, items, irt.POPULATION, items.probability(0.0)),
        )  # fmt: skip
        misses = [abs(estimate.score - answers.mean()) for estimate in found]
        inside += [m < 1.96 * e.error for m, e in zip(misses, found, strict=True)]
        gain.append(misses[1] - misses[0])
    assert ((inside / 400 > 0.92) & (inside / 400 < 0.985)).all()
    assert np.mean(gain) > 0.003


def test_equated_is_a_line_through_the_means_of_the_known_models():
    """Slopes of 4 among those asked and of 1 among the rest: a quarter of what is seen is left."""
    items = Items(np.array([4.0, 4.0, 1.0, 1.0]), np.zeros(4))
    answers, means = np.array([0.9, 0.7, np.nan, np.nan]), np.array([0.5, 0.7, 0.2, 0.4])
    found = estimates.equated(answers, items, Prior(), means, misfit=0.1)
    assert found.score == pytest.approx((0.8 + 0.3 + 0.2 / 4) / 2)
    assert found.error == pytest.approx(0.5 * np.sqrt(0.04 * (1 / 16 / 2 + 1 / 2) + 0.01))
    best = estimates.equated(np.where(np.isnan(answers), np.nan, 1.0), items, Prior(), means + 0.5)
    assert best.score <= 1
    with pytest.raises(ValueError, match="no answers"):
        estimates.equated(np.full(4, np.nan), items, Prior(), means)


def test_answers_to_unequal_shares_of_strata_rank_best_where_they_are_equated():
    """26 questions of the middle and one of each other stratum, which then weighs as much."""
    rng = np.random.default_rng(2)
    items = Items(rng.lognormal(0, 0.3, 300), np.sort(3 * rng.normal(size=300)))
    means, abilities = items.probability(0.0), 0.5 * rng.normal(size=200)
    answers = (rng.random((200, 300)) < items.probability(abilities)).astype(float)
    seen = np.full(answers.shape, np.nan)
    for i in (30, 90, *range(137, 163), 210, 270):
        seen[:, i] = answers[:, i]
    groups, truth = estimates.strata(means), answers.mean(axis=1)
    equated = np.array([estimates.equated(row, items, Prior(), means).score for row in seen])
    by_strata = [estimates.stratified(row, groups).score for row in seen]
    assert stats.spearmanr(equated, truth)[0] > stats.spearmanr(by_strata, truth)[0] + 0.1
    assert np.polyfit(truth, equated, 1)[0] == pytest.approx(1, abs=0.2)  # nothing exaggerated
    assert np.abs(equated - truth).mean() < 0.8 * np.abs(np.array(by_strata) - truth).mean()
