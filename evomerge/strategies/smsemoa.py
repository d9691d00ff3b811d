"""SMS-EMOA: a population from which the candidate that adds least hypervolume is dropped.

Source: Beume, Naujoks and Emmerich (2007), in the implementation
pymoo (Blank and Deb, 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from pymoo.algorithms.moo.sms import SMSEMOA

from evomerge.evolution import Evolution


class Strategy(Evolution):
    """Two objectives at least: with one there is no volume to share.

    `population`: candidates per generation. `steady`: children are bred one by one.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset({"several_objectives"})

    @staticmethod
    def algorithm(objectives: int, population: int) -> Callable[..., Any]:
        return SMSEMOA  # type: ignore[no-any-return]
