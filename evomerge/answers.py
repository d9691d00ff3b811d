"""Every answer of a run at hand, and the way to get those that are missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from evomerge import errors, plugins
from evomerge.files.ledger import Answer, Ledger
from evomerge.plan import Plan, canonical
from evomerge.worker import Job, Result, Setup, block, n_blocks
from evomerge.worker import Place as Place

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

    def by_item(
        self, key: str, objective: str, places: Sequence[Place], signal: str = "score"
    ) -> dict[str, float]:
        """What a plan scored by item id, on the items of an objective's blocks."""
        return {a.item: seen(a, signal) for a in self._answered(key, objective, places)}

    def _answered(self, key: str, objective: str, places: Sequence[Place]) -> Iterator[Answer]:
        row, bank = self._table.get((key, objective), {}), self.setup.banks[objective]
        mine = (place for place in places if place[0] == objective)
        for _, split, number in mine:
            yield from (row[i.id] for i in block(bank, split, number, self.setup.batch))

    def split(self, key: str, split: str) -> list[Scores] | None:
        """Scores of a plan on all items of a split, an array an objective; None if incomplete."""
        places = self.places(split)
        if key in self.failures or self.missing(key, places):
            return None
        return [self.column(key, objective, places) for objective in self.setup.banks]


def seen(answer: Answer, signal: str) -> float:
    """What a search that looks at a signal sees of an answer: a scorer without that signal
    gives its score."""
    return answer.score if signal == "score" else answer.extra.get(signal, answer.score)


class Desk:
    """Gives jobs to an executor, which is started only when there is something to do."""

    def __init__(
        self,
        answers: Answers,
        executor: tuple[str, Mapping[str, Any]],
        *,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.answers = answers
        self.stopping = stopping
        self._named = executor
        self._executor: Any = None
        self._flying: dict[str, int] = {}

    @property
    def in_order(self) -> bool:
        """Whether the executor does one job after the other, in the order of submission."""
        return bool(plugins.load("executor", self._named[0]).Executor.IN_ORDER)

    @property
    def workers(self) -> int:
        return int(self._start().workers)

    def _start(self) -> Any:
        if self._executor is None:
            name, options = self._named
            module = plugins.load("executor", name)
            self._executor = module.Executor(self.answers.setup, **options)
        return self._executor

    def submit(self, plan: Plan, places: Iterable[Place]) -> bool:
        """Ask for what is missing; False if nothing is, or the plan has failed before."""
        missing = self.answers.missing(plan.key, places)
        if not missing or plan.key in self.answers.failures:
            return False
        self._start().submit(Job(plan.model_dump(mode="json"), plan.key, missing))
        self._flying[plan.key] = self._flying.get(plan.key, 0) + 1
        return True

    def completed(self) -> Iterator[Result]:
        """Results as they come, each recorded before it is given out."""
        if self._executor is None:
            return
        for result in self._executor.completed():
            self.answers.add(result)
            self._flying[result.key] -= 1
            # Before the yield: whoever takes one result at a time never comes back after it
            if self.stopping():
                raise errors.Interrupted("interrupted: run the same command again to go on")
            yield result

    def is_flying(self, key: str) -> bool:
        return self._flying.get(key, 0) > 0

    def answer(
        self, plans: Iterable[Plan], places: Sequence[Place], told: Callable[[Result], None]
    ) -> None:
        """Have all these plans answer all these blocks."""
        plans = list({plan.key: plan for plan in plans}.values())
        self.answers.ledger.add_plans((plan.key, text(plan)) for plan in plans)
        for plan in plans:
            self.submit(plan, places)
        for result in self.completed():
            told(result)

    def close(self) -> None:
        if self._executor is not None:
            self._executor.close()
            self._executor = None


def text(plan: Plan) -> str:
    return canonical(plan.model_dump(mode="json"))
