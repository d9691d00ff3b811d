"""The one SQLite file of a run: events in order, and every answer ever given.

One process writes, and holds a lock on the run folder; any number may read. A transaction is on
disk (WAL, synchronous=FULL) before anything else hears of what it holds.
"""

from __future__ import annotations

import json
import math
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge import errors
from evomerge.files import lock
from evomerge.files.mounts import connect, file_system, journal, plainly

NAME = "ledger.sqlite"
SCHEMA = 2
"""Since 2 plans are compressed; what 1 wrote is read as it is."""

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS events (
    number INTEGER PRIMARY KEY, kind TEXT NOT NULL, body TEXT NOT NULL, time REAL NOT NULL);
CREATE TABLE IF NOT EXISTS sessions (number INTEGER PRIMARY KEY, body TEXT NOT NULL, time REAL);
CREATE TABLE IF NOT EXISTS plans (key TEXT PRIMARY KEY, plan BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS failures (
    plan TEXT PRIMARY KEY, reason TEXT NOT NULL, time REAL NOT NULL, host TEXT, slot INTEGER);
CREATE TABLE IF NOT EXISTS answers (
    plan TEXT NOT NULL, bank TEXT NOT NULL, item TEXT NOT NULL, split TEXT NOT NULL,
    score REAL NOT NULL, extra TEXT NOT NULL, time REAL NOT NULL, host TEXT, slot INTEGER,
    PRIMARY KEY (plan, bank, item)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS events_by_kind ON events (kind, number);
CREATE INDEX IF NOT EXISTS events_by_time ON events (time);
"""

_WORKED = "ifnull(json_extract(body, '$.worked'), time)"  # of a session: of its last answer
_COPIED = "host LIKE 'run:%'"  # of an answer: another run has given it

_NAMES = re.findall(r"TABLE IF NOT EXISTS (\w+)", _TABLES)


@dataclass(frozen=True)
class Event:
    number: int
    kind: str
    body: Any
    time: float


@dataclass(frozen=True)
class Answer:
    """What one plan scored on one item, in [0, 1], with the scorer's extras."""

    bank: str
    item: str
    split: str
    score: float
    extra: Mapping[str, float]

    def seen(self, signal: str) -> float:
        """What a search that looks at a signal sees: a scorer without that signal gives its
        score."""
        return self.score if signal == "score" else self.extra.get(signal, self.score)


class Ledger:
    """Events, plans, answers and failures of one run."""

    def __init__(
        self, folder: Path, *, write: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        """Raises MachineError if another process writes there, InputError for a broken file."""
        self.folder = folder
        self.path = folder / NAME
        self._clock = clock
        self._session: int | None = None
        if not write and not begun(folder):
            raise errors.InputError(f"{folder}: no run here ({NAME} is missing or empty)")
        self._lock = lock.take(folder) if write else None
        try:
            with plainly(self.path):
                self._db = connect(self.path)
                self._open(write)
        except BaseException:
            self._unlock()
            raise

    def _open(self, write: bool) -> None:
        tables = {row[0] for row in self._db.execute("SELECT name FROM sqlite_master")}
        if tables and "meta" not in tables:
            raise errors.InputError(f"{self.path}: is a database, but not a ledger")
        version = self.meta("schema") if tables else None
        if write and not tables:
            self._create()
        elif version not in range(1, SCHEMA + 1):
            raise errors.InputError(
                f"{self.path}: schema {version}, this evomerge reads up to {SCHEMA}: use the "
                "version that made it"
            )
        elif lacking := sorted(set(_NAMES) - tables):
            raise errors.InputError(f"{self.path}: not a whole ledger: lacks {', '.join(lacking)}")
        if write:
            self._db.executescript(_TABLES)  # indexes, where an earlier evomerge had none
            self._db.execute(f"PRAGMA journal_mode={journal(file_system(self.folder))}")
            self._db.execute("PRAGMA synchronous=FULL")
            if version not in (None, SCHEMA):
                self.set_meta("schema", SCHEMA)

    def _create(self) -> None:
        with self.together():
            for statement in _TABLES.split(";"):
                self._db.execute(statement)
            self._db.execute("INSERT INTO meta VALUES ('schema', ?)", (_json(SCHEMA),))

    def meta(self, key: str) -> Any:
        return self._first("SELECT value FROM meta WHERE key=?", key)

    def _rows(self, query: str, *values: Any) -> Iterator[Any]:
        with plainly(self.path):  # what is damaged shows only when it is read
            yield from self._db.execute(query, values)

    def _first(self, query: str, *values: Any) -> Any:
        """The JSON that a query finds first, or None."""
        row = next(self._rows(query, *values), None)
        return json.loads(row[0]) if row else None

    def set_meta(self, key: str, value: Any) -> None:
        with self.together():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, _json(value)))

    def append(self, kind: str, body: Any) -> int:
        """Add one event; its number."""
        query = "INSERT INTO events (kind, body, time) VALUES (?, ?, ?)"
        with self.together():
            written = self._db.execute(query, (kind, _json(body), self._clock()))
        return int(written.lastrowid or 0)

    def events(self, *kinds: str) -> Iterator[Event]:
        """Events in order, of the given kinds or all."""
        where = f"WHERE kind IN ({','.join('?' * len(kinds))})" if kinds else ""
        query = f"SELECT number, kind, body, time FROM events {where} ORDER BY number"
        for number, kind, body, when in self._rows(query, *kinds):
            yield Event(number, kind, json.loads(body), when)

    def last(self, kind: str) -> Any:
        """Body of the latest event of a kind, or None."""
        return self.body(self.at(kind))

    def at(self, *kinds: str) -> int:
        """The number of the latest event of these kinds, or 0."""
        query = "SELECT ifnull(max(number),0)||'' FROM events WHERE kind=?"
        return max(int(self._first(query, kind)) for kind in kinds)

    def body(self, number: int) -> Any:
        """That of the event with this number."""
        return self._first("SELECT body FROM events WHERE number=?", number)

    def add_session(self, body: Any) -> None:
        """Note that a process starts to work on the run: on which machine, with which versions."""
        row = (_json(body), self._clock())
        with self.together():
            written = self._db.execute("INSERT INTO sessions (body, time) VALUES (?, ?)", row)
        self._session = written.lastrowid

    def last_session(self) -> Any:
        """What the latest session noted of itself, or None."""
        return self._first("SELECT body FROM sessions ORDER BY number DESC LIMIT 1")

    def wanted(self) -> dict[int, tuple[int | None, int]]:
        """By candidate: items it was asked last (None: not said, or every one), in which event."""
        query = """SELECT json_extract(p.value, '$.id'), CASE WHEN json_extract(p.value, '$.whole')
            THEN NULL ELSE json_extract(p.value, '$.items') END, number FROM events,
            json_each(events.body, '$.proposals') AS p WHERE kind='ask' ORDER BY number"""
        return {id: (items, number) for id, items, number in self._rows(query)}

    def last_time(self) -> float:
        """When the latest event or session was, in seconds since the epoch."""
        times = f"SELECT max(time) AS t FROM events UNION SELECT max({_WORKED}) FROM sessions"
        return float(next(self._rows(f"SELECT max(t) FROM ({times})"))[0] or 0.0)

    def seconds(self) -> float:
        """Time from the start of each session to its last event or answer, added up."""
        rows = list(self._rows(f"SELECT time, {_WORKED} FROM sessions ORDER BY time"))
        # What is asked of a finished run belongs to no session, what has changed to the next one
        query = """SELECT max(time) FROM events
            WHERE time >= ? AND time < ? AND kind NOT IN ('between', 'evaluated', 'changed')"""
        total = 0.0
        for (start, worked), (end, _) in zip(rows, [*rows[1:], (math.inf, 0)], strict=False):
            total += max(worked, next(self._rows(query, start, end))[0] or start) - start
        return total

    def add_plans(self, plans: Iterable[tuple[str, str]]) -> None:
        """Keep plans, as (key, JSON)."""
        rows = [(key, zlib.compress(plan.encode())) for key, plan in plans]
        with self.together():
            self._db.executemany("INSERT OR IGNORE INTO plans VALUES (?, ?)", rows)

    def plan(self, key: str) -> Any:
        """A plan's JSON by its key; raises InputError if the run has none."""
        kept = next(self._rows("SELECT plan FROM plans WHERE key=?", key), (None,))[0]
        if kept is None:
            raise errors.InputError(f"{self.folder}: no plan {key[:12]}")
        return json.loads(zlib.decompress(kept) if isinstance(kept, bytes) else kept)

    def plans(self) -> set[str]:
        """Keys of the plans that are here: answers of another run were copied without theirs."""
        return {key for (key,) in self._rows("SELECT key FROM plans")}

    def record(self, plan: str, answers: Iterable[Answer], host: str, slot: int) -> None:
        """Keep the answers of one job, all or none; what is already there stays."""
        now = self._clock()
        rows = [(plan, a.bank, a.item, a.split, a.score, _json(a.extra), now, host, slot)
                for a in answers]  # fmt: skip
        query = "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        worked = "UPDATE sessions SET body=json_set(body, '$.worked', ?) WHERE number=?"
        with self.together():
            self._db.executemany(query, rows)
            self._db.execute(worked, (now, self._session))

    def record_failure(self, plan: str, reason: str, host: str, slot: int) -> None:
        row = (plan, reason, self._clock(), host, slot)
        with self.together():
            self._db.execute("INSERT OR IGNORE INTO failures VALUES (?, ?, ?, ?, ?)", row)

    def answers(self) -> Iterator[tuple[str, Answer]]:
        """All answers, as (plan key, answer)."""
        query = "SELECT plan, bank, item, split, score, extra FROM answers"
        for plan, bank, item, split, score, extra in self._rows(query):
            yield plan, Answer(bank, item, split, score, json.loads(extra))

    def answers_of(self, plan: str) -> Iterator[Answer]:
        """Those of one plan."""
        query = "SELECT bank, item, split, score, extra FROM answers WHERE plan=?"
        for bank, item, split, score, extra in self._rows(query, plan):
            yield Answer(bank, item, split, score, json.loads(extra))

    def searched(self) -> int:
        """How many items of `search` are answered, but for what another run has answered."""
        query = f"SELECT count(*) FROM answers WHERE split='search' AND NOT {_COPIED}"
        return int(next(self._rows(query))[0])

    def copied(self) -> set[str]:
        """Keys of the plans that have answers of another run."""
        return {key for (key,) in self._rows(f"SELECT DISTINCT plan FROM answers WHERE {_COPIED}")}

    def forget_failures(self, plans: Iterable[str]) -> None:
        """Drop the failures of these plans, so that they can be tried again."""
        with self.together():
            self._db.executemany("DELETE FROM failures WHERE plan=?", ((key,) for key in plans))

    def failures(self) -> dict[str, str]:
        """Reason by plan key."""
        return dict(self._rows("SELECT plan, reason FROM failures"))

    @contextmanager
    def together(self) -> Iterator[None]:
        """All that is written in here is one transaction, on disk when it ends, or nothing is."""
        outer = self._db.in_transaction
        if outer:
            yield
            return
        with plainly(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def close(self) -> None:
        self._db.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            lock.release(self._lock)
            self._lock = None


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def begun(folder: Path) -> bool:
    """Whether a folder has a ledger: a process that died as it made one has left none."""
    path = folder / NAME
    if not (path.is_file() and path.stat().st_size):
        return False
    with plainly(path), closing(connect(path)) as db:
        return db.execute("SELECT 1 FROM sqlite_master").fetchone() is not None
