"""The one SQLite file of a run: events in order, and every answer ever given.

One process writes, and holds a lock on the run folder; any number may read. A transaction is on
disk (WAL, synchronous=FULL) before anything else hears of what it holds.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge import errors

NAME = "ledger.sqlite"
SCHEMA = 1

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS events (
    number INTEGER PRIMARY KEY, kind TEXT NOT NULL, body TEXT NOT NULL, time REAL NOT NULL);
CREATE TABLE IF NOT EXISTS sessions (number INTEGER PRIMARY KEY, body TEXT NOT NULL, time REAL);
CREATE TABLE IF NOT EXISTS plans (key TEXT PRIMARY KEY, plan TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS failures (
    plan TEXT PRIMARY KEY, reason TEXT NOT NULL, time REAL NOT NULL, host TEXT, slot INTEGER);
CREATE TABLE IF NOT EXISTS answers (
    plan TEXT NOT NULL, bank TEXT NOT NULL, item TEXT NOT NULL, split TEXT NOT NULL,
    score REAL NOT NULL, extra TEXT NOT NULL, time REAL NOT NULL, host TEXT, slot INTEGER,
    PRIMARY KEY (plan, bank, item)) WITHOUT ROWID;
"""

_NAMES = re.findall(r"TABLE IF NOT EXISTS (\w+)", _TABLES)

# Write-ahead logs need shared memory, which network file systems do not give.
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "lustre", "beegfs", "ceph", "9p"}


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


