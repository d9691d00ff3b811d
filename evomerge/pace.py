"""How long jobs take: what those of the past say of the next."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from evomerge.blocks import Place, block
from evomerge.worker import Result, Setup

BUILD = ""
"""What building is called among the seconds of a job; all other names are objectives."""

LEARNT = 2
"""Jobs (base and an expert) before which nothing is expected of others."""

REMEMBERED = 50
"""Jobs: a machine that others use too is not always equally fast."""


class Pace:
    """Medians of the seconds that a build and an item of each objective have taken."""

    def __init__(self, setup: Setup, known: Mapping[str, float] | None = None) -> None:
        """`known`: medians of an earlier session, forgotten as soon as there are new ones."""
        self._setup = setup
        self._known = dict(known or {})
        self._seen: dict[str, deque[float]] = {}
        self._jobs = 0

    @property
    def is_learnt(self) -> bool:
        """Whether a job can be expected to take some time: enough of them are done, or an earlier
        session has known what a build takes and an item of each objective."""
        return self._jobs >= LEARNT or self._known.keys() >= {BUILD, *self._setup.banks}

    def add(self, result: Result) -> None:
        """Learn from a job that did not fail."""
        if result.failed is not None:
            return
        self._jobs += 1
        items: dict[str, int] = {}
        for answer in result.answers:
            items[answer.bank] = items.get(answer.bank, 0) + 1
        for name, seconds in result.spent.items():
            queue = self._seen.setdefault(name, deque(maxlen=REMEMBERED))
            queue.append(seconds / items.get(name, 1))

    def medians(self) -> dict[str, float]:
        """Seconds of a build (BUILD) and of an item of each objective, as far as known."""
        seen = {name: statistics.median(queue) for name, queue in self._seen.items()}
        return {**self._known, **seen}

    def build(self) -> float:
        """Items of each objective that are answered in the time that a build takes."""
        each = self.medians()
        answering = sum(seconds for name, seconds in each.items() if name != BUILD)
        return each.get(BUILD, 0.0) / answering if answering else 0.0

    def of(self, blocks: Iterable[Place]) -> float:
        """Seconds that building a plan and answering these blocks are expected to take."""
        each = self.medians()
        return each.get(BUILD, 0.0) + sum(
            each.get(name, 0.0) * len(self._items(name, split, number))
            for name, split, number in blocks
        )

    def _items(self, name: str, split: str, number: int | tuple[str, ...]) -> Any:
        return block(self._setup.banks[name], split, number, self._setup.batch)
