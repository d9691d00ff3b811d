"""Where families are kept; one gets there wholly or not at all, once however many ask for it."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from evomerge.errors import MachineError

_MACHINE = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission to write",
    errno.EPERM: "no permission to write",
    errno.ENOLCK: "the file system has no locks",
    errno.ENOTDIR: "a part of the path is not a folder",
}
_PLACE = {**_MACHINE, errno.EEXIST: "a link leads nowhere", errno.ENOENT: "there is no such place"}
"""Of the folder itself; from within a build, these would be faults of our own."""


def home() -> Path:
    """$EVOMERGE_HOME, or `evomerge` in the platform's cache folder."""
    if chosen := os.environ.get("EVOMERGE_HOME"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "evomerge"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "evomerge"
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    return (Path(xdg) if os.path.isabs(xdg) else Path.home() / ".cache") / "evomerge"


def _try_lock(file: IO[str]) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        if problem.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):
            return False
        raise
    return True


@contextmanager
def _locked(file: Path, what: str, report: Callable[[str, float], None]) -> Iterator[None]:
    """A lock that is held has a living holder: the system takes it from a process that dies."""
    import time

    with file.open("a") as opened:
        while not _try_lock(opened):
            report(f"waiting for another process that builds {what}", 0.0)
            time.sleep(0.2)
        yield


def _settle(folder: Path) -> None:
    """Put the contents on the disk before the name; a power cut could leave empty files else."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())


@contextmanager
def published(
    folder: Path, family: str, report: Callable[[str, float], None], what: str = ""
) -> Iterator[Path | None]:
    """Give an empty folder to build in, renamed to `folder` at the end; None if it came meanwhile.

    `what` is built, as messages say it: zoo:FAMILY, where nothing else is said.
    Who holds the lock is the only builder, so any other temporary folder is that of a dead build.
    """
    prefix = f".building-{family}-"
    what = what or f"zoo:{family}"
    reasons = _PLACE
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        reasons = _MACHINE
        with _locked(folder.parent / f".{family}.lock", what, report):
            if folder.is_dir():
                yield None
                return
            for rubbish in folder.parent.glob(f"{prefix}*"):
                shutil.rmtree(rubbish, ignore_errors=True)
            temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
            try:
                yield temporary
                _settle(temporary)
                temporary.chmod(0o755)
                temporary.rename(folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except OSError as problem:
        if problem.errno not in reasons:
            raise
        reason = reasons[problem.errno]
        where = problem.filename or folder.parent
        raise MachineError(
            f"can not build {what}, {reason}: {where} "
            "(the variable EVOMERGE_HOME names another place)"
        ) from problem
