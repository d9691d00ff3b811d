"""The command `evomerge calibrate`, and its tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Column
from rich.text import Text

from evomerge.console import Table, err, out
from evomerge.maths.irt_checks import ESTIMATORS, FEWEST
from evomerge.options import Json, RunFolder

if TYPE_CHECKING:
    from evomerge.calibration import BankFit, Calibration


NAMED = 5
"""Faulty items of a kind that are named; --json has all."""


def calibrate(
    run: RunFolder,
    page: Annotated[Path | None, typer.Option("--html", help="item map, as HTML")] = None,
    shown: Annotated[
        int, typer.Option(help="items of a held-out model from which the rest is predicted")
    ] = 30,
    as_json: Json = False,
) -> None:
    """Fit item response theory to a run's answers: items, abilities, and whether it predicts."""
    from evomerge import calibration, tables

    with err.status("reading answers") as status:
        found = calibration.calibrate(
            run, shown=shown, told=lambda bank: status.update(Text(f"fitting {bank}"))
        )
    tables.delivered(out, found, show, page=page, as_json=as_json)


def show(console: Console, found: Calibration) -> None:
    """The fit of each bank, its error on held-out models, where models stand, faulty items."""
    console.print(_fits(found))
    console.print(_errors(found))
    console.print(_standings(found))
    for bank in found.banks:
        for line in remarks(bank):
            console.print(line, highlight=False, soft_wrap=True)
    for name, reason in found.skipped.items():
        console.print(f"{name}: left out: {reason}", highlight=False, soft_wrap=True)


def _fits(found: Calibration) -> Table:
    signals = ", ".join(dict.fromkeys(bank.signal for bank in found.banks))
    table = Table(
        "bank", "models", "items", "model", "mean slope", "candidates", "error",
        title=f"item response theory, on search ({signals})", title_justify="left",
    )  # fmt: skip
    for bank in found.banks:
        low, high = bank.range
        table.add_row(
            bank.name, str(bank.models), str(len(bank.ids)), bank.fit.model,
            f"{bank.fit.items.slopes.mean():.2f}", f"{low:+.2f} to {high:+.2f}",
            f"{bank.error:.2f}",
        )  # fmt: skip
    return table


def _errors(found: Calibration) -> Table:
    shown = " or ".join(dict.fromkeys(str(bank.held_out.seen) for bank in found.banks))
    table = Table(
        "bank", *ESTIMATORS.values(), Column("better", no_wrap=True), title_justify="left",
        title=f"held-out models: error of the mean of their other answers, {shown} items shown",
    )  # fmt: skip
    for bank in found.banks:
        cells = (f"{bank.held_out.errors[name]:.4f}" for name in ESTIMATORS)
        table.add_row(bank.name, *cells, verdict(bank))
    return table


def verdict(bank: BankFit) -> str:
    """IRT, or the best estimator without it; `no difference` where they can not be parted."""
    return ESTIMATORS.get(bank.held_out.better, "no difference")


def _standings(found: Calibration) -> Table:
    cells: dict[str, dict[str, str]] = {}
    for bank in found.banks:
        for s in bank.standings:
            mark = "" if s.split == "search" else "*"
            error = f"{s.error:.2f}".removeprefix("0")
            cells.setdefault(s.label, {})[bank.name] = f"{s.ability:+.2f} ±{error}{mark}"
    table = Table(
        Column("model", no_wrap=True), *(Column(b.name, no_wrap=True) for b in found.banks),
        title="ability (0 and 1 are about the mean and the spread of all models) ± error",
        title_justify="left", caption_justify="left",
        caption="* from validation" if "*" in str(cells) else None,
    )  # fmt: skip
    for label, row in cells.items():
        table.add_row(label, *(row.get(bank.name, "-") for bank in found.banks))
    return table


def remarks(bank: BankFit) -> list[str]:
    """Faulty items by kind, with the first ids; how many depend on each other or misfit."""
    lines = []
    for reason, ids in bank.reasons().items():
        more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
        lines.append(f"{bank.name}: {reason}: {', '.join(ids[:NAMED])}{more}")
    row = bank.summary()
    few = int((bank.counts < FEWEST).sum())
    lines.append(
        f"{bank.name}: {few} items answered by fewer than {FEWEST} models; infit outside 0.7 to "
        f"1.3 for {row['infit_outside']}; {row['dependent_pairs']} of {row['examined_pairs']} "
        "pairs depend on each other beyond ability"
    )
    if bank.constant:
        lines.append(
            f"{bank.name}: {len(bank.constant)} models answered everything right or everything "
            "wrong: only the prior bounds their ability"
        )
    if not row["converged"]:
        lines.append(f"{bank.name}: the fit did not converge: take its numbers with caution")
    return lines
