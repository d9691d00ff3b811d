"""NSGA-II: a population, sorted by dominance and kept apart by crowding distance.

Source: Deb, Pratap, Agarwal and Meyarivan (2002), in the implementation
pymoo (Blank and Deb, 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pymoo.algorithms.moo.nsga2 import NSGA2

from evomerge.evolution import Evolution


class Strategy(Evolution):
    """What two survivors of equal rank differ by is the distance to their neighbours.

    `population`: candidates per generation. `steady`: children are bred one by one.
    """

    @staticmethod
    def algorithm(objectives: int, population: int) -> Callable[..., Any]:
        return NSGA2  # type: ignore[no-any-return]
