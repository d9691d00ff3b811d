"""Quasi-random points of the unit cube.

Source: Sobol' (1967); scrambling of Matousek (1998), both as in scipy.stats.qmc.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import qmc

BLOCK = 64
"""Points per block: a power of two, which keeps every block balanced."""


def seed(run: int, number: int) -> int:
    """One of a run's further seeds, each of which begins another sequence."""
    return int(np.random.SeedSequence([run, number]).generate_state(1)[0])


def sobol(dimension: int, seed: int, block: int) -> npt.NDArray[np.float64]:
    """Block number `block` (BLOCK, dimension) of one scrambled Sobol sequence in [0, 1)."""
    sequence = qmc.Sobol(dimension, scramble=True, rng=np.random.default_rng(seed))
    if block:
        sequence.fast_forward(block * BLOCK)
    return np.asarray(sequence.random(BLOCK), dtype=np.float64)


def stretch(dimension: int, seed: int, first: int, count: int) -> npt.NDArray[np.float64]:
    """Points number `first` and following (count, dimension) of that sequence."""
    if not count:
        return np.empty((0, dimension))
    blocks = range(first // BLOCK, (first + count - 1) // BLOCK + 1)
    rows = np.vstack([sobol(dimension, seed, block) for block in blocks])
    return np.asarray(rows[first % BLOCK :][:count])
