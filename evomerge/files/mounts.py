"""On what kind of file system a folder lies, and how SQLite is to open a file there."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from evomerge import errors

# Write-ahead logs need shared memory, which network file systems do not give.
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "lustre", "beegfs", "ceph", "9p"}


def journal(kind: str) -> str:
    """SQLite's journal mode for a type of file system."""
    return "DELETE" if kind in _NETWORK else "WAL"


def file_system(folder: Path, table: Path = Path("/proc/mounts")) -> str:
    """Type of the file system a folder lies on; empty where the machine does not tell."""
    try:
        mounts = table.read_text()
    except OSError:
        return ""
    best = ("", "")
    for line in mounts.splitlines():
        _, point, kind, *_ = line.split()
        name = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), point)
        inside = folder.resolve().is_relative_to(name)
        # Of two at one place the later lies on top, as NFS does on systemd's autofs
        if inside and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]


class _Connection(sqlite3.Connection):
    """Closed when nobody uses it any more, as that of a run which is looked at in a notebook."""

    def __del__(self) -> None:
        with suppress(sqlite3.ProgrammingError):  # in a thread that did not open it
            self.close()


def connect(path: Path) -> sqlite3.Connection:
    """Open a database; one that may not be written to, a colleague's or an archive's, only to be
    read, where SQLite would want to write beside it even so. MachineError where it can not be."""
    log = path.with_name(f"{path.name}-wal")
    # Two slashes at the start would be the host of an address
    where = "file:" + quote(re.sub("^//+", "/", str(path)))
    if path.exists() and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        if log.exists() and log.stat().st_size:
            raise errors.MachineError(
                f"{path.parent}: can not be written to, and whoever wrote there did not close it: "
                "copy the folder, and use the copy"
            )
        where += "?mode=ro&immutable=1"
    return sqlite3.connect(where, isolation_level=None, timeout=30, uri=True, factory=_Connection)


@contextmanager
def plainly(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours: MachineError, or InputError where the file is no good."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise errors.MachineError(
            f"{path}: {error}. Nothing recorded is lost: look at space and rights, and run the "
            "same command again"
        ) from error
    except sqlite3.DatabaseError as error:
        raise errors.InputError(
            f"{path}: not a readable ledger: {error}. Put a copy of it back, or search in another "
            "folder (-o)"
        ) from error
