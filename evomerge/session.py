"""What a session owes to the run it works on: the same recipe, and an end that can be resumed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evomerge.files.ledger import NAME, Ledger


def pinned(folder: Path) -> dict[str, str]:
    """The commits of a run that has begun, by the names that its recipe has for them."""
    if not (folder / NAME).is_file():
        return {}
    return dict(Ledger(folder).meta("origins") or {})


def differences(old: Any, new: Any, place: str = "") -> Iterator[str]:
    """Lines `place: the run has X, the recipe Y`, at most one a leaf."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key):
                yield from differences(old.get(key), new.get(key), f"{place}.{key}".lstrip("."))
    elif old != new:
        yield f"{place}: the run has {_short(old)}, the recipe {_short(new)}"


def _short(value: Any) -> str:
    shown = "nothing" if value is None else str(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


@contextmanager
def interruptible(stop: threading.Event) -> Iterator[None]:
    """The first SIGINT or SIGTERM ends the search between two answers, the second at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask_to_stop(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {s: signal.signal(s, ask_to_stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
