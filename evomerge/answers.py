"""Every answer of a run at hand, and the way to get those that are missing."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from evomerge.blocks import Place as Place
from evomerge.blocks import block, places
from evomerge.files.items import Item
from evomerge.files.ledger import Answer, Ledger
from evomerge.plan import Plan, canonical
from evomerge.worker import Result, Setup

Scores = npt.NDArray[np.float64]


KEPT = 2**18
"""Answers that are kept in memory, of the plans that were looked at last: about 100 MB."""

Rows = dict[str, dict[str, Answer]]
"""What one plan has answered, by objective and item."""


class Answers:
    """The answers of a ledger, by plan key, objective and item.

    Those looked at last are kept in memory, so that what it takes does not grow with a search.
    """

    def __init__(self, ledger: Ledger, setup: Setup) -> None:
        self.ledger = ledger
        self.setup = setup
        self.failures = ledger.failures()
        self.searched = ledger.searched()
        self._rows: OrderedDict[str, Rows] = OrderedDict()
        self._weights: dict[str, int] = {}
        self._places: dict[tuple[str, int | None], list[Place]] = {}
        self._kept = 0

    def add(self, results: Sequence[Result]) -> None:
        """Keep results, on disk first: all of them in one transaction."""
        before = {result.key: self._of(result.key) for result in results}
        with self.ledger.together():
            for result in results:
                slot = (result.host, result.slot)
                if result.failed is not None:
                    self.ledger.record_failure(result.key, result.failed, *slot)
                else:
                    self.ledger.record(result.key, result.answers, *slot)
        for result in results:
            if result.failed is not None:
                self.failures[result.key] = result.failed
            for answer in result.answers:
                row = before[result.key].setdefault(answer.bank, {})
                self.searched += answer.split == "search" and answer.item not in row
                row.setdefault(answer.item, answer)
        for key, rows in before.items():
            self._keep(key, rows)

    def _of(self, key: str) -> Rows:
        rows = self._rows.get(key)
        if rows is None:
            rows = {}
            for answer in self.ledger.answers_of(key):
                rows.setdefault(answer.bank, {})[answer.item] = answer
            self._keep(key, rows)
        self._rows.move_to_end(key)
        return rows

    def _keep(self, key: str, rows: Rows) -> None:
        """Keep what one plan has answered; what was looked at longest ago makes room."""
        self._rows.pop(key, None)
        self._kept += _weight(rows) - self._weights.pop(key, 0)
        self._rows[key], self._weights[key] = rows, _weight(rows)
        while self._kept > KEPT and len(self._rows) > 1:
            oldest, _ = self._rows.popitem(last=False)
            self._kept -= self._weights.pop(oldest)

    def retry(self, keys: Iterable[str]) -> None:
        """Forget that these plans failed."""
        failed = [key for key in keys if self.failures.pop(key, None) is not None]
        if failed:
            self.ledger.forget_failures(failed)

    def places(self, split: str, items: int | None = None) -> list[Place]:
        """As `blocks.places`: one list for all candidates that are asked them."""
        known = self._places.get((split, items))
        if known is None:
            known = places(self.setup.banks, split, self.setup.batch, items)
            self._places[split, items] = known
        return known

    def missing(self, key: str, places: Iterable[Place]) -> tuple[Place, ...]:
        """Those blocks that a plan has not answered."""
        return tuple(place for place in places if not self._has(key, place))

    def failed(self, key: str, places: Iterable[Place]) -> bool:
        """Whether it is for a failure that a plan has not answered these blocks: who fails on
        some has answered others all the same."""
        return key in self.failures and bool(self.missing(key, places))

    def count(self, places: Iterable[Place]) -> int:
        """How many items blocks have together."""
        return sum(len(self._items(place)) for place in places)

    def _has(self, key: str, place: Place) -> bool:
        row = self._of(key).get(place[0], {})
        return all(item.id in row for item in self._items(place))

    def _items(self, place: Place) -> Sequence[Item]:
        objective, split, number = place
        return block(self.setup.banks[objective], split, number, self.setup.batch)

    def column(
        self, key: str, objective: str, places: Sequence[Place], signal: str = "score"
    ) -> Scores:
        """What a plan scored on the items of an objective's blocks, in their order: (n,)."""
        found = self._answered(key, objective, places)
        return np.array([answer.seen(signal) for answer in found])

    def row(self, key: str, objective: str, signal: str = "score") -> Scores:
        """What a plan scored on all `search` items of an objective (I,): nan where not asked."""
        row = self._of(key).get(objective, {})
        items = self.setup.banks[objective].split("search")
        return np.array([row[i.id].seen(signal) if i.id in row else np.nan for i in items])

    def extras(self, key: str, objective: str, split: str) -> list[Mapping[str, float]]:
        """What a scorer said beside each score of a plan on a split."""
        row = self._of(key).get(objective, {})
        return [answer.extra for answer in row.values() if answer.split == split]

    def by_item(self, key: str, objective: str, places: Sequence[Place]) -> dict[str, float]:
        """Scores of a plan by item id, on the items of an objective's blocks."""
        return {a.item: a.score for a in self._answered(key, objective, places)}

    def _answered(self, key: str, objective: str, places: Sequence[Place]) -> Iterator[Answer]:
        row = self._of(key).get(objective, {})
        for place in places:
            if place[0] == objective:
                yield from (row[item.id] for item in self._items(place))

    def split(
        self, key: str, split: str, objectives: Sequence[str] | None = None
    ) -> list[Scores] | None:
        """Scores of a plan on all items of a split, an array for each of `objectives` (all, if
        not given); None if anything of the split is missing."""
        places = self.places(split)
        if self.missing(key, places):
            return None
        names = objectives or self.setup.banks
        return [self.column(key, objective, places) for objective in names]


def _weight(rows: Rows) -> int:
    """Answers, and one for the place of a plan that has none."""
    return 1 + sum(map(len, rows.values()))


def text(plan: Plan) -> str:
    return canonical(plan.model_dump(mode="json"))
