"""Every answer of a run at hand, and the way to get those that are missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from evomerge.files.ledger import Answer, Ledger
from evomerge.plan import Plan, canonical
from evomerge.worker import Place as Place
from evomerge.worker import Result, Setup, block, n_blocks

Scores = npt.NDArray[np.float64]


class Answers:
    """The answers of a ledger in memory, by plan key, objective and item."""

    def __init__(self, ledger: Ledger, setup: Setup) -> None:
        self.ledger = ledger
        self.setup = setup
        self.failures = ledger.failures()
        self._table: dict[tuple[str, str], dict[str, Answer]] = {}
        self.searched = 0
        for plan, answer in ledger.answers():
            self._keep(plan, answer)

    def _keep(self, plan: str, answer: Answer) -> None:
        row = self._table.setdefault((plan, answer.bank), {})
        self.searched += answer.split == "search" and answer.item not in row
        row.setdefault(answer.item, answer)

    def add(self, result: Result) -> None:
        """Keep a result, on disk first."""
        if result.failed is not None:
            self.ledger.record_failure(result.key, result.failed, result.host, result.slot)
            self.failures[result.key] = result.failed
            return
        self.ledger.record(result.key, result.answers, result.host, result.slot)
        for answer in result.answers:
            self._keep(result.key, answer)

    def retry(self, keys: Iterable[str]) -> None:
        """Forget that these plans failed."""
        failed = [key for key in keys if self.failures.pop(key, None) is not None]
        if failed:
            self.ledger.forget_failures(failed)

    def places(self, split: str, items: int | None = None) -> list[Place]:
        """The blocks that hold the first `items` items of every bank (None: all)."""
        batch = self.setup.batch
        return [
            (objective, split, number)
            for objective, bank in self.setup.banks.items()
            for number in range(n_blocks(bank, split, batch, items))
        ]

    def missing(self, key: str, places: Iterable[Place]) -> tuple[Place, ...]:
        """Those blocks that a plan has not answered."""
        return tuple(place for place in places if not self._has(key, place))

    def _has(self, key: str, place: Place) -> bool:
        objective, split, number = place
        row = self._table.get((key, objective), {})
        items = block(self.setup.banks[objective], split, number, self.setup.batch)
        return all(item.id in row for item in items)

    def column(
        self, key: str, objective: str, places: Sequence[Place], signal: str = "score"
    ) -> Scores:
        """What a plan scored on the items of an objective's blocks, in their order: (n,)."""
        found = self._answered(key, objective, places)
        return np.array([seen(answer, signal) for answer in found])

    def row(self, key: str, objective: str, signal: str = "score") -> Scores:
        """What a plan scored on all `search` items of an objective (I,): nan where not asked."""
        row = self._table.get((key, objective), {})
        items = self.setup.banks[objective].split("search")
        return np.array([seen(row[i.id], signal) if i.id in row else np.nan for i in items])

    def by_item(self, key: str, objective: str, places: Sequence[Place]) -> dict[str, float]:
        """Scores of a plan by item id, on the items of an objective's blocks."""
        return {a.item: a.score for a in self._answered(key, objective, places)}

    def _answered(self, key: str, objective: str, places: Sequence[Place]) -> Iterator[Answer]:
        row, bank = self._table.get((key, objective), {}), self.setup.banks[objective]
        mine = (place for place in places if place[0] == objective)
        for _, split, number in mine:
            yield from (row[i.id] for i in block(bank, split, number, self.setup.batch))

    def split(
        self, key: str, split: str, objectives: Sequence[str] | None = None
    ) -> list[Scores] | None:
        """Scores of a plan on all items of a split, an array for each of `objectives` (all, if
        not given); None if anything of the split is missing."""
        places = self.places(split)
        if key in self.failures or self.missing(key, places):
            return None
        names = objectives or self.setup.banks
        return [self.column(key, objective, places) for objective in names]


def seen(answer: Answer, signal: str) -> float:
    """What a search that looks at a signal sees of an answer: a scorer without that signal
    gives its score."""
    return answer.score if signal == "score" else answer.extra.get(signal, answer.score)


def text(plan: Plan) -> str:
    return canonical(plan.model_dump(mode="json"))
