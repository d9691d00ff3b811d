"""Intervals: closed forms, and the share of simulated truths that they cover."""

import numpy as np
import pytest
from scipy import stats

from evomerge.maths import intervals


def test_wilson_agrees_with_scipy_and_knows_no_data():
    for right, n in ((0, 10), (3, 10), (10, 10), (40, 60)):
        exact = stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
        low, high = intervals.wilson(right / n, n, z=stats.norm.ppf(0.975))
        assert (low, high) == (pytest.approx(exact.low), pytest.approx(exact.high))
    assert intervals.wilson(0.5, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        intervals.wilson(1.2, 10)


@pytest.mark.parametrize(("p", "n"), [(0.5, 60), (0.7, 100), (0.9, 200)])
def test_wilson_covers_the_truth(p, n):
    means = np.random.default_rng(1).binomial(n, p, 20000) / n
    low, high = intervals.wilson(means, n)
    assert 0.93 <= np.mean((low <= p) & (p <= high)) <= 0.97


def test_paired_bootstrap_covers_the_truth():
    """Two banks of different size and difficulty; what is hard is hard for both plans."""
    generator = np.random.default_rng(2)
    truth, inside, runs = 0.10, 0, 400
    for run in range(runs):
        a, b = [], []
        for items, gain in ((60, 0.15), (120, 0.05)):
            ease = generator.uniform(0.2, 0.8, items)
            a.append((generator.random(items) < ease + gain).astype(float))
            b.append((generator.random(items) < ease).astype(float))
        _, low, high = intervals.paired_bootstrap(a, [b], 600, seed=run)[0]
        inside += low <= truth <= high
    assert 0.93 <= inside / runs <= 0.97


def test_paired_bootstrap_is_exact_where_nothing_varies():
    a, b = [np.full(10, 0.75), np.full(30, 0.5)], [np.full(10, 0.5), np.full(30, 0.5)]
    assert intervals.paired_bootstrap(a, [b, b], 100, seed=0) == [(0.125, 0.125, 0.125)] * 2
    for wrong in ([], [np.zeros(3)], [np.zeros(0), np.zeros(0)]):
        with pytest.raises(ValueError):
            intervals.paired_bootstrap(a, [wrong], 10, seed=0)


def test_the_seed_alone_decides():
    a, b = np.random.default_rng(3).random((2, 40))
    first = intervals.paired_bootstrap([a], [[b]], 500, seed=7)
    np.random.seed(0)
    assert intervals.paired_bootstrap([a], [[b]], 500, seed=7) == first
    assert intervals.paired_bootstrap([a], [[b]], 500, seed=8) != first


def test_resampled_means_share_their_items():
    scores = np.random.default_rng(4).random((1, 50))
    both = intervals.resampled_means([np.concatenate([scores, 1 - scores])], 300, seed=1)
    assert both.shape == (300, 2, 1)
    assert both.sum(axis=1) == pytest.approx(np.ones((300, 1)))
    assert both[:, 0].std() == pytest.approx(scores.std() / np.sqrt(50), rel=0.15)


def test_the_hypervolume_interval_covers_the_truth():
    """Ten plans on a line between two skills; noise makes the front look too good.

    Percentiles would cover the truth in 86 % of such runs, and in 54 % with 50 items.
    """
    generator = np.random.default_rng(5)
    p = np.stack([np.linspace(0.4, 0.8, 10), np.linspace(0.8, 0.4, 10)])
    zero, unit = np.full(2, 0.8), np.full(2, 0.4)
    exact = intervals.bootstrap_hypervolume(
        [p[0][:, None], p[1][:, None]], zero, unit, 1.1, 1, seed=0
    )
    inside = 0
    for run in range(150):
        scores = [(generator.random((10, 200)) < q[:, None]).astype(float) for q in p]
        value, low, high = intervals.bootstrap_hypervolume(scores, zero, unit, 1.1, 200, seed=run)
        assert 0 <= low <= high and value > 0
        inside += low <= exact[0] <= high
    assert inside / 150 >= 0.9


def test_one_bank_and_plans_beyond_the_reference():
    scores = [np.array([[1.0, 1.0], [0.0, 0.0]])]
    assert intervals.bootstrap_hypervolume(scores, [1.0], [1.0], 1.1, 20, seed=0) == (
        1.1,
        1.1,
        1.1,
    )
    assert intervals.bootstrap_hypervolume(scores, [9.0], [1.0], 1.1, 20, seed=0)[0] == 0.0
