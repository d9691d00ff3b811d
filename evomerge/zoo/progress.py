"""How a build tells what it does: a bar on a terminal, elsewhere one line a stage."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[str, float], None]

FIRST = 0.02
"""The fraction from which the time that is left is told."""


@contextmanager
def shown(family: str, report: Report | None) -> Iterator[Report]:
    """`report` itself, or one that writes to stderr."""
    if report:
        yield report
    elif sys.stderr.isatty():
        with _bar(family) as bar:
            yield bar
    else:
        yield _lines(family)


def _lines(family: str) -> Report:
    told: set[str] = set()
    begun = time.monotonic()

    def report(text: str, fraction: float) -> None:
        if text in told:
            return
        told.add(text)
        known = fraction > FIRST  # before, one slow import would be taken for the pace
        minutes = (time.monotonic() - begun) * (1 / fraction - 1) / 60 if known else 0.0
        left = f" (about {minutes:.0f} min left)" if minutes >= 1 else ""
        print(f"zoo:{family}: {text}{left}", file=sys.stderr, flush=True)

    return report


@contextmanager
def _bar(family: str) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"zoo:{family}", total=1.0)

        def report(text: str, fraction: float) -> None:
            progress.update(task, description=f"zoo:{family}: {text}", completed=fraction)

        yield report
