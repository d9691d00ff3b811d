"""How far a run is, read from its ledger while another process writes it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Set
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console, Group
from rich.live import Live

from evomerge import errors
from evomerge.budget import is_failing
from evomerge.console import Table
from evomerge.files import latest, lock
from evomerge.files.ledger import Ledger
from evomerge.maths import pareto
from evomerge.objectives import Anchor
from evomerge.recorded import comparable, looks, seen, why_unconfirmed
from evomerge.schema import LACKING, OF_A_CANDIDATE
from evomerge.tables import words

EVERY = 2.0
"""Seconds between two looks of `--watch`."""

REASONS = 5
"""Reasons of failures that are shown, the most frequent first."""

SHOWN = 20
"""Points of an unconfirmed front that are shown."""

STILL = ("run", "writer", "looks at test", "seconds since last event")
"""What somebody who watches a run knows, or sees."""

UNCONFIRMED = "scores of the search, not confirmed: the best of many look better than they are"


def read(folder: Path) -> dict[str, Any]:
    """How far a run is, as JSON; raises InputError where there is none.

    `front` is that of the search, by what it has told so far: {"point", "items", LACKING, an
    objective's score each}, the best mean first.
    """
    ledger = Ledger(folder)
    try:
        session = ledger.last_session() or {}
        told = _told(ledger)
        anchors = {n: Anchor(**value) for n, value in (ledger.last("anchors") or {}).items()}
        wanted = ledger.wanted()
        writer = lock.writer_of(folder)
        return {
            "run": str(folder),
            "state": _state(ledger, writer, told),
            "writer": writer,
            "candidates": len(wanted),
            "told": len(told),
            "failed": sum(row.losses is None for row in told.values()),
            "reasons": _reasons(ledger, {id for id, row in told.items() if row.losses is None}),
            "items": ledger.searched(),
            "seconds": round(ledger.seconds(), 1),
            "seconds since last event": round(time.time() - ledger.last_time(), 1),
            "budget": {k: v for k, v in session.get("budget", {}).items() if v is not None},
            "looks at test": looks(ledger),
            "front": front(told, wanted, anchors),
        }
    finally:
        ledger.close()


def _reasons(ledger: Ledger, failed: Set[int]) -> dict[str, int]:
    """Why these candidates failed, the most frequent first; baselines may have failed too."""
    if not failed:
        return {}
    known = ledger.failures()
    asked = (row for event in ledger.events("ask") for row in event.body["proposals"])
    plans = {row["id"]: row["plan"] for row in asked if row["id"] in failed}
    found = Counter(known[plan] for plan in plans.values() if plan in known)
    return dict(found.most_common(REASONS))


def _state(ledger: Ledger, writer: str | None, told: Mapping[int, Told]) -> str:
    asked = ledger.at("ask")
    if ledger.at("confirmed") > latest.known(ledger):
        return "confirmed"
    if ledger.at("stopped") > asked:
        stage = "confirmation"
    else:
        stage = "search" if ledger.at("anchors") else "base and experts"
    if writer:
        return f"in its {stage}"
    if why := why_unconfirmed(ledger):
        return f"ended: {why}"
    if is_failing([told[id].losses is None for id in sorted(told)]):
        return "ended: too many candidates failed"
    return f"interrupted in its {stage}"


Losses = tuple[float, ...] | None


class Told(NamedTuple):
    """A candidate as it was told last: its items, losses (None: failed), those of its scores,
    which are others where something is lacking that has to be kept (None: not recorded), and the
    number of the event."""

    items: int
    losses: Losses
    seen: Losses
    event: int


def _told(ledger: Ledger) -> dict[int, Told]:
    # Tuples of numbers: a hundred thousand dictionaries would keep the garbage collector busy.
    return {
        row["id"]: Told(row["items"], _tuple(row["losses"]), _tuple(seen(row)), event.number)
        for event in ledger.events("tell")
        for row in event.body
    }


def _tuple(losses: list[float] | None) -> Losses:
    return None if losses is None else tuple(losses)


def front(
    told: Mapping[int, Told],
    wanted: Mapping[int, tuple[int | None, int]],
    anchors: Mapping[str, Anchor],
) -> list[dict[str, Any]]:
    """The nondominated candidates among those that can be compared and do not wait for further
    answers; None where no score is recorded."""
    events = {id: row.event for id, row in told.items() if row.losses is not None}
    full = {id: told[id].losses or () for id in comparable(events, wanted)}
    if not full:
        return []
    kept = pareto.nondominated(np.array(list(full.values())))
    best = [i for i, is_kept in zip(full, kept, strict=True) if is_kept]
    rows = []
    for i in sorted(best, key=lambda i: sum(full[i])):
        row = told[i]
        scores = zip(anchors.items(), row.seen or [None] * len(anchors), strict=True)
        rows.append({"point": f"c{i}", "items": row.items, LACKING: row.losses != row.seen}
                    | {n: None if x is None else a.score(x) for (n, a), x in scores})  # fmt: skip
    return rows


def front_table(facts: dict[str, Any], most: int = SHOWN) -> Table:
    """The best `most` of the front of the search, marked as what it is."""
    rows = facts["front"]
    names = [key for key in rows[0] if key not in ("point", *OF_A_CANDIDATE)] if rows else []
    lacking = [LACKING] if any(row[LACKING] for row in rows) else []
    table = Table("point", *names, "items", *lacking, title=UNCONFIRMED, title_justify="left")
    for row in rows[:most]:
        scores = ("-" if row[name] is None else f"{row[name]:.3f}" for name in names)
        marks = ["yes" if row[LACKING] else "no" for _ in lacking]
        table.add_row(row["point"], *scores, str(row["items"]), *marks)
    if len(rows) > most:
        table.caption = f"and {len(rows) - most} more (--json)"
    return table


def show(out: Console, run: Path, *, watch: bool, as_json: bool) -> None:
    """Print it; with `watch`, again and again until nobody writes into the run, or Ctrl-C."""
    if watch and as_json:
        raise errors.RecipeError(
            "--watch: is for people; for a program, repeat it without --watch"
        )
    facts = read(run)
    if as_json:
        print(json.dumps(facts, indent=1))
    elif not watch:
        out.print(_shown(facts))
    else:
        with suppress(KeyboardInterrupt):  # which ends no search
            _watch(out, run, facts)


def _watch(out: Console, run: Path, facts: dict[str, Any]) -> None:
    if out.is_terminal:
        with Live(_fitting(out, facts), console=out, auto_refresh=False) as live:
            while facts["writer"]:
                time.sleep(EVERY)
                facts = read(run)
                live.update(_fitting(out, facts), refresh=True)
        return
    said = ""
    while facts["writer"]:
        line = (
            f"{facts['state']}: {facts['told']:,} of {facts['candidates']:,} candidates told, "
            f"{facts['failed']:,} failed, {facts['items']:,} items"
        )
        if line != said:
            out.print(line, soft_wrap=True, highlight=False)
        said = line
        time.sleep(EVERY)
        facts = read(run)
    out.print(_shown(facts))


def _fitting(out: Console, facts: dict[str, Any]) -> Group:
    """What changes, with as many points as there is room for on the screen."""
    facts = {key: value for key, value in facts.items() if key not in STILL}
    for most in range(SHOWN, 0, -1):
        shown = _shown(facts, most)
        if len(out.render_lines(shown)) < out.size.height:
            return shown
    return _shown(facts, 0)


def _shown(facts: dict[str, Any], most: int = SHOWN) -> Group:
    table = Table(show_header=False)
    reasons = [f"{n} x {reason}" for reason, n in facts["reasons"].items()]
    writer = (facts.get("writer") or "").partition(", boot ")[0]
    for key, value in {**facts, "reasons": reasons or None, "writer": writer or None}.items():
        if key != "front" and value not in ({}, None):
            table.add_row(key, words(value))
    unconfirmed = facts["front"] and facts["state"] != "confirmed"
    return Group(table, *([front_table(facts, most)] if unconfirmed else []))
