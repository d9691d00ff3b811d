"""A confirmed run as a person reads it on a terminal."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rich.console import Console
from rich.text import Text

from evomerge.console import Table, faint, score
from evomerge.files import plain
from evomerge.front import Front, Point, named, shown, spread
from evomerge.maths.intervals import LEAST
from evomerge.report import remarks
from evomerge.run import Run
from evomerge.schema import Fidelity

AROUND, ALONE, BELOW, BESIDE = 31, 8, 12, 21
"""Columns of a terminal for all but the objectives of a front, and for one without its interval,
with it below, and beside it."""


def show(out: Console, run: Run, *, reports: bool = False) -> None:
    """The front, the baselines, the chosen point against them, and what to do next; `reports`:
    whether the report is written after that."""
    rows(out, "front (confirmed on validation, scored on test)", run.front)
    rows(out, "baselines (same items)", run.baselines)
    if (further := run.further).points:
        rows(out, "further banks (scored afterwards)", further)
    against = Table("chosen point against", "difference", "95 % interval", "p (Holm)")
    for row in run.comparisons():
        interval, difference = spread(row["low"], row["high"]), f"{row['difference']:+.3f}"
        against.add_row(named(row), difference, interval, shown(row["p_holm"]))
    out.print(against)
    if reason := remarks.untested(run):
        line = f"{run.chosen.label} could not be scored on test: {reason}"
        out.print(Text(line, "yellow"))
    if kept := run.kept():
        table = Table("has to keep", "wanted", "margin on validation", "lower bound", "test")
        for row in kept:
            margins = (f"{row['mean']:+.3f}", f"{row['low']:+.3f}")
            table.add_row(row["keep"], row["wanted"], *margins, score(row["test"]))
        out.print(table)
    out.print(
        "nondom.: how probable it is that no other point here, baselines included, beats this one"
        " in every objective; p (Holm): adjusted for the number of baselines", highlight=False
    )  # fmt: skip
    for line in [*_few(run), *_optimism(run)]:
        out.print(line, highlight=False)
    for name, points in (("front", run.front), ("all baselines", run.baselines)):
        value, low, high = run.hypervolume(points)
        interval = f" ({spread(low, high, '')})" if low == low else ""
        out.print(f"test hypervolume of {name}: {value:.3f}{interval}")
    out.print(f"looks at test so far: {run.looks}")
    for line in run.contamination:
        out.print(line, style="yellow", highlight=False)
    for line in _failed(run):
        out.print(line, highlight=False, markup=False)
    out.print(f"report: {_page(run, reports)}", highlight=False, soft_wrap=True)
    to_save(out, run, "best")


def _page(run: Run, reports: bool) -> str:
    """Where the report is, or how to have it: only the command `search` writes it by itself."""
    page = run.folder / "report.html"
    is_there = reports or page.exists()
    return str(page) if is_there else shlex.join(["evomerge", "report", str(run.folder)])


def _failed(run: Run) -> Iterator[str]:
    """How many candidates failed, and why a baseline has no scores."""
    reasons = run.failures()
    if number := len(reasons.keys() & set(run.asked().values())):
        yield f"failed candidates: {number}"
    for point in run.baselines:
        if point.key in reasons:
            yield f"{point.label} could not be scored: {reasons[point.key]}"


def to_save(out: Console, run: Run, label: str) -> None:
    """The command that saves a point."""
    command = shlex.join(["evomerge", "export", str(run.folder), label, "-o", "merged"])
    out.print(f"save:   {command}", highlight=False, soft_wrap=True)


def _few(run: Run) -> Iterator[str]:
    every = run.comparisons()
    rows = [row["items_that_differ"] for row in every if row["low"] == row["low"]]
    if len(rows) < len(every):
        yield f"-: a bank has fewer than {LEAST} test items, too few for an interval and a p"
    if (number := sum(count < remarks.FEW for count in rows)) > 0:
        yield (
            f"{number} of these differ from it on fewer than {remarks.FEW} test items: too few for"
            " interval and p to hold"
        )


def _optimism(run: Run) -> Iterator[str]:
    """What selection made of the chosen point's score; where its items were chosen, beside what
    they are like for models that nothing was selected among."""
    chosen = run.chosen
    if not Fidelity(**run.recipe["fidelity"]).draws:
        if (more := chosen.mean("search") - chosen.mean("test")) == more:
            yield f"optimism of the search: {more:+.3f} (its score of {chosen.label} less test's)"
        return
    gaps = [(point, seen - tested) for point, seen, tested in run.optimism()]
    others = [gap for point, gap in gaps if run.kind(point) in ("base", "expert")]
    mine = [gap for point, gap in gaps if point.label == chosen.label]
    if mine and others:
        yield (
            f"optimism of the search: {mine[0]:+.3f} (its items of {chosen.label} less test's), "
            f"of base and experts {sum(others) / len(others):+.3f}"
        )


def words(value: Any) -> str:
    """A fact for people: numbers with commas, what is nested in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{k.removesuffix(BYTES)} {_said(k, v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(words, value)) or "none"
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f"{value:,}" if is_number else str(value)


def facts(out: Console, found: dict[str, Any]) -> None:
    """A row a fact, with a line for each part of one that has parts, and for each sentence;
    bytes as MB or GB."""
    table = Table(show_header=False)
    for key, value in found.items():
        parts = value if isinstance(value, dict) else {}
        lines = [f"{name}: {_said(key, part)}" for name, part in parts.items()]
        if isinstance(value, list) and any(" " in str(part) for part in value):
            lines = [words(part) for part in value]
        lines = lines or [_said(key, value)]
        table.add_row(key.removesuffix(BYTES), "\n".join(lines))
    out.print(table)


BYTES = " (bytes)"
"""Ends the name of a fact whose whole numbers are bytes, but for very small ones: counts."""


def _said(key: str, value: Any) -> str:
    if not key.endswith(BYTES) or not isinstance(value, int) or value < 100_000:
        return words(value)
    return f"{value / 1e9:,.2f} GB" if value >= 1e9 else f"{value / 1e6:,.1f} MB"


def preferred(out: Console, run: Run, point: Point) -> None:
    """The point that suits preferences, beside the one that the run chose and the baselines."""
    beside = [point] if point.chosen else [point, run.chosen]
    found = Front([*beside, *run.baselines.points], run.objectives, run.front.tested)
    rows(out, f"preferred: {point.label} (by validation; scored on test)", found)
    to_save(out, run, point.label)


def preferred_json(run: Run, point: Point) -> str:
    """The same as JSON."""
    return json.dumps(Front([point], run.objectives, run.front.tested).rows()[0], indent=1)


class Finding(Protocol):
    """What a command has found out, as a page and as JSON."""

    def write(self, file: Path) -> Path: ...

    def to_json(self) -> str: ...


F = TypeVar("F", bound=Finding)


def delivered(
    out: Console, found: F, show: Callable[[Console, F], None], *, page: Path | None, as_json: bool
) -> None:
    """A finding as JSON or as tables, and where one is asked for its page, which is named."""
    if page is not None:
        found.write(page)
    if as_json:
        print(found.to_json())
        return
    show(out, found)
    if page is not None:
        out.print(str(page), highlight=False, soft_wrap=True)


def saved(out: Console, folder: Path) -> None:
    """Where a point lies now; of an adapter, how much of the task vectors it leaves out."""
    from evomerge.files.adapter import FIT  # with torch, which a look at a run can do without

    out.print(str(folder), highlight=False, soft_wrap=True)
    if (folder / FIT).exists():
        for what, value in plain.read_json(folder / FIT).items():
            out.print(f"{what}: {value if isinstance(value, str) else f'{value:.3g}'}")


def rows(out: Console, title: str, front: Front) -> None:
    """A row a point: test score and, where the terminal has room, 95 % interval of each
    objective, their mean, and how probable it is that the point is nondominated. So many
    objectives that their numbers would be broken stand in several tables."""
    m = len(front.objectives)
    wide = out.width >= AROUND + m * BELOW
    gap = " " if out.width >= AROUND + m * BESIDE else "\n"
    title += "" if wide else "; a wider terminal has intervals"
    most = max(1, (out.width - AROUND) // ALONE)
    for start in range(0, m, most):
        shown = range(m)[start : start + most]
        columns = ["point", *(front.objectives[i] for i in shown)]
        if shown[-1] == m - 1:
            columns += ["mean", "nondom."] if front.tested.points else ["mean"]
        table = Table(*columns, title=title, title_justify="left")
        for point in front:
            cells = [_cell(point, i, gap, wide) for i in shown]
            label = Text(f"{point.label} (chosen)", "bold") if point.chosen else point.label
            ends = [score(point.mean("test")), front.stays(point)]
            table.add_row(*[label, *cells, *ends][: len(columns)])
        out.print(table)
        title = "the same points"


def _cell(point: Point, objective: int, gap: str, wide: bool) -> Text:
    low, high = point.interval(objective)
    spread = f"{low:.2f}-{high:.2f}" if wide and low == low else ""
    return faint(point.text(objective).split(" ")[0], spread, gap)
