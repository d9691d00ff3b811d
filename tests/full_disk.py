"""A ledger on a disk that is full at every place a write can end, in children of this process.

python -m tests.full_disk FOLDER STEP     on a file system of its own, filled with ballast
"""

import os
import resource
import shutil
import sqlite3
import sys
import traceback
from functools import partial
from pathlib import Path

from evomerge import errors
from evomerge.files.ledger import Answer, Ledger

RECORDS = 12
SAID = "Nothing recorded is lost"
FULL, WHOLE = 10, 0


def forked(action) -> int:
    """Exit code of a child that does `action()`: what it returns, or 1."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(action())
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def file_limit(limit: int) -> None:
    """No file of this process may have more bytes; SIGXFSZ is ignored by Python."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def record(folder: Path, acknowledge: int, first: int = 0) -> int:
    """Add answers one by one, each acknowledged; FULL where the machine did not allow it."""
    try:
        ledger = Ledger(folder, write=True)
        for i in range(first, RECORDS):
            extra = {"margin": i / 7, "text": "x" * 400}
            ledger.record("plan", [Answer("bank", f"item {i}", "search", 0.5, extra)], "host", 0)
            os.write(acknowledge, b"x")
        ledger.close()
        return WHOLE
    except errors.MachineError as error:
        return FULL if SAID in str(error) or "can not be written" in str(error) else 1


def stored(folder: Path) -> list[str]:
    """Items that a sound ledger has; none where there is no ledger yet."""
    if not (folder / "ledger.sqlite").exists():
        return []
    db = sqlite3.connect(folder / "ledger.sqlite")
    try:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name='answers'").fetchone():
            return []
        return [row[0] for row in db.execute("SELECT item FROM answers")]
    finally:
        db.close()


def one(folder: Path, limit, free) -> bool:
    """Whether the disk was full; in any case no acknowledged answer is lost, and it goes on."""
    hear, acknowledge = os.pipe()

    def limited() -> int:
        limit()
        return record(folder, acknowledge)

    code = forked(limited)
    os.write(acknowledge, b"-")
    told = len(os.read(hear, 100)) - 1
    assert code in (WHOLE, FULL), code
    free()
    known = set(stored(folder))
    assert {f"item {i}" for i in range(told)} <= known and len(known) <= told + 1
    assert forked(partial(record, folder, acknowledge, told)) == WHOLE
    assert set(stored(folder)) == {f"item {i}" for i in range(RECORDS)}
    os.close(hear)
    os.close(acknowledge)
    shutil.rmtree(folder)
    return code == FULL


def main() -> None:
    place, step = Path(sys.argv[1]), int(sys.argv[2])
    ballast = place / "ballast"
    usage = shutil.disk_usage(place)
    assert usage.total < 10**6, "expected a small file system of its own"
    full = 0
    for free in range(0, 200_000, step):
        ballast.write_bytes(bytes(usage.total - free))
        full += one(place / "run", lambda: None, ballast.unlink)
    assert full > 5, full
    print(full)


if __name__ == "__main__":
    main()
