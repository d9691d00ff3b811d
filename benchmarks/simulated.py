"""An executor of many workers of unequal speed that load no model, and a strategy that is timed.

Answers are made up from the plan's key, so that the same plan always answers the same; what takes
time is simulated, what costs time is the driver's own.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from evomerge import plugins
from evomerge.blocks import block
from evomerge.files.ledger import Answer
from evomerge.genome import Space
from evomerge.plugins import Observation, Proposal
from evomerge.worker import Job, Result, Setup

SPREAD = 0.8
"""Standard deviation of the logarithm of a worker's seconds a job."""


@dataclass
class Seconds:
    """Where time went that is not the driver's: on the clock, and `cpu` of the processor."""

    idle: float = 0.0
    made_up: float = 0.0
    strategy: float = 0.0
    cpu: float = 0.0
    waits: int = 0
    results: int = 0

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        begun, cpu = time.perf_counter(), time.process_time()
        yield
        setattr(self, name, getattr(self, name) + time.perf_counter() - begun)
        self.cpu += time.process_time() - cpu


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
        answers = []
        spent.results += 1
        with spent.on("made_up"):
            for objective, split, number in job.blocks:
                items = block(self._setup.banks[objective], split, number, self._setup.batch)
                scores = _scores(job.key, objective, len(items))
                answers += [
                    Answer(objective, item.id, split, score, {})
                    for item, score in zip(items, scores, strict=True)
                ]
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


class Strategy:
    """Another strategy (`inner`), whose own time is kept apart from the driver's."""

    NEEDS: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self, space: Space, objectives: Sequence[str], *, seed: int, inner: Mapping[str, Any]
    ) -> None:
        named = plugins.inner(inner, "inner")
        self._inner = plugins.begin(*named, space, objectives, seed=seed, where="inner")

    def ask(self, n: int) -> list[Proposal]:
        with spent.on("strategy"):
            return self._inner.ask(n)

    def tell(self, observations: Sequence[Observation]) -> None:
        with spent.on("strategy"):
            self._inner.tell(observations)

    def incumbents(self) -> list[tuple[float, ...]]:
        return self._inner.incumbents()
