"""When a search ends: amounts of candidates, items and time, and an hour on the clock."""

from __future__ import annotations

import math
import re
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from evomerge import errors

Clock = Callable[[], float]
"""Seconds since the epoch."""

_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_TIMES = {"": 1, "k": 10**3, "M": 10**6}
_SPAN = re.compile("".join(rf"(?:(?P<{unit}>\d+(?:\.\d+)?){unit})?" for unit in _SECONDS))
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)([kM]?)(?:[- ]?(candidates|items))?")


WINDOW = 20
"""Candidates; a search of whose last ones more than half have failed ends."""


def is_failing(failed: Sequence[bool]) -> bool:
    """Whether a search ends whose candidates have failed, or not, in this order."""
    return 2 * sum(failed[-WINDOW:]) > WINDOW


def endings() -> list[signal.Signals]:
    """Signals of somebody, or of a terminal that is closed, that end the process; `nohup` has the
    latter ignored."""
    if not hasattr(signal, "SIGHUP") or signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        return [signal.SIGTERM]
    return [signal.SIGTERM, signal.SIGHUP]


def steady() -> Clock:
    """This machine's clock as it is now, going on evenly whatever is done to that clock."""
    apart = time.time() - time.monotonic()
    return lambda: apart + time.monotonic()


def parse(text: str) -> dict[str, float]:
    """`8h` or `1h30m`, `500` (candidates) or `200k-items`, as keys of a recipe's budget.

    Raises RecipeError for anything else, and for nothing at all, such as `0h`.
    """
    span, amount = _SPAN.fullmatch(text.strip()), _AMOUNT.fullmatch(text.strip())
    found: dict[str, float] = {}
    if amount:
        digits, times, what = amount.groups()
        number = float(digits) * _TIMES[times]
        found = {what or "candidates": round(number) if math.isfinite(number) else 0}
    elif span:
        parts = {unit: float(number) for unit, number in span.groupdict().items() if number}
        found = {"seconds": sum(number * _SECONDS[unit] for unit, number in parts.items())}
    if not any(found.values()):
        raise errors.RecipeError(
            f"budget: expected a time such as 8h or 1h30m, a number of candidates such as 500, or "
            f"of items such as 200k-items, got '{text}'"
        )
    return found


def is_hour(text: str) -> bool:
    """Whether it comes again every day."""
    return re.fullmatch(r"\d{1,2}:\d{2}", text.strip()) is not None


def until(text: str, now: float, zone: tzinfo | None = None) -> float:
    """The next moment, in seconds since the epoch, when clocks show `07:00`, or a date and time
    such as `2026-03-29 07:00`; without a zone, clocks of this machine.

    An hour that the clocks skip is the one they show instead; of an hour that comes twice, the
    first that is still to come. A date may be past. Raises RecipeError for another text.
    """
    here = datetime.fromtimestamp(now, zone)
    try:
        if is_hour(text):
            hour, minute = map(int, text.split(":"))
            first = here.replace(hour=hour, minute=minute, second=0, microsecond=0, fold=0)
            days = [first, first + timedelta(days=1)]  # of the calendar, however long they are
        else:
            days = [datetime.fromisoformat(text.strip())]
            days = [day if day.tzinfo else day.replace(tzinfo=zone) for day in days]
    except ValueError as error:
        raise errors.RecipeError(
            f"until: expected a time such as 07:00, or a date and time such as "
            f"2026-03-29 07:00, got '{text}'"
        ) from error
    moments = [day.timestamp() for day in days]
    again = {day.replace(tzinfo=None): day.replace(fold=1).timestamp() for day in days}
    moments += [
        moment
        for shown, moment in again.items()
        if datetime.fromtimestamp(moment, zone).replace(tzinfo=None) == shown
    ]
    coming = [moment for moment in moments if moment > now]
    return min(coming or moments)


@dataclass(frozen=True)
class Deadline:
    """Moments by which all has to be done, `inf` where there is none: the end of a span by a clock
    that goes on evenly, and an hour of the clock on the wall."""

    span: float
    hour: float
    even: Clock
    wall: Clock

    @classmethod
    def of(
        cls,
        seconds: float | None,
        by: str | None,
        spent: float,
        wall: Clock = time.time,
        even: Clock | None = None,
    ) -> Deadline:
        """A span, of which earlier sessions have used `spent`, and an hour."""
        even = even or steady()
        span = math.inf if seconds is None else even() + seconds - spent
        return cls(span, math.inf if by is None else until(by, wall()), even, wall)

    @property
    def left(self) -> float:
        """Seconds to the first of them; negative when it is over."""
        return min(self.span - self.even(), self.hour - self.wall())

    @property
    def is_set(self) -> bool:
        return math.isfinite(min(self.span, self.hour))

    def room(self, each: float, reserved: float) -> int:
        """How many actions of `each` seconds can still end, and leave the seconds reserved."""
        if not self.is_set:
            return 10**9
        free = self.left - reserved
        return max(0, int(free / each) if each > 0 else 10**9 * (free > 0))
