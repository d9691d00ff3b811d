"""One process writes into a run folder: who it is, for those that come later."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from evomerge import errors

_held: set[int] = set()


def _let_go() -> None:
    """A child that outlives its parent would hold the lock for nobody."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def take(folder: Path) -> int:
    """Lock a folder, made if it is not there; MachineError, naming the other, if it is in use."""
    try:
        import fcntl  # which Windows has not; all that writes no run does without
    except ImportError:
        raise errors.MachineError(
            f"{folder}: this system ({platform.system()}) has no locks of files (fcntl), without "
            "which two searches might write here at once: search on Linux, macOS or in WSL"
        ) from None
    if (part := obstacle(folder)) is not None:
        if part.exists():
            raise errors.MachineError(f"{part}: is a file, expected a folder for the run")
        raise errors.MachineError(f"{part}: is a link to {part.readlink()}, which is not there")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise errors.MachineError(f"{folder}: can not be written: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        other = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        if writer_of(folder) is None and other != "unknown":
            other = f"one that was started by {other}, which has ended"
        raise errors.MachineError(
            f"{folder}: in use by another process ({other}). Wait for it, or name another folder"
        ) from error
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{_me()}\n".encode(), 0)
    except OSError as error:
        os.close(descriptor)
        raise errors.MachineError(f"{folder}: can not be written: {error.strerror}") from error
    _held.add(descriptor)
    return descriptor


def obstacle(folder: Path) -> Path | None:
    """What is in the way of a folder: a file, or a link to nowhere, that it is or would be in."""
    parts = (folder, *folder.parents)
    return next((p for p in parts if os.path.lexists(p) and not p.is_dir()), None)


def release(descriptor: int) -> None:
    if descriptor in _held:
        _held.remove(descriptor)
        os.ftruncate(descriptor, 0)
        os.close(descriptor)


def _me() -> str:
    return f"pid {os.getpid()} on {platform.node()}, boot {_boot()}"


def writer_of(folder: Path) -> str | None:
    """The process of this machine that writes into a run folder; None if there is none.

    The lock itself is the kernel's, and ends with the process that holds it: this only reads what
    the holder wrote, so that looking does not stand in the way of whoever wants to write.
    """
    try:
        said = (folder / "lock").read_text(errors="replace").strip()
    except OSError:
        return None
    found = re.fullmatch(r"pid (\d+) on (.*), boot (.*)", said)
    if found is None or found[2] != platform.node():
        return said or None  # of another machine nothing is known
    return said if is_alive(int(found[1])) and found[3] == _boot() else None


def is_alive(pid: int) -> bool:
    """Whether this machine has such a process, whoever it belongs to."""
    if os.name != "posix":  # there, kill(pid, 0) is not a question
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _boot() -> str:
    """What the kernel calls the time since this machine was started."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"
