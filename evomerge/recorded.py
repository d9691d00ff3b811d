"""What the ledger of a run says of its search, whether or not anything is confirmed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evomerge.budget import is_failing
from evomerge.files import latest
from evomerge.files.ledger import Answer, Ledger
from evomerge.maths import pareto
from evomerge.objectives import Anchor, Losses

if TYPE_CHECKING:
    from evomerge.answers import Scores


def comparable(told: Mapping[int, int], wanted: Mapping[int, tuple[int | None, int]]) -> set[int]:
    """Those of the candidates `told` (in which event) whose scores can be compared, as
    `pareto.comparable` has it, and who wait for no further answers; `wanted`: that of a ledger."""
    settled = {id: wanted[id][0] for id, event in told.items() if event > wanted[id][1]}
    return pareto.comparable(settled)


def seen(row: Mapping[str, Any]) -> list[float] | None:
    """The losses of a told candidate's scores, which are others where something is lacking that
    has to be kept (None: not recorded, or it failed)."""
    found: list[float] | None = row.get("seen" if row.get("lacks", 0) > 0 else "losses")
    return found


def depends(key: str, libraries: Mapping[str, str]) -> list[Any]:
    """What a score on a further bank depends on, by its key: a plan, a bank, a split, and
    `libraries`, if all that were noted with it are the same."""
    *what, noted = json.loads(key)
    return [*what, dict(libraries) if noted.items() <= libraries.items() else noted]


def dependence(*what: Any) -> str:
    """The key of a score on a further bank."""
    return json.dumps(what, sort_keys=True)


def _column(evaluated: Mapping[str, Any]) -> str:
    """Where scores of a further bank stand: its name, with the split unless it is `test`."""
    split = json.loads(evaluated["key"])[-2]
    return str(evaluated["bank"]) + ("" if split == "test" else f", {split}")


def why_unconfirmed(ledger: Ledger) -> str | None:
    """Why the confirmation of all that is known by now ended with nothing, if it did."""
    at = ledger.at("unconfirmed")
    if at <= latest.known(ledger):
        return None
    return str(ledger.body(at)["reason"])


def looks(ledger: Ledger) -> int:
    """How often `test` was looked at: to confirm, by the run that seeds are from too, and since
    then for points in between."""
    found = next(filter(None, map(ledger.last, ("confirmed", "seeds"))), {"looks": 0})
    return int(found["looks"]) + sum(bool(e.body["looked"]) for e in ledger.events("between"))


class Recorded:
    """The folder of a run, opened for reading, perhaps while a search writes to it."""

    def __init__(self, folder: str | Path) -> None:
        """Raises InputError where there is no run."""
        self.folder = Path(folder)
        self._ledger = Ledger(self.folder)
        self._read: dict[str, dict[tuple[str, str], dict[str, Answer]]] = {}
        self.recipe: dict[str, Any] = self._ledger.meta("recipe") or {}
        self.objectives: list[str] = list(self._ledger.meta("banks") or {})
        self.dropped: dict[str, list[str]] = self._ledger.meta("dropped") or {}
        self.n_genes = len((self._ledger.meta("identity") or {}).get("genes", {}))

    def _answers(self, key: str) -> dict[tuple[str, str], dict[str, Answer]]:
        """What a plan has answered, by objective and split; only what is shown is read."""
        if key not in self._read:
            table = self._read[key] = {}
            for a in self._ledger.answers_of(key):
                if a.item not in self.dropped.get(a.bank, ()):
                    table.setdefault((a.bank, a.split), {})[a.item] = a
        return self._read[key]

    @cached_property
    def searched(self) -> Losses:
        """The anchors that the search froze, in the signal that it saw."""
        anchors = self._ledger.last("anchors") or {}
        return Losses({name: Anchor(**value) for name, value in anchors.items()}, {})

    def _row(self, key: str, objective: str, split: str) -> dict[str, Answer]:
        return self._answers(key).get((objective, split), {})

    def _column(self, key: str, objective: str, split: str, signal: str = "score") -> Scores:
        row = self._row(key, objective, split)
        return np.array([row[item].seen(signal) for item in sorted(row)])

    def asked(self) -> dict[str, str]:
        """Plan key of every candidate, by label."""
        rows = (row for event in self._ledger.events("ask") for row in event.body["proposals"])
        return {f"c{row['id']}": row["plan"] for row in rows}

    def _confirmation(self) -> Any:
        """What the latest confirmation found, if by plans and questions of now, or None."""
        at = self._ledger.at("confirmed")
        return self._ledger.body(at) if at > latest.changed(self._ledger) else None

    def unconfirmed(self) -> str:
        """Why there is no front, for who asks for one."""
        why = why_unconfirmed(self._ledger)
        if why is None and self._is_failing():
            why = "too many candidates failed; `evomerge status` says why"
        return why or "not confirmed yet; run the search again to go on"

    def _is_failing(self) -> bool:
        """Whether the same search, started again, would end at once."""
        tells = self._ledger.events("tell")
        failed = {row["id"]: row["losses"] is None for event in tells for row in event.body}
        return is_failing([failed[id] for id in sorted(failed)])

    @property
    def later(self) -> int:
        """How many candidates came after those of the confirmed front; no event is read for 0."""
        if self._ledger.at("ask") < self._ledger.at("confirmed"):
            return 0
        n, found = len(self.asked()), self._ledger.last("confirmed") or {}
        return n - int(found.get("candidates", n))

    def between(self) -> dict[str, str]:
        """Plan key by label of the points that were asked for between two others."""
        return {e.body["label"]: e.body["plan"] for e in self._ledger.events("between")}

    def evaluated(self, libraries: Mapping[str, str]) -> dict[str, list[float]]:
        """Scores on banks that the search did not have, by what they depend on; `libraries`: by
        these also what was scored when fewer of them were noted."""
        return {
            dependence(*depends(event.body["key"], libraries)): event.body["scores"]
            for event in self._ledger.events("evaluated")
        }

    def _further(self) -> dict[str, dict[str, list[float]]]:
        """The same by bank, with the split unless it is `test`, then plan key: those of the bank's
        items and of the libraries that were used last."""
        events = list(self._ledger.events("evaluated"))
        last: dict[str, list[Any]] = {}
        for event in events:
            _, *by = json.loads(event.body["key"])
            last[_column(event.body)] = by
        found: dict[str, dict[str, list[float]]] = {name: {} for name in last}
        for event in events:
            name = _column(event.body)
            plan, *by = depends(event.body["key"], last[name][-1])
            if by == last[name]:
                found[name][plan] = event.body["scores"]
        return found

    def history(self) -> Iterator[tuple[int, int, list[float]]]:
        """(id, items answered so far, losses) of each told candidate that did not fail.

        One that is told again counts only its further items; its earlier losses no more.
        """
        items: dict[int, int] = {}
        total = 0
        for event in self._ledger.events("tell"):
            for row in event.body:
                if row["losses"] is not None:
                    total += row["items"] - items.get(row["id"], 0)
                    items[row["id"]] = row["items"]
                    yield row["id"], total, row["losses"]

    def unpenalised(self) -> list[list[float]]:
        """What `history` yields, in its order, as losses of scores, where these are recorded."""
        rows = (row for event in self._ledger.events("tell") for row in event.body)
        return [seen(row) or row["losses"] for row in rows if row["losses"] is not None]

    def failures(self) -> dict[str, str]:
        """Reason by plan key."""
        return self._ledger.failures()

    def spent(self) -> dict[str, float]:
        """What the search took: candidates asked, items answered by them, seconds of work."""
        items = [items for _, items, _ in self.history()]
        return {
            "candidates": len(self.asked()),
            "items": items[-1] if items else 0,
            "seconds": self._ledger.seconds(),
        }

    @property
    def contamination(self) -> list[str]:
        """Why scores on a public benchmark can not be claimed: its test set took part."""
        found = self._ledger.meta("contamination") or {}
        return [f"'{name}': {line}." for name, line in found.items()]

    @property
    def odd(self) -> list[str]:
        """What base and experts scored that points to a wrong prompt or template."""
        return list(self._ledger.meta("odd") or [])

    @cached_property
    def fallbacks(self) -> list[str]:
        """Banks that the search did not read as its recipe wants, and why."""
        from evomerge.estimation import fell_back

        return fell_back((self._ledger.last("calibrated") or {"banks": {}})["banks"])
