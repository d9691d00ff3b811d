"""How far a run is, read from its ledger while another process writes it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.live import Live

from evomerge.console import Table
from evomerge.files import lock
from evomerge.files.ledger import Ledger
from evomerge.maths import pareto
from evomerge.objectives import Anchor
from evomerge.tables import words

EVERY = 2.0
"""Seconds between two looks of `--watch`."""

SHOWN = 20
"""Points of an unconfirmed front that are shown."""

UNCONFIRMED = "scores of the search, not confirmed: the best of many look better than they are"


def read(folder: Path) -> dict[str, Any]:
    """How far a run is, as JSON; raises InputError where there is none.

    `front` is that of the search, by what it has told so far: {"point", "items", an objective's
    score each}, the best mean first.
    """
    ledger = Ledger(folder)
    try:
        confirmed = ledger.last("confirmed")
        session = ledger.last_session() or {}
        told = _told(ledger)
        anchors = {n: Anchor(**value) for n, value in (ledger.last("anchors") or {}).items()}
        asked = ledger.asked()
        writer = lock.writer_of(folder)
        return {
            "run": str(folder),
            "state": _state(ledger, writer),
            "writer": writer,
            "candidates": asked,
            "told": len(told),
            "failed": sum(losses is None for _, losses in told.values()),
            "items": sum(items for items, _ in told.values()),
            "seconds": round(ledger.seconds(), 1),
            "seconds since last event": round(time.time() - ledger.last_time(), 1),
            "budget": {k: v for k, v in session.get("budget", {}).items() if v is not None},
            "looks at test": (confirmed or {}).get("looks", 0),
            "front": front(told, anchors),
        }
    finally:
        ledger.close()


def _state(ledger: Ledger, writer: str | None) -> str:
    asked = ledger.at("ask")
    if ledger.at("confirmed") > asked:
        return "confirmed"
    if ledger.at("stopped") > asked:
        stage = "confirmation"
    else:
        stage = "search" if ledger.at("anchors") else "base and experts"
    return f"in its {stage}" if writer else f"interrupted in its {stage}"


Told = dict[int, tuple[int, tuple[float, ...] | None]]
"""By candidate: items and losses (None: failed), as they were told last."""


def _told(ledger: Ledger) -> Told:
    # Tuples of numbers: a hundred thousand dictionaries would keep the garbage collector busy.
    return {
        row["id"]: (row["items"], None if row["losses"] is None else tuple(row["losses"]))
        for event in ledger.events("tell")
        for row in event.body
    }


def front(told: Told, anchors: dict[str, Anchor]) -> list[dict[str, Any]]:
    """The nondominated candidates among those with the most items."""
    most = max((items for items, losses in told.values() if losses is not None), default=0)
    full = {i: losses for i, (items, losses) in told.items() if losses and items == most}
    if not full:
        return []
    kept = pareto.nondominated(np.array(list(full.values())))
    best = [
        (i, losses) for (i, losses), is_kept in zip(full.items(), kept, strict=True) if is_kept
    ]
    return [
        {"point": f"c{i}", "items": most}
        | {n: a.score(float(x)) for (n, a), x in zip(anchors.items(), losses, strict=True)}
        for i, losses in sorted(best, key=lambda pair: sum(pair[1]))
    ]


def front_table(facts: dict[str, Any]) -> Table:
    """The front of the search, marked as what it is."""
    rows = facts["front"]
    names = [key for key in rows[0] if key not in ("point", "items")] if rows else []
    table = Table("point", *names, "items", title=UNCONFIRMED, title_justify="left")
    for row in rows[:SHOWN]:
        table.add_row(row["point"], *(f"{row[name]:.3f}" for name in names), str(row["items"]))
    if len(rows) > SHOWN:
        table.caption = f"and {len(rows) - SHOWN} more (--json)"
    return table


def show(out: Console, run: Path, *, watch: bool, as_json: bool) -> None:
    """Print it; with `watch`, again and again until nobody writes into the run."""
    facts = read(run)
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    if not watch:
        out.print(_shown(facts))
        return
    with Live(_shown(facts), console=out, auto_refresh=False) as live:
        while facts["writer"]:
            time.sleep(EVERY)
            facts = read(run)
            live.update(_shown(facts), refresh=True)


def _shown(facts: dict[str, Any]) -> Group:
    table = Table(show_header=False)
    for key, value in facts.items():
        if key != "front" and value not in ({}, None):
            table.add_row(key, words(value))
    unconfirmed = facts["front"] and facts["state"] != "confirmed"
    return Group(table, *([front_table(facts)] if unconfirmed else []))
