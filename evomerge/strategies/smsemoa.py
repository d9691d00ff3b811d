"""SMS-EMOA: a population from which the candidate that adds least hypervolume is dropped.

Source: Beume, Naujoks and Emmerich (2007), in the implementation
pymoo (Blank and Deb, 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field
from pymoo.algorithms.moo.sms import SMSEMOA

from evomerge.evolution import Evolution
from evomerge.genome import Space
from evomerge.plugins import Observation, Proposal, Start


class Strategy:
    """Two objectives at least: with one there is no volume to share.

    `population`: candidates per generation. `steady`: children are bred one by one from what is
    known, without waiting for a generation; more is learned with many workers, and another number
    of them is another search.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset({"several_objectives"})

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
            SMSEMOA, space, len(objectives),
            seed=seed, start=start, population=population, steady=steady,
        )  # fmt: skip

    def ask(self, n: int) -> list[Proposal]:
        return self._evolution.ask(n)

    def tell(self, observations: Sequence[Observation]) -> None:
        self._evolution.tell(observations)

    def incumbents(self) -> list[tuple[float, ...]]:
        return []
