"""The commands that choose among what a search has found: `evomerge front`, `evomerge between`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from evomerge import errors
from evomerge.console import Table, err, faint, out
from evomerge.options import Json, RunFolder

if TYPE_CHECKING:
    from evomerge.api import Score


def front(
    run: RunFolder,
    prefer: Annotated[
        str | None,
        typer.Option(help="what objectives weigh, to name one point: math=2,code=1"),
    ] = None,
    at_least: Annotated[
        str | None, typer.Option(help="scores that it must have: code=0.6")
    ] = None,
    near: Annotated[str | None, typer.Option(help="scores that it should come near to")] = None,
    as_json: Json = False,
) -> None:
    """Show the confirmed front of a run; with preferences, the point that suits them best.

    Before there is one: the search's own front, marked as such, and exit code 5.
    """
    from evomerge import tables
    from evomerge.preferences import Preference, parsed
    from evomerge.run import Run

    opened = Run(run)
    if not opened.is_confirmed:
        _show_unconfirmed(run, as_json)
        raise errors.Unconfirmed(f"{run}: {opened.unconfirmed()}")
    wanted = Preference(
        parsed("--prefer", prefer), parsed("--at-least", at_least), parsed("--near", near)
    )
    asked = any(option is not None for option in (prefer, at_least, near))
    found = wanted.pick(opened) if asked else None
    if asked and wanted.is_exceeded(opened):
        err.print(f"--near: every point of the front is better than {near} on validation")
    if opened.later:
        err.print(f"{opened.later} candidates came after this front: run the search again")
    if as_json:
        print(opened.to_json() if found is None else tables.preferred_json(opened, found))
        return
    if found is None:
        tables.show(out, opened)
    else:
        tables.preferred(out, opened, found)


def _show_unconfirmed(run: Path, as_json: bool) -> None:
    from evomerge import status

    facts = status.read(run)
    if as_json:
        print(json.dumps({"unconfirmed_front": facts["front"]}, indent=1))
    elif facts["front"]:
        out.print(status.front_table(facts))


def between(
    run: RunFolder,
    first: Annotated[str, typer.Argument(help="best, knee, or a point's label")],
    second: Annotated[str, typer.Argument(help="another point")],
    at: Annotated[
        list[float] | None, typer.Option(help="how far from the first to the second; repeat")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make and score models between two points of a run: weights on the straight line."""
    from evomerge import progress, tables
    from evomerge.between import between as way
    from evomerge.between import require_share
    from evomerge.front import Front, Tested
    from evomerge.run import Run

    opened = Run(run)
    ends = [opened.point(which) for which in (first, second)]
    shares = at or [0.5]
    for share in shares:  # all of them before the first one looks at `test`
        require_share(share)
    try:
        with progress.Shown(err) as shown:
            made = [
                way(run, first, second, share, told=lambda r: shown("answered", {"result": r}))
                for share in shares
            ]
    finally:
        _renew(run)
    points = [ends[0], *made, *ends[1:]]
    others = [*opened.front, *opened.baselines] if opened.is_confirmed else []
    line = Front(points, opened.objectives, Tested([*points, *others]))
    if as_json:
        print(json.dumps(line.rows(), indent=1))
        return
    tables.rows(out, f"from {first} to {second} (scored on test)", line)
    tables.to_save(out, opened, made[0].label)


def _renew(folder: Path) -> None:
    """A report that is there holds what was scored since, and how often `test` was looked at."""
    from evomerge.report import page
    from evomerge.run import Run

    run = Run(folder)
    if run.is_confirmed and (run.folder / page.NAME).exists():
        run.report()


def across(out: Console, run: Path, banks: list[str], split: str, as_json: bool) -> None:
    """Score the front and the baselines of a run on further banks.

    Raises EvaluationError for those that can not be scored, after the others are shown.
    """
    from evomerge import further
    from evomerge.run import Run

    opened = Run(run)
    fresh: list[str] = []
    failures: dict[str, str] = {}

    def told(label: str) -> None:
        fresh.append(label)
        err.print(f"{label} ...", highlight=False)

    rows = further.scores(opened, banks, split=split, told=told, failed=failures.__setitem__)
    if fresh:
        _renew(run)
    if as_json:
        found = {label: {n: one.plain() for n, one in row.items()} for label, row in rows.items()}
        print(json.dumps(found, indent=1))
    else:
        out.print(_further(rows, f"{run} on {split}", opened.chosen.label))
    if failures:
        reasons = "; ".join(f"{label}: {reason}" for label, reason in failures.items())
        raise errors.EvaluationError(f"can not be scored: {reasons}")


def _further(rows: Mapping[str, Mapping[str, Score]], title: str, chosen: str) -> Table:
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    table = Table("point", *names, title=title, title_justify="left")
    for label, row in rows.items():
        shown = [row.get(name) for name in names]
        cells = [faint(f"{s.mean:.3f}", f"{s.low:.2f}-{s.high:.2f}") if s else "-" for s in shown]
        table.add_row(f"{label} (chosen)" if label == chosen else label, *cells)
    return table
