"""Fronts: closed forms, and what must never reach the library."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pymoo.indicators.hv import HV

from evomerge.maths import pareto

INF, NAN = np.inf, np.nan


@pytest.mark.parametrize("n", [1, 2, 5, 50])
def test_the_volume_of_a_staircase(n):
    steps = np.arange(n)
    front = np.stack([steps, n - 1 - steps], axis=1)
    assert pareto.hypervolume(front, n) == n * (n + 1) / 2


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5])
def test_the_volume_of_boxes(m):
    assert pareto.hypervolume(np.zeros((1, m)), 1.1) == pytest.approx(1.1**m)
    assert pareto.hypervolume(np.full((3, m), 0.5), 1.0) == pytest.approx(0.5**m)
    # two boxes of 0.5 x 1 x ... and their overlap
    corners = np.zeros((2, m))
    corners[0, 0] = corners[1, -1] = 0.5
    expected = 1.0 if m > 1 else 0.5
    assert pareto.hypervolume(corners, 1.0) == pytest.approx(expected - 0.25 * (m > 1))


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5])
def test_rows_without_volume_count_for_nothing(m):
    bad = np.array([[NAN] * m, [INF] * m, [-INF] * m, [1.0] * m, [7.0] * m])
    assert pareto.hypervolume(bad, 1.0) == 0.0
    assert pareto.hypervolume(np.concatenate([bad, np.zeros((1, m))]), 1.0) == 1.0
    assert pareto.hypervolume(np.zeros((0, m)), 1.0) == 0.0
    assert pareto.nondominated(bad).sum() == 1
    assert pareto.nondominated(np.zeros((0, m))).shape == (0,)


def test_a_reference_may_differ_by_objective():
    assert pareto.hypervolume([[0.0, 0.0]], [2.0, 3.0]) == 6.0


@given(
    arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(1, 4)), elements=st.floats(0, 1))
)
@settings(max_examples=60, deadline=None)
def test_dominance_and_volume_agree_with_their_definitions(losses):
    better = (losses[:, None] <= losses).all(2) & (losses[:, None] < losses).any(2)
    assert np.array_equal(pareto.nondominated(losses), ~better.any(axis=0))
    reference = np.full(losses.shape[1], 1.1)
    assert pareto.hypervolume(losses, 1.1) == pytest.approx(HV(ref_point=reference)(losses))


def test_equal_rows_are_kept_all():
    assert pareto.nondominated([[1, 2], [1, 2], [2, 1], [2, 2]]).tolist() == [1, 1, 1, 0]
    assert pareto.nondominated([[1], [0], [0]]).tolist() == [0, 1, 1]


def test_the_knee_of_known_fronts():
    x = np.linspace(0, 1, 101)
    # 1 - sqrt(x) is furthest below its chord where the slope is -1: at 1/4; scales do not matter
    front = np.stack([x * 50, 3 * (1 - np.sqrt(x))], axis=1)
    assert pareto.knee(front) == 25
    assert pareto.knee(np.concatenate([[[NAN, 0], [60, 60]], front])) == 27
    assert pareto.knee([[3.0], [1.0], [2.0]]) == 1
    assert pareto.knee([[1.0, 2.0]]) == 0
    with pytest.raises(ValueError, match="finite"):
        pareto.knee([[NAN, 1.0]])


@pytest.mark.parametrize("m", [2, 3, 4, 5])
def test_the_knee_in_many_objectives(m):
    corners = 1 - np.eye(m)
    bulge = np.full((1, m), 0.4 if m == 2 else 0.5)
    assert pareto.knee(np.concatenate([corners, bulge])) == m
    assert pareto.knee(np.eye(m) * 2 + np.arange(m)) in range(m)


def test_tchebycheff_finds_what_a_weighted_sum_can_not():
    concave = np.array([[0.0, 1.0], [0.7, 0.7], [1.0, 0.0]])
    assert pareto.scalarise(concave, [0.5, 0.5]).argmin() == 1
    assert (concave @ [0.5, 0.5]).argmin() != 1
    assert pareto.scalarise([[1.0, 3.0]], [0.5, 0.5]) == pytest.approx([1.5 + 0.05 * 4])
    # between rows that are equally bad in the worst objective, the sum decides
    assert pareto.scalarise([[0.2, 1.0], [0.1, 1.0]], [0.5, 0.5]).argmin() == 1


@pytest.mark.parametrize("m", [1, 2, 3, 5])
def test_weight_vectors_are_equal_then_lean(m):
    weights = pareto.weight_vectors(m)
    assert weights.shape == ((1, 1) if m == 1 else (m + 1, m))
    assert weights.sum(axis=1) == pytest.approx(1.0)
    assert np.ptp(weights[0]) == 0
    assert weights[1:].argmax(axis=1).tolist() == list(range(len(weights) - 1))


def test_losses_that_are_no_numbers_are_failures():
    assert pareto.measured((0.1, 0.2)) and not pareto.measured(None)
    assert not pareto.measured((0.1, NAN))
    assert pareto.filled((0.1, 0.2), 2, 2.2).tolist() == [0.1, 0.2]
    for losses in (None, (0.1, INF), (NAN, 0.2)):
        assert pareto.filled(losses, 2, 2.2).tolist() == [2.2, 2.2]


@pytest.mark.parametrize("m", [7, 9])
def test_many_losses_in_many_objectives_are_estimated_closely_and_the_same_each_time(m):
    losses = np.random.default_rng(m).uniform(0.3, 1.2, (50, m)).round(2)
    inside = losses[(losses < 1.1).all(axis=1)][: pareto.EXACT[1]]
    found = pareto.hypervolume(np.repeat(inside, 4, axis=0), 1.1)
    assert len(inside) * 4 > pareto.EXACT[1]
    assert found == pytest.approx(pareto.hypervolume(inside, 1.1), rel=0.02)
    assert found == pareto.hypervolume(np.repeat(inside, 4, axis=0), 1.1)
