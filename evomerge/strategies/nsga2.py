"""NSGA-II: a population, sorted by dominance and kept apart by crowding distance.

Source: Deb, Pratap, Agarwal and Meyarivan (2002), in the implementation
pymoo (Blank and Deb, 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field
from pymoo.algorithms.moo.nsga2 import NSGA2

from evomerge.evolution import Evolution
from evomerge.genome import Space
from evomerge.plugins import Observation, Proposal, Start


class Strategy:
    """What two survivors of equal rank differ by is the distance to their neighbours.

    `population`: candidates per generation. `steady`: children are bred one by one from what is
    known, without waiting for a generation; more is learned with many workers, and another number
    of them is another search.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        space: Space,
        objectives: Sequence[str],
        *,
        seed: int,
        start: Start = (),
        population: Annotated[int, Field(ge=4)] = 24,
        steady: bool = False,
    ) -> None:
        self._evolution = Evolution(
            NSGA2, space, len(objectives),
            seed=seed, start=start, population=population, steady=steady,
        )  # fmt: skip

    def ask(self, n: int) -> list[Proposal]:
        return self._evolution.ask(n)

    def tell(self, observations: Sequence[Observation]) -> None:
        self._evolution.tell(observations)

    def incumbents(self) -> list[tuple[float, ...]]:
        return []
