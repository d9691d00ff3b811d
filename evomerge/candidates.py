"""All candidates of a search, so that a hundred thousand of them take little memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from evomerge import errors
from evomerge.answers import Place
from evomerge.files.ledger import Ledger
from evomerge.maths import pareto

CHUNK = 2**12
"""Rows that room is made for at once: what is there stays where it is, and leaves no holes."""

NONE = -1
"""Of `asked`, where the recipe says how many."""


@dataclass(slots=True)
class Candidate:
    """A plan (`key`) that the strategy has proposed, and what is known of it.

    `event` is the number of the ledger's event that has its point. `asked` is how many items of a
    bank the strategy wants (None: as many as the recipe says, or every one); `whole`, whether it
    is one of those who answer every item; `lacks` and `keeps` are those of an observation, `seen`
    the losses without a penalty of one that lacks something. `rung` is the `asked` of which its
    losses are: one that has been asked more since, perhaps in vain, has not answered that.
    """

    id: int
    point: tuple[float, ...] | None
    key: str
    places: Sequence[Place]
    asked: int | None = None
    whole: bool = False
    losses: tuple[float, ...] | None = None
    errors: tuple[float, ...] = ()
    items: int = 0
    failed: bool = False
    event: int = 0
    lacks: float = 0.0
    keeps: float = 1.0
    seen: tuple[float, ...] | None = None
    rung: int | None = None

    @property
    def told(self) -> bool:
        return self.failed or self.losses is not None

    def fail(self) -> None:
        """Forget what is known of it, perhaps from fewer items."""
        self.losses, self.errors, self.items, self.failed = None, (), 0, True
        self.lacks, self.keeps, self.seen = 0.0, 1.0, None

    def observed(self) -> dict[str, Any]:
        known = {"losses": self.losses, "errors": self.errors, "items": self.items}
        kept = {"lacks": self.lacks, "keeps": self.keeps} if self.keeps < 1 else {}
        seen = {"seen": self.seen} if self.lacks > 0 and not self.failed else {}
        return {"id": self.id, **known, **kept, **seen}


class Candidates:
    """Candidates by id, in the order in which they were asked first.

    Those `outstanding`, whose answers are waited for, are objects. Of a settled one there is a row
    of numbers, from which an object is made when it is looked at; what changes in that object is
    kept when it is settled again. Its point stays in the ledger.
    """

    def __init__(self, ledger: Ledger, objectives: int) -> None:
        self.outstanding: dict[int, Candidate] = {}
        self.told = 0
        self._ledger = ledger
        self._count = 0
        self._dtype = _dtype(objectives)
        self._chunks: list[Any] = []
        self._odd: dict[int, int] = {}  # the row of an id that is not the number of its row
        self._places: dict[tuple[Place, ...], int] = {}
        self._place_lists: list[Sequence[Place]] = []
        self._seen: dict[int, tuple[float, ...] | None] = {}  # of those that lack something
        self._read: tuple[int, dict[int, Any]] = (0, {})
        self._looked = (0, False)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Candidate]:
        return (self._at(row) for row in range(self._count))

    def __reversed__(self) -> Iterator[Candidate]:
        return (self._at(row) for row in reversed(range(self._count)))

    def __getitem__(self, id: int) -> Candidate:
        row = self._row_of(id)
        if row is None:
            raise KeyError(id)
        return self._at(row)

    def by_id(self) -> Iterator[Candidate]:
        return (self._at(int(row)) for row in np.argsort(self._column("id")))

    def get(self, id: int) -> Candidate | None:
        row = self._row_of(id)
        return None if row is None else self._at(row)

    @property
    def losses(self) -> npt.NDArray[np.float64]:
        """Of those that have any and lack nothing that has to be kept, in order (n, M)."""
        rows = self._column("losses")
        return np.asarray(rows[~np.isnan(rows).any(axis=1) & ~(self._column("lacks") > 0)])

    def _column(self, name: str) -> npt.NDArray[Any]:
        """Of all candidates, in order (n, ...)."""
        none = np.empty(0, dtype=self._dtype)
        return np.concatenate([c[name] for c in [none, *self._chunks]])[: self._count]

    def repeat(self, many: int) -> bool:
        """Whether the last whole `many` of them are all plans of before; it does not depend on how
        they were asked."""
        whole = self._count // many
        if whole != self._looked[0]:
            keys = [key.tobytes() for key in self._column("key")[: whole * many]]
            self._looked = (whole, len({*keys}) == len({*keys[: (whole - 1) * many]}))
        return self._looked[1]

    def _row(self, number: int) -> Any:
        return self._chunks[number // CHUNK][number % CHUNK]

    def add(self, candidate: Candidate) -> None:
        """One that was not there; it is outstanding."""
        if self._count == CHUNK * len(self._chunks):
            self._chunks.append(np.zeros(CHUNK, dtype=self._dtype))
        if candidate.id != self._count:
            self._odd[candidate.id] = self._count
        self._write(self._count, candidate)
        self._count += 1
        self.outstanding[candidate.id] = candidate

    def settle(self, candidate: Candidate) -> None:
        """Keep what is known of it; it is outstanding no more."""
        candidate.rung = candidate.asked
        row = self._row_of(candidate.id)
        assert row is not None
        self._write(row, candidate)
        self.outstanding.pop(candidate.id, None)

    def _row_of(self, id: int) -> int | None:
        same = 0 <= id < self._count and self._row(id)["id"] == id
        return id if same else self._odd.get(id)

    def recorded(self, candidates: Iterable[Candidate], event: int) -> None:
        """They were asked in this event; what is known of a candidate's point is what the first
        says."""
        for candidate in candidates:
            candidate.event = candidate.event or event

    def point(self, candidate: Candidate) -> tuple[float, ...] | None:
        """Its point (D,), from the ledger where it is not at hand."""
        if candidate.point is not None:
            return candidate.point
        if self._read[0] != candidate.event:
            body = self._ledger.body(candidate.event)
            self._read = (candidate.event, {r["id"]: r["point"] for r in body["proposals"]})
        return point(self._read[1][candidate.id])

    def _write(self, row: int, c: Candidate) -> None:
        self.told += c.told and not self._row(row)["told"]
        lack = np.nan
        if c.lacks > 0:
            self._seen[c.id] = c.seen
        self._chunks[row // CHUNK][row % CHUNK] = (
            c.id, bytes.fromhex(c.key), c.event, NONE if c.asked is None else c.asked,
            self._numbered(c.places), c.items, c.whole, c.failed, c.told,
            lack if c.losses is None else c.losses, c.errors or lack, c.lacks, c.keeps,
        )  # fmt: skip

    def _numbered(self, places: Sequence[Place]) -> int:
        """The number of a list of blocks: there are few, shared by many candidates."""
        number = self._places.setdefault(tuple(places), len(self._places))
        if number == len(self._place_lists):
            self._place_lists.append(places)
        return number

    def _at(self, row: int) -> Candidate:
        found = self._row(row)
        id = int(found["id"])
        if id in self.outstanding:
            return self.outstanding[id]
        asked = None if found["asked"] == NONE else int(found["asked"])
        return Candidate(
            id, None, found["key"].tobytes().hex(), self._place_lists[found["places"]],
            asked=asked, rung=asked,
            whole=bool(found["whole"]), losses=_known(found["losses"]),
            errors=_known(found["errors"]) or (), items=int(found["items"]),
            failed=bool(found["failed"]), event=int(found["event"]),
            lacks=float(found["lacks"]), keeps=float(found["keeps"]),
            seen=self._seen.get(id) if found["lacks"] > 0 else None,
        )  # fmt: skip


def point(value: Sequence[float] | None) -> tuple[float, ...] | None:
    """A point (D,), as JSON has it."""
    return None if value is None else tuple(value)


def _dtype(objectives: int) -> np.dtype[np.void]:
    numbers = [("id", "i8"), ("key", "V32"), ("event", "i8"), ("asked", "i8"), ("places", "i4"),
               ("items", "i4"), ("whole", "?"), ("failed", "?"), ("told", "?")]  # fmt: skip
    losses = [("losses", "f8", objectives), ("errors", "f8", objectives)]
    return np.dtype([*numbers, *losses, ("lacks", "f8"), ("keeps", "f8")])


def _known(row: npt.NDArray[np.float64]) -> tuple[float, ...] | None:
    return None if np.isnan(row).any() else tuple(row.tolist())


def best_of_front(
    told: Sequence[Candidate], n: int, weights: Sequence[float], fill: bool = False
) -> list[Candidate]:
    """The nondominated candidates; above n, the best of each objective and weighted mean. With
    `fill`, up to n in any case, by who is nondominated without the others.

    Where the strategy said how many items it wanted, those who have answered most of these, those
    who answer every item, and those of whom it said nothing, as of points that a run begins with;
    those that lack something of what has to be kept come last, and without `fill` only where all
    do.
    """
    if not told:
        raise errors.Unconfirmed(
            "no candidate has a score: nothing to confirm. Give the run more time or candidates "
            "(--until, --budget), or look at what `evomerge status` says failed"
        )
    compared = pareto.comparable({c.id: c.rung for c in told})
    found: list[Candidate] = []
    for layer in _layers([c for c in told if c.id in compared]):
        if found and (not fill or len(found) == n):
            break
        found += _extremes(layer, n - len(found), weights)
    return found


def _layers(there: Sequence[Candidate]) -> Iterator[list[Candidate]]:
    """The nondominated, those who are so without them, and so on; then of who lacks something."""
    for lacks in (False, True):
        left = list({c.key: c for c in there if (c.lacks > 0) == lacks}.values())
        while left:
            is_best = pareto.nondominated(np.array([c.losses for c in left]))
            yield [c for c, best in zip(left, is_best, strict=True) if best]
            left = [c for c, best in zip(left, is_best, strict=True) if not best]


def _extremes(front: list[Candidate], n: int, weights: Sequence[float]) -> list[Candidate]:
    if len(front) <= n:
        return front
    order = np.argsort(
        np.average([c.losses for c in front], axis=1, weights=weights), kind="stable"
    )
    extremes = np.argmin(np.array([c.losses for c in front]), axis=0)
    chosen = list(dict.fromkeys([order[0], *extremes.tolist(), *order.tolist()]))[:n]
    return [front[i] for i in sorted(chosen)]
