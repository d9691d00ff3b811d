"""An executor of many workers of unequal speed that load no model, and a strategy that is timed.

Answers are made up from the plan's key, so that the same plan always answers the same; what takes
time is simulated, what costs time is the driver's own.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated

import numpy as np
from pydantic import Field

from evomerge.files.ledger import Answer
from evomerge.genome import Space
from evomerge.plugins import Observation, Proposal
from evomerge.strategies import nsga2
from evomerge.worker import Job, Result, Setup, block

SPREAD = 0.8
"""Standard deviation of the logarithm of a worker's seconds a job."""


@dataclass
class Seconds:
    """Where the wall-clock went that is not the driver's."""

    idle: float = 0.0
    made_up: float = 0.0
    strategy: float = 0.0
    waits: int = 0
    results: int = 0


spent = Seconds()


class Executor:
    """`workers`, each with a speed of its own; `seconds` is the median a job."""

    IN_ORDER = False

    def __init__(
        self,
        setup: Setup,
        *,
        workers: Annotated[int, Field(ge=1)] = 1000,
        seconds: Annotated[float, Field(gt=0)] = 2.0,
        seed: int = 0,
    ) -> None:
        self.workers = workers
        self._setup = setup
        speeds = np.random.default_rng(seed).lognormal(np.log(seconds), SPREAD, workers)
        self._takes: list[float] = speeds.tolist()
        self._idle = list(range(workers))[::-1]
        self._waiting: list[Job] = []
        self._running: list[tuple[float, int, Job]] = []

    def submit(self, job: Job) -> None:
        self._waiting.append(job)
        self._dispatch(time.monotonic())

    def _dispatch(self, now: float) -> None:
        while self._waiting and self._idle:
            slot = self._idle.pop()
            heapq.heappush(self._running, (now + self._takes[slot], slot, self._waiting.pop(0)))

    def completed(self) -> Iterator[list[Result]]:
        while self._running:
            spent.waits += 1
            delay = self._running[0][0] - time.monotonic()
            if delay > 0:
                spent.idle += delay
                time.sleep(delay)
            results, now = [], time.monotonic()
            while self._running and self._running[0][0] <= now:
                end, slot, job = heapq.heappop(self._running)
                self._idle.append(slot)
                self._dispatch(end)
                results.append(self._result(job, slot))
            yield results

    def _result(self, job: Job, slot: int) -> Result:
        begun = time.perf_counter()
        answers = []
        for objective, split, number in job.blocks:
            items = block(self._setup.banks[objective], split, number, self._setup.batch)
            scores = _scores(job.key, objective, len(items))
            answers += [
                Answer(objective, item.id, split, score, {})
                for item, score in zip(items, scores, strict=True)
            ]
        spent.results += 1
        spent.made_up += time.perf_counter() - begun
        return Result(job.key, tuple(answers), number=job.number, spent={"": 0.1}, slot=slot)

    def cancel(self) -> list[int]:
        waiting = [job.number for job in self._waiting]
        self._waiting.clear()
        return waiting

    def close(self) -> None:
        self._waiting.clear()
        self._running.clear()


def _scores(key: str, objective: str, n: int) -> list[float]:
    """Right or wrong, as often as the plan's ability says."""
    digest = sha256(f"{key} {objective}".encode()).digest()
    ability = digest[0] / 255
    draws = np.random.default_rng(list(digest[1:9])).random(n)
    return (draws < ability).astype(float).tolist()


class Strategy(nsga2.Strategy):
    """NSGA-II that breeds one by one; its own time is kept apart from the driver's."""

    def __init__(self, space: Space, objectives: Sequence[str], *, seed: int) -> None:
        super().__init__(space, objectives, seed=seed, steady=True)

    def ask(self, n: int) -> list[Proposal]:
        begun = time.perf_counter()
        found = super().ask(n)
        spent.strategy += time.perf_counter() - begun
        return found

    def tell(self, observations: Sequence[Observation]) -> None:
        begun = time.perf_counter()
        super().tell(observations)
        spent.strategy += time.perf_counter() - begun
