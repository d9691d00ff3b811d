"""Jobs run on Ray actors, one a slot: on this machine (loopback only) or on a running cluster.

A worker that dies, or takes too long, is replaced by a fresh one. With `workers: auto` nodes that
join the cluster get work; one that is lost costs what it had in flight.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from evomerge import errors, staging
from evomerge.cluster import connected, require_alive
from evomerge.console import count
from evomerge.worker import Cause, Job, Result, Setup, Worker

_STARTS = 3
"""Workers that fail to start, one after the other, before the search ends."""

_TICK = 1.0
"""Seconds after which whoever waits for a result may look at the clock, and at the cluster."""

_STARTING = 60.0
"""Seconds in which a worker starts, unless there is no place for it on the cluster now."""

_AWAY = 10.0
"""Seconds between two looks for jobs that hang; what is beyond is a pause, and no job's time."""


@dataclass
class _Slot:
    """An actor; `ready` until it has started, `job` while it works, since when; `key` of its last
    plan."""

    number: int
    actor: Any
    ready: Any = None
    job: Job | None = None
    begun: float = 0.0
    key: str | None = None

    @property
    def is_idle(self) -> bool:
        return self.ready is None and self.job is None

    @property
    def is_starting(self) -> bool:
        return self.ready is not None and time.monotonic() - self.begun < _STARTING


def _fits(gpus: float) -> float:
    if gpus > 1 and gpus % 1:
        raise ValueError("a fraction lies on one GPU: expected at most 1, or a whole number")
    return gpus


class Executor:
    """`workers` actors (`auto`: one a processor, or as many as the GPUs hold) with `gpus` (may be
    a fraction) each; `address: auto` joins a running cluster, `local` starts one."""

    IN_ORDER = False

    def __init__(
        self,
        setup: Setup,
        *,
        workers: Annotated[int, Field(ge=1)] | Literal["auto"] = 2,
        address: str | None = None,
        gpus: Annotated[float, Field(ge=0, allow_inf_nan=False), AfterValidator(_fits)] = 0,
    ) -> None:
        self._fixed = workers if isinstance(workers, int) else None
        where = None if address == "local" else address
        ours = where is None and not _is_connected()
        with ExitStack() as cluster:
            ray = self._ray = cluster.enter_context(connected(where, self._fixed))
            if ours:  # one that runs may get further nodes
                _require_places(ray, gpus, self._fixed or 1)
            self._cluster = cluster.pop_all()
        self._setup = setup
        self._gpus = gpus
        self._actor = ray.remote(num_cpus=1, num_gpus=gpus)(_Worker)
        self._home = ray.get_runtime_context().get_node_id()
        self._waiting: list[Job] = []
        self._failed_starts = 0
        self._running: dict[Any, _Slot] = {}
        self._slots: list[_Slot] = []
        self._watched = time.monotonic()
        self._grow()

    @property
    def workers(self) -> int:
        return len(self._slots)

    def _grow(self) -> None:
        """Have as many workers as the cluster holds by now, if their number is not fixed; one that
        has lost its node takes a place on another by itself."""
        self._looked = time.monotonic()
        places = self._fixed or max(1, _places(self._ray, self._gpus))
        for number in range(len(self._slots), places):
            self._slots.append(_Slot(number, None))
            self._renew(self._slots[-1])

    def _renew(self, slot: _Slot) -> None:
        """Put a fresh worker into a slot."""
        if slot.actor is not None:
            self._ray.kill(slot.actor)
        slot.actor = self._actor.remote(self._setup, slot.number, self._home)
        slot.ready, slot.job, slot.key = slot.actor.__ray_ready__.remote(), None, None
        slot.begun = time.monotonic()
        self._running[slot.ready] = slot

    def submit(self, job: Job) -> None:
        self._waiting.append(job)
        self._dispatch()

    def _dispatch(self) -> None:
        for slot in [slot for slot in self._slots if slot.is_idle]:
            fresh = [job for job in self._waiting if job.fresh]
            others = [job for job in self._waiting if not job.fresh]
            # The worker that still holds a plan does not build it again.
            mine = [job for job in others if job.key == slot.key]
            chosen = [*(fresh if slot.key is None else mine), *others][:1]
            for job in chosen:
                self._waiting.remove(job)
                slot.job, slot.key, slot.begun = job, job.key, time.monotonic()
                self._running[slot.actor.run.remote(job)] = slot
            if not chosen and fresh and not any(slot.is_starting for slot in self._slots):
                self._renew(slot)

    def completed(self) -> Iterator[list[Result]]:
        """Results as they come, with all that have; none when nothing has come for a second."""
        while self._waiting or any(slot.job for slot in self._slots):
            require_alive(self._ray)
            if self._fixed is None and time.monotonic() - self._looked >= _TICK:
                self._grow()
            refs = list(self._running)
            done, _ = self._ray.wait(refs, num_returns=1, timeout=_TICK)
            if done:
                done, _ = self._ray.wait(refs, num_returns=len(refs), timeout=0)
            results = [self._received(ref) for ref in done]
            self._dispatch()
            yield [result for result in results if result is not None]

    def _received(self, ref: Any) -> Result | None:
        """What has come from a worker: a result, or that it has started (None)."""
        slot = self._running.pop(ref)
        job, slot.job = slot.job, None
        known = self._ray.exceptions
        try:
            found = self._ray.get(ref)
        except (known.RayActorError, known.OutOfMemoryError, known.ObjectLostError) as error:
            if job is None:
                self._fail_to_start(slot, error)
                return None
            self._renew(slot)
            cause = _cause(self._ray, error)
            return _failure(job, slot, _WORDS[cause], cause)
        except known.RayTaskError as error:  # a result that can not be sent
            assert job is not None
            return _failure(job, slot, f"{type(error.cause).__name__}: {error.cause}", "")
        self._failed_starts, slot.ready = 0, None
        return found if job is not None else None

    def _fail_to_start(self, slot: _Slot, error: Exception) -> None:
        self._failed_starts += 1
        last = str(error).strip().splitlines()[-1]
        if told := re.fullmatch(r"evomerge\.errors\.(InputError|RecipeError): (.*)", last):
            raise getattr(errors, told[1])(told[2])  # no other worker would start either
        if self._failed_starts >= _STARTS:
            cause = _cause(self._ray, error)
            reason = last if cause == "died" else _WORDS[cause]
            raise errors.MachineError(f"Ray worker {slot.number} can not start: {reason}")
        self._renew(slot)

    def overdue(self, limit: Callable[[Job], float]) -> Result | None:
        """Replace the worker of a job that takes longer than its limit in seconds, and whose
        answers have not come; time in which nobody looked does not count."""
        now = time.monotonic()
        away = max(0.0, now - self._watched - _AWAY)
        self._watched = now
        for slot in self._slots:
            slot.begun = min(now, slot.begun + away)
        late = {
            ref: slot.job
            for ref, slot in self._running.items()
            if slot.job is not None and now - slot.begun > limit(slot.job)
        }
        if not late:
            return None
        options = {"num_returns": len(late), "timeout": 0, "fetch_local": False}
        _, hanging = self._ray.wait(list(late), **options)
        for ref in hanging[:1]:
            job, slot = late[ref], self._running.pop(ref)
            self._renew(slot)
            reason = f"slow: no answer within {limit(job):.0f} s, its worker was ended"
            return _failure(job, slot, reason, "slow")
        return None

    def cancel(self) -> list[int]:
        waiting = [job.number for job in self._waiting]
        self._waiting.clear()
        return waiting

    def close(self) -> None:
        self._waiting.clear()
        for slot in self._slots:
            self._ray.kill(slot.actor)
        self._cluster.close()


