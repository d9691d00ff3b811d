"""One strategy after another under one numbering, for combinators."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

from evomerge import plugins
from evomerge.plugins import Observation, Proposal, Start, Strategy


class Relay:
    """Ids run on from one strategy to the next; what is told is kept, whoever proposed it."""

    def __init__(self, first: Strategy, start: Start = ()) -> None:
        self.current = first
        self.asked = 0
        self._start = tuple(start)
        self._offset = 0
        self._points: list[tuple[float, ...] | None] = []
        self._losses: dict[int, tuple[float, ...] | None] = {}
        self._out: set[int] = set()

    def ask(self, n: int, new: int = sys.maxsize) -> list[Proposal]:
        """Proposals of the strategy whose turn it is, `new` candidates at most; those that it
        promotes come first, and are not new."""
        n = min(n, self.promoted + new)
        proposals = [replace(p, id=p.id + self._offset) for p in self.current.ask(n)] if n else []
        self._points += [p.point for p in proposals if p.id >= self.asked]
        self.asked = len(self._points)
        self._out.update(p.id for p in proposals)
        return proposals

    def tell(self, observations: Sequence[Observation]) -> None:
        """What concerns an earlier strategy is noted; the current one hears the rest."""
        # In a replay, one that another version asked for may not be known
        known = [seen for seen in observations if seen.id < self.asked]
        for seen in known:
            self._out.discard(seen.id)
            self._losses[seen.id] = seen.losses
            if seen.point is not None:
                self._points[seen.id] = seen.point
        own = [
            replace(seen, id=seen.id - self._offset) for seen in known if seen.id >= self._offset
        ]
        if own:
            self.current.tell(own)

    @property
    def waits(self) -> bool:
        """Something that was asked, perhaps once more, has not been told since."""
        return bool(self._out)

    @property
    def promoted(self) -> int:
        return plugins.promoted(self.current)

    @property
    def own(self) -> list[tuple[float, ...] | None]:
        """Losses of what the current strategy proposed and was told, by id."""
        return [self._losses[id] for id in range(self._offset, self.asked) if id in self._losses]

    @property
    def known(self) -> Start:
        """The start, and every point with its losses, by id."""
        told = ((self._points[id], self._losses[id]) for id in sorted(self._losses))
        return (*self._start, *((point, losses) for point, losses in told if point is not None))

    def hand_over(self, following: Strategy) -> None:
        """The next ask is for `following`, which counts its own from 0."""
        self.current = following
        self._offset = self.asked


class Relayed:
    """What a strategy that hands over leaves to the one whose turn it is."""

    NEEDS: ClassVar[frozenset[str]] = frozenset()
    _relay: Relay

    def tell(self, observations: Sequence[Observation]) -> None:
        self._relay.tell(observations)

    def promoted(self) -> int:
        return self._relay.promoted

    def incumbents(self) -> list[tuple[float, ...]]:
        return self._relay.current.incumbents()

    def notes(self) -> list[str]:
        return plugins.notes(self._relay.current)


class Listed:
    """Proposes the given points, each once; whatever is told."""

    NEEDS: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, points: Sequence[tuple[float, ...]]) -> None:
        self._left = list(enumerate(points))

    def ask(self, n: int) -> list[Proposal]:
        asked, self._left = self._left[:n], self._left[n:]
        return [Proposal(id, point) for id, point in asked]

    def tell(self, observations: Sequence[Observation]) -> None:
        """Nothing is learned."""

    def incumbents(self) -> list[tuple[float, ...]]:
        return []


class Stages(Relayed):
    """Proposes what `first` does, at most so many `candidates`; once all of them are told, and
    `first` promotes none, what `begin(start=...)` proposes, who knows what they scored."""

    def __init__(
        self,
        first: Strategy,
        begin: Callable[..., Strategy],
        start: Start = (),
        candidates: int = sys.maxsize,
    ) -> None:
        begin()  # wrong options of the other strategy show now, not an hour later
        self._begin = begin
        self._relay = Relay(first, start)
        self._left: int | None = candidates

    def ask(self, n: int) -> list[Proposal]:
        if self._left is None:
            return self._relay.ask(n)
        before = self._relay.asked
        proposals = self._relay.ask(n, self._left)
        self._left -= self._relay.asked - before
        if proposals or self._relay.waits:
            return proposals
        self._relay.hand_over(self._begin(start=self._relay.known))
        self._left = None
        return self._relay.ask(n)
