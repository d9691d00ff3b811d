"""Children bred one after another from an archive of fixed size, as ask and tell."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from evomerge.genome import Space, alone
from evomerge.maths import pareto, sequences
from evomerge.plugins import Observation, Proposal, Start

TRIES = 10
"""Times that a child is bred anew when it has been proposed before; then a new point comes in."""

Unit = tuple[float, ...]
Member = TypeVar("Member")


class Lineage(ABC, Generic[Member]):
    """The points `first`, then children; child number i is bred from what candidates up to
    i - `ahead` have shown, in the order of their ids: so many can be open, none waits for a
    generation, and 1 is one after the other. A strategy says what `read`, `worst` and `bred` are.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        space: Space,
        first: Sequence[Unit],
        *,
        seed: int,
        size: int,
        ahead: int,
    ) -> None:
        self._space, self._first, self._seed = space, list(first), seed
        self._size, self._ahead = size, ahead
        self._next = self._heard = self._fresh = 0
        self._asked: set[Unit] = set()
        self._told: dict[int, Member | None] = {}
        self.archive: list[int] = []

    @abstractmethod
    def read(self, seen: Observation) -> Member | None:
        """What the archive keeps of an observation that has losses; None: of this one nothing, but
        what is known of the candidate already."""

    @abstractmethod
    def worst(self, members: Sequence[Member]) -> int:
        """Which member leaves when there are more than `size`."""

    @abstractmethod
    def bred(
        self, members: Sequence[Member], number: int, rng: np.random.Generator
    ) -> Iterator[Unit]:
        """Endless points for child `number` (from 0): the first that has not been proposed is
        taken; after TRIES, a point of a Sobol sequence."""

    def incumbents(self) -> list[Unit]:
        return []

    def ask(self, n: int) -> list[Proposal]:
        proposals: list[Proposal] = []
        while len(proposals) < n:
            id, begun = self._next, len(self._first)
            if id >= begun and not self._hear(max(id - self._ahead, begun - 1)):
                break
            point = self._first[id] if id < begun else self._child(id)
            self._asked.add(point)
            proposals.append(Proposal(id, point))
            self._next += 1
        return proposals

    def tell(self, observations: Sequence[Observation]) -> None:
        for seen in observations:
            known = pareto.measured(seen.losses) and seen.point is not None
            member = self.read(seen) if known else None
            if member is not None:
                self._told[seen.id] = member
            elif not known or self._told.get(seen.id) is None:
                self._told[seen.id] = None
                self.archive = [id for id in self.archive if id != seen.id]

    def _hear(self, last: int) -> bool:
        """Let candidates up to id `last` into the archive, in order; False: one is not told."""
        while self._heard <= last:
            if self._heard not in self._told:
                return False
            if self._told[self._heard] is not None:
                self.archive.append(self._heard)
            self._heard += 1
            if len(self.archive) > self._size:
                self.archive.pop(self.worst(self._members()))
        return True

    def _members(self) -> list[Member]:
        return [told for id in self.archive if (told := self._told[id]) is not None]

    def _child(self, id: int) -> Unit:
        members = self._members()
        if len(members) > 1:
            rng = np.random.default_rng([self._seed, id])
            bred = self.bred(members, id - len(self._first), rng)
            for point in islice(bred, TRIES):
                if point not in self._asked:
                    return point
        for _ in range(TRIES):
            (fresh,) = sequences.stretch(len(self._space), self._seed, self._fresh, 1)
            self._fresh += 1
            point = canonical(self._space, fresh)
            if point not in self._asked:
                break
        return point


def canonical(space: Space, point: npt.ArrayLike) -> Unit:
    return tuple(space.canonical(point).tolist())


def beginnings(space: Space, start: Start, size: int) -> list[Unit]:
    """The best of what is known, whose answers are not; the defaults; each expert alone.

    Asking a known point again costs no items, as its plan has been answered.
    """
    known: list[tuple[Any, Any]] = [(p, f) for p, f in start if pareto.measured(f)]
    known.sort(key=lambda pair: sum(pair[1]))
    points = [point for point, _ in known[: size // 2]]
    genes = {gene.key: gene for gene in space.genes}
    for given in ({}, *alone(space)):
        near = {k: min(max(float(v), genes[k].low), genes[k].high) for k, v in given.items()}
        points.append(space.encode(near))
    return list(dict.fromkeys(canonical(space, point) for point in points))
