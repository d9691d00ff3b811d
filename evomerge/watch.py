"""What may end a search between two answers: a signal, the clock, a full disk, failures."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from evomerge import budget, errors
from evomerge.budget import Clock, Deadline, endings
from evomerge.candidates import Candidates
from evomerge.desk import Desk
from evomerge.saving import size
from evomerge.schema import Recipe

NEARLY_DONE = 10.0
"""Seconds in which jobs that are being done may still end, when the search is to stop."""

GRACE = 25.0
"""Seconds from SIGTERM to leaving at once: who sends it often sends SIGKILL after 30."""

Note = Callable[[str], None]


def _free(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError as error:
        raise errors.MachineError(f"{folder}: is not there any more: {error.strerror}") from error


@dataclass
class Reserve:
    """Bytes of a folder's disk that are left free: whoever would need them waits."""

    folder: Path
    size: int
    free: Callable[[Path], int] = _free
    sleep: Callable[[float], None] = time.sleep

    def wait(self, note: Callable[[str], None], is_over: Callable[[], bool]) -> None:
        """Return when there is room, or when it is over for another reason."""
        free = self.free(self.folder)
        if free >= self.size:
            return
        note(
            f"paused: {free / 1e6:,.0f} MB are free for {self.folder}, less than the reserve of "
            f"{self.size / 1e6:,.0f} MB (disk_reserve); it goes on when there is room"
        )
        while self.free(self.folder) < self.size:
            if is_over():
                return
            self.sleep(1.0)
        note("there is room again: it goes on")


@dataclass
class Watch:
    """Looked at between two answers; `ends` says whether what is done now has to be over by the
    deadline, `instead` what has to be other in a command that confirms afterwards."""

    folder: Path
    deadline: Deadline
    reserve: Reserve
    note: Note
    stop: threading.Event = field(default_factory=threading.Event)
    ends: bool = False
    instead: str = ""

    @classmethod
    def of(
        cls, recipe: Recipe, folder: Path, spent: float, wall: Clock, even: Clock, note: Note
    ) -> Watch:
        """That of a session on a run whose earlier sessions took `spent` seconds."""
        room = Reserve(folder, size(recipe.disk_reserve, "disk_reserve"))
        deadline = Deadline.of(recipe.budget.seconds, recipe.budget.until, spent, wall, even)
        hourly = budget.is_hour(recipe.budget.until or "")
        instead = ", with --budget 1s and no hour, which would be that of tomorrow," * hourly
        return cls(folder, deadline, room, note, instead=instead)

    def between(self, desk: Desk) -> None:
        """Wait for space on the disk; Interrupted after a signal, Unconfirmed after the time."""
        self.reserve.wait(self.note, lambda: self.stop.is_set() or self.deadline.left < 0)
        if self.stop.is_set():
            desk.finish(NEARLY_DONE)
            raise errors.Interrupted(
                f"{self.folder}: interrupted, nothing answered is lost: run the same command "
                "again to go on"
            )
        if self.ends and self.deadline.left < 0:
            raise errors.Unconfirmed(
                f"{self.folder}: the time ended before the front was confirmed: run the same "
                f"command again{self.instead} to confirm it"
            )


def require_successes(
    candidates: Candidates, reasons: Mapping[str, str], traces: Mapping[str, str]
) -> None:
    """Raise TooManyFailures, in every session, where most of the last candidates failed."""
    told = (c for c in reversed(candidates) if c.told)
    failed = [c.key if c.failed else None for c in islice(told, budget.WINDOW)]
    too_many(failed[::-1], reasons, traces)


def too_many(
    failed: Sequence[str | None], reasons: Mapping[str, str], traces: Mapping[str, str]
) -> None:
    """Raise TooManyFailures when more than half of the last `budget.WINDOW` candidates failed.

    `failed` has a plan key for each candidate that did, None for each that did not, in order.
    """
    if not budget.is_failing([key is not None for key in failed]):
        return
    recent = failed[-budget.WINDOW :]
    keys = [key for key in recent if key is not None]
    most = Counter(reasons[key] for key in keys).most_common(1)[0][0]
    first = next((f"\nThe first of them:\n{traces[key]}" for key in keys if key in traces), "")
    raise errors.TooManyFailures(
        f"{len(keys)} of the last {len(recent)} candidates failed; most often: {most}. "
        f"Put it right, then search in another folder (-o){first}"
    )


@contextmanager
def interruptible(stop: threading.Event) -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP ends the search between two answers, the second at
    once; after the latter two, so does the end of the grace time."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    ending = endings()

    def ask_to_stop(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        if number in ending:
            signal.setitimer(signal.ITIMER_REAL, GRACE)

    numbers = (signal.SIGINT, signal.SIGALRM, *ending)
    before = {number: signal.signal(number, ask_to_stop) for number in numbers}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