class Ledger:
    """Events, plans, answers and failures of one run."""

    def __init__(self, folder: Path, *, write: bool = False) -> None:
        """Raises MachineError if another process writes there, InputError for a broken file."""
        self.folder = folder
        self.path = folder / NAME
        if not write and not (self.path.is_file() and self.path.stat().st_size):
            raise errors.InputError(f"{folder}: no run here ({NAME} is missing or empty)")
        self._lock = _lock(folder) if write else None
        try:
            with _plain(self.path):
                self._db = sqlite3.connect(self.path, isolation_level=None, timeout=30)
                self._open(write)
        except BaseException:
            self._unlock()
            raise

    def _open(self, write: bool) -> None:
        tables = {row[0] for row in self._db.execute("SELECT name FROM sqlite_master")}
        if tables and "meta" not in tables:
            raise errors.InputError(f"{self.path}: is a database, but not a ledger")
        version = self.meta("schema") if tables else None
        if version is None and write:  # new, or its first process died within a moment
            self._create()
        elif version != SCHEMA:
            raise errors.InputError(
                f"{self.path}: schema {version}, this evomerge reads {SCHEMA}: use the version "
                "that made it"
            )
        elif lacking := sorted(set(_NAMES) - tables):
            raise errors.InputError(f"{self.path}: not a whole ledger: lacks {', '.join(lacking)}")
        if write:
            wal = "DELETE" if _file_system(self.folder) in _NETWORK else "WAL"
            self._db.execute(f"PRAGMA journal_mode={wal}")
            self._db.execute("PRAGMA synchronous=FULL")

    def _create(self) -> None:
        self._db.executescript(_TABLES)
        if self.meta("schema") is None:
            self.set_meta("schema", SCHEMA)

    def meta(self, key: str) -> Any:
        row = self._db.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
        return json.loads(row[0]) if row else None

    def set_meta(self, key: str, value: Any) -> None:
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, _json(value)))

    def append(self, kind: str, body: Any) -> None:
        """Add one event."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO events (kind, body, time) VALUES (?, ?, ?)",
                (kind, _json(body), time.time()),
            )

    def events(self, *kinds: str) -> Iterator[Event]:
        """Events in order, of the given kinds or all."""
        marks = ",".join("?" * len(kinds))
        where = f"WHERE kind IN ({marks})" if kinds else ""
        query = f"SELECT number, kind, body, time FROM events {where} ORDER BY number"
        for number, kind, body, when in self._db.execute(query, kinds):
            yield Event(number, kind, json.loads(body), when)

    def last(self, kind: str) -> Any:
        """Body of the latest event of a kind, or None."""
        query = "SELECT body FROM events WHERE kind=? ORDER BY number DESC LIMIT 1"
        row = self._db.execute(query, (kind,)).fetchone()
        return json.loads(row[0]) if row else None

    def add_session(self, body: Any) -> None:
        """Note that a process starts to work on the run: on which machine, with which versions."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO sessions (body, time) VALUES (?, ?)", (_json(body), time.time())
            )

    def seconds(self) -> float:
        """Time between the first ask and the last tell of each session, added up: loading models
        and confirming do not count."""
        starts = [row[0] for row in self._db.execute("SELECT time FROM sessions ORDER BY time")]
        total = 0.0
        for start, end in zip(starts, [*starts[1:], time.time() + 1], strict=True):
            query = (
                "SELECT max(time) - min(time) FROM events "
                "WHERE kind IN ('ask', 'tell') AND time >= ? AND time < ?"
            )
            total += self._db.execute(query, (start, end)).fetchone()[0] or 0.0
        return total

    def add_plans(self, plans: Iterable[tuple[str, str]]) -> None:
        """Keep plans, as (key, JSON)."""
        with self._transaction():
            self._db.executemany("INSERT OR IGNORE INTO plans VALUES (?, ?)", plans)

    def plan(self, key: str) -> Any:
        """A plan's JSON by its key; raises InputError if the run has none."""
        row = self._db.execute("SELECT plan FROM plans WHERE key=?", (key,)).fetchone()
        if row is None:
            raise errors.InputError(f"{self.folder}: no plan {key[:12]}")
        return json.loads(row[0])

    def record(self, plan: str, answers: Iterable[Answer], host: str, slot: int) -> None:
        """Keep the answers of one job in one transaction; what is already there stays."""
        now = time.time()
        rows = [
            (plan, a.bank, a.item, a.split, a.score, _json(a.extra), now, host, slot)
            for a in answers
        ]
        with self._transaction():
            self._db.executemany(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows
            )

    def record_failure(self, plan: str, reason: str, host: str, slot: int) -> None:
        with self._transaction():
            self._db.execute(
                "INSERT OR IGNORE INTO failures VALUES (?, ?, ?, ?, ?)",
                (plan, reason, time.time(), host, slot),
            )

    def answers(self) -> Iterator[tuple[str, Answer]]:
        """All answers, as (plan key, answer)."""
        query = "SELECT plan, bank, item, split, score, extra FROM answers"
        for plan, bank, item, split, score, extra in self._db.execute(query):
            yield plan, Answer(bank, item, split, score, json.loads(extra))

    def forget_failures(self, plans: Iterable[str]) -> None:
        """Drop the failures of these plans, so that they can be tried again."""
        with self._transaction():
            self._db.executemany("DELETE FROM failures WHERE plan=?", ((key,) for key in plans))

    def failures(self) -> dict[str, str]:
        """Reason by plan key."""
        return dict(self._db.execute("SELECT plan, reason FROM failures"))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _plain(self.path):
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
            os.close(self._lock)
            self._lock = None


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


@contextmanager
def _plain(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise errors.MachineError(
            f"{path}: {error}. Nothing recorded is lost: look at space and rights, and run the "
            "same command again"
        ) from error
    except sqlite3.DatabaseError as error:
        raise errors.InputError(f"{path}: not a readable ledger: {error}") from error


def _lock(folder: Path) -> int:
    if folder.exists() and not folder.is_dir():
        raise errors.MachineError(f"{folder}: is a file, expected a folder for the run")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise errors.MachineError(f"{folder}: can not be written: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise errors.MachineError(
            f"{folder}: in use by another process ({owner}). Wait for it, or name another folder"
        ) from error
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"pid {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
    except OSError as error:
        os.close(descriptor)
        raise errors.MachineError(f"{folder}: can not be written: {error.strerror}") from error
    return descriptor


def _file_system(folder: Path) -> str:
    """Type of the file system a folder lies on; empty where the machine does not tell."""
    try:
        mounts = Path("/proc/mounts").read_text()
    except OSError:
        return ""
    best = ("", "")
    for line in mounts.splitlines():
        _, point, kind, *_ = line.split()
        inside = folder.resolve().is_relative_to(point.replace("\\040", " "))
        if inside and len(point) > len(best[0]):
            best = (point, kind)
    return best[1]