class _Worker(Worker):
    """On another node than the driver's, the inputs may have to be brought."""

    def __init__(self, setup: Setup, slot: int, home: str) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        def far(function: Callable[..., Any], *values: Any) -> Any:
            there = NodeAffinitySchedulingStrategy(home, soft=False)
            options = {"num_cpus": 0, "scheduling_strategy": there}
            return ray.get(ray.remote(function).options(**options).remote(*values))

        if ray.get_runtime_context().get_node_id() != home:
            folders = {sha: staging.local(sha, f, far) for sha, f in setup.folders.items()}
            setup = replace(setup, folders=folders)
        super().__init__(setup, slot)


_WORDS: dict[Cause, str] = {
    "died": "its worker died (a crash, an exit, or ended by the system)",
    "lost": "the node of its worker was lost",
    "evicted": "its worker was ended because the machine ran low on memory",
}


def _cause(ray: Any, error: Exception) -> Cause:
    low = isinstance(error, ray.exceptions.OutOfMemoryError)
    if low or "running low on memory" in str(error):
        return "evicted"
    # A result of more than some 100 kB stays on its node until it is fetched, and is lost with it
    gone = isinstance(error, ray.exceptions.ObjectLostError) or "node has died" in str(error)
    return "lost" if gone else "died"


def _failure(job: Job, slot: _Slot, reason: str, cause: Cause) -> Result:
    return Result(job.key, failed=reason, number=job.number, cause=cause, slot=slot.number)


def _places(ray: Any, gpus: float) -> int:
    """How many workers the cluster holds, with a processor each; a fraction of a GPU is one of
    one."""
    found = ray.cluster_resources()
    processors, there = int(found.get("CPU", 1)), int(found.get("GPU", 0))
    if not gpus:
        return processors
    return min(processors, int(there // gpus) if gpus >= 1 else there * int(1 / gpus))


def _require_places(ray: Any, gpus: float, workers: int) -> None:
    """Raise MachineError where workers would wait for GPUs that are not there."""
    if gpus and workers > (places := _places(ray, gpus)):
        raise errors.MachineError(
            f"executor: ray: {count(workers, 'worker')} with gpus: {gpus:g}, and the GPUs of this "
            f"machine hold {places}; ask for fewer workers, or for less of a GPU (gpus: 0 is none)"
        )


def examine() -> str:
    """Start a local cluster, have it add two numbers, end it: `ok`, or what is odd."""
    if _is_connected():
        return "a cluster is running in this process"
    with connected(None, 1) as ray:
        found = ray.get(ray.remote(_sum).remote(1, 1), timeout=60)
    return "ok" if found == 2 else "adds wrongly"


def _is_connected() -> bool:
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def _sum(one: int, two: int) -> int:
    return one + two
