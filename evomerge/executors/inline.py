"""Jobs run in the calling process, one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from evomerge.worker import Job, Result, Setup, Worker


class Executor:
    """One worker, no cluster."""

    IN_ORDER = True

    def __init__(self, setup: Setup, *, workers: Annotated[int, Field(ge=1, le=1)] = 1) -> None:
        self.workers = 1
        self._worker = Worker(setup)
        self._queue: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        self._queue.append(job)

    def completed(self) -> Iterator[Result]:
        while self._queue:
            yield self._worker.run(self._queue.popleft())

    def close(self) -> None:
        self._queue.clear()
