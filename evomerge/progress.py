"""What a person sees while a search works: bars on a terminal, a line an event elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from evomerge import plugins
from evomerge.console import count
from evomerge.loop import Search
from evomerge.maths import pareto

_STAGES = {
    "sanity": "base and experts answer all search items",
    "search": "search",
    "validation": "shortlist and textbook coefficients on validation",
    "test": "front and baselines on test",
}


RARELY = 20
"""Front and hypervolume of all candidates take a while when they are many: so many times what
they took last is left to the search before they are shown anew."""


class Shown:
    """Receives the events of a search and shows them."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live = console.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}", markup=False), TimeRemainingColumn(),
            console=console, transient=True, disable=not self._live,
        )  # fmt: skip
        self._task: Any = None
        self._begun = time.monotonic()
        self._answers = 0
        self._next = 0.0

    def __enter__(self) -> Shown:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, event: str, facts: Mapping[str, Any]) -> None:
        getattr(self, f"_on_{event}")(facts)

    def _on_stage(self, facts: Mapping[str, Any]) -> None:
        self.console.print(_STAGES[facts["name"]], style="bold", highlight=False)
        self._begun, self._answers = time.monotonic(), 0
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(facts["name"], total=None, facts="")

    def _on_answered(self, facts: Mapping[str, Any]) -> None:
        result = facts["result"]
        self._answers += len(result.answers)
        rate = self._answers / max(1e-9, time.monotonic() - self._begun)
        if self._task is not None:
            self._bar.update(self._task, facts=f"{self._answers:,} answers, {rate:,.0f}/s")
        if result.failed is not None:
            self._note(f"{result.key[:12]} failed: {result.failed}")

    def _on_told(self, facts: Mapping[str, Any]) -> None:
        begun = time.monotonic()
        if begun < self._next:
            return
        search: Search = facts["search"]
        told = search.candidates.told
        budget = search.recipe.budget.candidates
        text = summary(search)
        self._bar.update(self._task, completed=told, total=budget, facts=text)
        if not self._live:
            total = f" of {budget}" if budget and told <= budget else ""
            line = f"{told}{total} candidates; {text}"
            self.console.print(line, highlight=False, soft_wrap=True)
        ended = time.monotonic()
        self._next = ended + RARELY * (ended - begun)

    def _on_forecast(self, facts: Mapping[str, Any]) -> None:
        rounded = {name: f"{value:,.3g}" if value < 100 else f"{value:,.0f}"
                   for name, value in facts.items()}  # fmt: skip
        text = ", ".join(f"{name}: {value}" for name, value in rounded.items())
        self.console.print(f"forecast: {text}", highlight=False, soft_wrap=True)

    def _on_note(self, facts: Mapping[str, Any]) -> None:
        self._note(facts["text"])

    def _note(self, text: str) -> None:
        self.console.print(text, style="yellow", highlight=False)

    def _on_complete(self, facts: Mapping[str, Any]) -> None:
        self.console.print(f"complete: {facts['candidates']} candidates, front confirmed")

    def _on_confirmed(self, facts: Mapping[str, Any]) -> None:
        n = len(facts["front"])
        self.console.print(f"confirmed: {count(n, 'point')} in the front")


def summary(search: Search) -> str:
    """Best search score per objective, hypervolume and items so far."""
    losses = search.candidates.losses
    if not len(losses):
        kept = search.candidates.told and search.recipe.keep
        return "none keeps all that it has to yet" if kept else "no scores yet"
    reference = np.full(losses.shape[1], plugins.REFERENCE_POINT)
    best = ", ".join(
        f"{name} {anchor.zero - anchor.unit * low:.2f}"
        for (name, anchor), low in zip(
            search.losses.anchors.items(), losses.min(axis=0), strict=True
        )
    )
    volume = pareto.hypervolume(losses, reference)
    return f"best {best}; hypervolume {volume:.3f}; {search.answers.searched:,} items"


@contextmanager
def stream(console: Console, verb: str, what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar of the bytes done on a terminal, elsewhere one line when the first are done."""
    columns = (TextColumn(verb), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
               TimeRemainingColumn())  # fmt: skip
    live = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not live) as bar:
        task = bar.add_task(verb, total=None)
        begun = False

        def told(done: int, total: int) -> None:
            nonlocal begun
            if not begun and not live:
                line = f"{verb} {what}: {total / 1e6:,.1f} MB"
                console.print(line, highlight=False, soft_wrap=True)
            begun = True
            bar.update(task, completed=done, total=total)

        yield told
