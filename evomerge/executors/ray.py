"""Jobs run on Ray actors, one a slot: on this machine (loopback only) or on a running cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from pydantic import Field

from evomerge import errors
from evomerge.worker import Job, Result, Setup, Worker

# An actor that dies is built anew and its job given to it again: answers are keyed, so that
# doing a job twice changes nothing.
_RESTARTS = 3


class Executor:
    """`workers` actors with `gpus` (may be a fraction) each; `address: auto` joins a cluster."""

    IN_ORDER = False

    def __init__(
        self,
        setup: Setup,
        *,
        workers: Annotated[int, Field(ge=1)] = 2,
        address: str | None = None,
        gpus: Annotated[float, Field(ge=0)] = 0,
    ) -> None:
        if address is None:
            # Read when ray is imported: its servers then bind to loopback, not to all interfaces.
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        import ray

        self.workers = workers
        self._started = not ray.is_initialized()
        if self._started:
            _start(ray, address, workers)
        actor = ray.remote(
            num_cpus=1, num_gpus=gpus, max_restarts=_RESTARTS, max_task_retries=_RESTARTS
        )(Worker)
        self._ray = ray
        self._actors: list[Any] = [actor.remote(setup, slot) for slot in range(workers)]
        self._holds: list[str | None] = [None] * workers
        self._waiting: list[Job] = []
        self._running: dict[Any, tuple[int, Job]] = {}

    def submit(self, job: Job) -> None:
        self._waiting.append(job)
        self._dispatch()

    def _dispatch(self) -> None:
        busy = {slot for slot, _ in self._running.values()}
        for slot in range(self.workers):
            if slot in busy or not self._waiting:
                continue
            # The worker that still holds a plan does not build it again.
            mine = [job for job in self._waiting if job.key == self._holds[slot]]
            job = mine[0] if mine else self._waiting[0]
            self._waiting.remove(job)
            self._holds[slot] = job.key
            self._running[self._actors[slot].run.remote(job)] = (slot, job)

    def completed(self) -> Iterator[Result]:
        while self._running:
            done, _ = self._ray.wait(list(self._running), num_returns=1)
            slot, job = self._running.pop(done[0])
            try:
                result = self._ray.get(done[0])
            except self._ray.exceptions.RayActorError as error:
                raise errors.MachineError(
                    f"Ray worker {slot} died {_RESTARTS + 1} times: {str(error).splitlines()[0]}"
                ) from error
            except self._ray.exceptions.RayTaskError as error:
                result = Result(job.key, failed=str(error.cause), slot=slot)
            self._dispatch()
            yield result

    def close(self) -> None:
        self._waiting.clear()
        if self._started:
            self._ray.shutdown()
        else:
            for actor in self._actors:
                self._ray.kill(actor)


def _start(ray: Any, address: str | None, workers: int) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address is not None:
        options["address"] = address
    else:
        options.update(num_cpus=workers, include_dashboard=False)
    with _silent():
        ray.init(**options)


@contextmanager
def _silent() -> Iterator[None]:
    """Ray's libraries write the log level that they were given to the terminal themselves; what
    goes wrong comes as an exception all the same."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
