"""Jobs run in the calling process, one after the other.

It can not end a job that hangs, and a model that crashes the process ends the search with it.
"""

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
        self._setup = setup
        self._worker: Worker | None = Worker(setup)
        self._queue: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        """What is done again keeps its place, so that results stay in order."""
        if job.fresh:
            self._queue.appendleft(job)
        else:
            self._queue.append(job)

    def completed(self) -> Iterator[list[Result]]:
        """One after the other."""
        while self._queue:
            job = self._queue.popleft()
            if job.fresh or self._worker is None:
                self._worker = None  # its memory is free before the next one takes some
                self._worker = Worker(self._setup)
            yield [self._worker.run(job)]

    def cancel(self) -> list[int]:
        waiting = [job.number for job in self._queue]
        self._queue.clear()
        return waiting

    def close(self) -> None:
        self._queue.clear()
