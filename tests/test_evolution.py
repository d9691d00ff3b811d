"""Which points have been proposed is known as by a plain set."""

import numpy as np
import pytest

from evomerge import evolution


@pytest.mark.parametrize("size", [1, 3, 1024])
def test_points_seen(monkeypatch, size):
    monkeypatch.setattr(evolution, "LATE", size)
    draw = np.random.default_rng(size)
    points, plain, seen = draw.integers(-2, 2, (3000, 5)) / 1, set(), evolution.Seen()
    for point in points:
        assert (point in seen) == (tuple(point.tolist()) in plain)
        seen.add(point)
        plain.add(tuple(point.tolist()))
    assert 500 < len(plain) < 3000
    assert np.array([-0.0, 1, 1, 1, 1]) in seen  # as 0.0
    assert np.array([-0.5, 1, 1, 1, 1]) not in seen
