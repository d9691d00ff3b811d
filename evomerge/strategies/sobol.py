"""Quasi-random search: the points of a scrambled Sobol sequence, whatever is told.

What every other strategy has to beat. Source: Sobol' (1967); Bergstra and Bengio (2012) on
random search as the baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from evomerge.genome import Space
from evomerge.maths import sequences
from evomerge.plugins import Observation, Proposal


class Strategy:
    """Never waits; choices and conditions are searched like numbers, each choice equally often."""

    NEEDS: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, space: Space, objectives: Sequence[str], *, seed: int) -> None:
        self._space = space
        self._seed = seed
        self._next = 0
        self._block = sequences.sobol(len(space), seed, 0)

    def ask(self, n: int) -> list[Proposal]:
        return [self._proposal() for _ in range(n)]

    def _proposal(self) -> Proposal:
        block, row = divmod(self._next, sequences.BLOCK)
        if row == 0 and block:
            self._block = sequences.sobol(len(self._space), self._seed, block)
        point = self._space.canonical(self._block[row])
        self._next += 1
        return Proposal(self._next - 1, tuple(point.tolist()))

    def tell(self, observations: Sequence[Observation]) -> None:
        """Nothing is learned."""

    def incumbents(self) -> list[tuple[float, ...]]:
        return []
