"""NSGA-III: a population, spread along fixed directions in the space of losses.

Source: Deb and Jain (2014), in the implementation pymoo (Blank and Deb, 2020).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from pymoo.algorithms.moo.nsga3 import NSGA3
from pymoo.util.ref_dirs import get_reference_directions

from evomerge import errors
from evomerge.evolution import Evolution


class Strategy(Evolution):
    """Made for three objectives and more.

    `population`: candidates per generation, no fewer than there are objectives. `steady`: children
    are bred one by one.
    """

    @staticmethod
    def algorithm(objectives: int, population: int) -> Callable[..., Any]:
        return functools.partial(NSGA3, reference_directions(objectives, population))


def reference_directions(objectives: int, count: int) -> npt.NDArray[np.float64]:
    """At most `count` directions (H, M) that sum to 1, in two layers of even spacing.

    The outer layer is as fine as `count` allows; the inner one, half as wide, has the rest. With
    many objectives it alone holds directions that ask for something of every objective.
    """
    if objectives == 1:
        return np.ones((1, 1))
    if count < objectives:
        raise errors.RecipeError(
            f"strategy.nsga3.population: got {count}, expected at least one candidate for each of"
            f" the {objectives} objectives"
        )
    outer = _layer(objectives, count)
    if count - len(outer) < objectives:
        return outer
    inner = _layer(objectives, count - len(outer))
    return np.concatenate([outer, 0.5 * inner + 0.5 / objectives])


def _layer(objectives: int, count: int) -> npt.NDArray[np.float64]:
    """The finest lattice of the simplex with at most `count` points (H, M)."""
    parts = 1
    while math.comb(parts + objectives, objectives - 1) <= count:
        parts += 1
    rows = get_reference_directions("das-dennis", objectives, n_partitions=parts)
    return np.asarray(rows, dtype=np.float64)
