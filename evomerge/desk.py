"""Has what is missing answered: gives out jobs, tries again what failed by no fault of its own."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from evomerge import errors, plugins
from evomerge.answers import Answers, Place, text
from evomerge.pace import Pace
from evomerge.plan import Plan
from evomerge.worker import Job, Result

TRIES: Mapping[str, int] = {
    "memory": 2, "died": 2, "lost": 6, "evicted": 6, "slow": 1, "": 1
}  # fmt: skip
"""How often a job is done, by how it failed the last time, before its candidate has failed.

A worker that the machine's memory monitor ended need not have been the cause of the shortage."""

SLOW, PATIENCE = 10.0, 60.0
"""A job hangs after this many times the expected seconds, but never before so many, nor before
anything is expected."""

LOOK = 1.0
"""Seconds between two looks for jobs that hang."""


class Desk:
    """Gives jobs to an executor, which is started only when there is something to do."""

    def __init__(
        self,
        answers: Answers,
        executor: tuple[str, Mapping[str, Any]],
        pace: Pace,
        *,
        between: Callable[[Desk], None] = lambda desk: None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`between` is called between two results, and ends the work by what it raises; `judge`,
        once it is set, may make a failure of a result before it is recorded."""
        self.answers = answers
        self.pace = pace
        self.traces: dict[str, str] = {}
        self.judge: Callable[[Result], Result] = lambda result: result
        self._between, self._note = between, note
        self._named = executor
        self._executor: Any = None
        self._flying: dict[int, Job] = {}
        self._keys: Counter[str] = Counter()
        self._looked = -math.inf
        self._tries: dict[int, int] = {}
        self._given = 0

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
        self._given += 1
        self._keys[plan.key] += 1
        self._give(Job(plan.model_dump(mode="json"), plan.key, missing, self._given))
        return True

    def _limit(self, job: Job) -> float:
        """Seconds after which a job is taken to hang."""
        if not self.pace.is_learnt:
            return math.inf
        return max(PATIENCE, SLOW * self.pace.of(job.blocks))

    def _give(self, job: Job) -> None:
        self._flying[job.number] = job
        self._start().submit(job)

    def wait(self) -> list[Result]:
        """What has come, recorded before it is given out; none: nothing came for a moment."""
        found: list[Result] = []
        if self._executor is not None and self._flying:
            try:
                came = self._overdue() or next(self._executor.completed(), [])
            except errors.MachineError:
                self._between(self)  # a closed terminal ends Ray's processes as it stops ours
                raise
            found = self._settled(came)
        self._between(self)
        return found

    def _overdue(self) -> list[Result]:
        """A job that hangs, as failed; to look at all that are being done takes time itself."""
        now = time.monotonic()
        if now < self._looked + LOOK or not hasattr(self._executor, "overdue"):
            return []
        result = self._executor.overdue(self._limit)
        self._looked = now if result is None else self._looked
        return [] if result is None else [result]

    def _settled(self, results: Iterable[Result]) -> list[Result]:
        """Those that are final, recorded in one transaction."""
        final = [self.judge(result) for result in results if self._is_final(result)]
        if final:
            self.answers.add(final)
        for result in final:
            self.pace.add(result)
            if result.trace:
                self.traces[result.key] = result.trace
        return final

    def _is_final(self, result: Result) -> bool:
        """Not if nobody awaits it, or if its job is tried again."""
        job = self._flying.pop(result.number, None)
        if job is None:
            self._note(f"{result.key[:12]}: a late or second result of a job is ignored")
            return False
        tries = self._tries.pop(job.number, 0) + 1
        if result.failed is not None and tries < TRIES[result.cause]:
            self._note(f"{result.key[:12]}: {result.failed}; tried again in a fresh worker")
            self._tries[job.number] = tries
            halved = job.halved or result.cause == "memory"
            self._give(replace(job, fresh=result.cause != "lost", halved=halved))
            return False
        self._land(job)
        return True

    def _land(self, job: Job) -> None:
        self._keys[job.key] -= 1
        if not self._keys[job.key]:
            del self._keys[job.key]

    def is_flying(self, key: str) -> bool:
        return key in self._keys

    def answer(
        self, plans: Iterable[Plan], places: Sequence[Place], told: Callable[[Result], None]
    ) -> None:
        """Have all these plans answer all these blocks."""
        plans = list({plan.key: plan for plan in plans}.values())
        self.answers.ledger.add_plans((plan.key, text(plan)) for plan in plans)
        for plan in plans:
            self.submit(plan, places)
        mine = {plan.key for plan in plans}
        while not mine.isdisjoint(self._keys):
            for result in self.wait():
                told(result)

    def cancel(self) -> None:
        """Take back all jobs that no worker has begun."""
        if self._executor is not None:
            for number in self._executor.cancel():
                job = self._flying.pop(number, None)
                if job is not None:
                    self._land(job)

    def finish(self, seconds: float) -> None:
        """Take back what is waiting, and record what ends within these seconds."""
        self.cancel()
        end = time.monotonic() + seconds
        while self._flying and time.monotonic() < end:
            try:
                came: list[Result] = next(self._executor.completed(), [])
            except errors.MachineError:  # nothing comes any more: it is asked for again
                return
            self._settled(came)

    def close(self) -> None:
        if self._executor is not None:
            self._executor.close()
            self._executor = None
