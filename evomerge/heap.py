"""The memory of this machine, and giving back what is free where a merge goes through a large
model once."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

EVERY = 2**29
"""Bytes of tiles after which it is worth the time: what is given back costs when it is needed
again."""


class Heap:
    """Counts the bytes of tiles; the C library keeps the room of freed ones, scattered among what
    is in use, so that what a process holds would grow with the model."""

    def __init__(self) -> None:
        self.used = 0

    def note(self, size: int) -> None:
        self.used += size
        if self.used >= EVERY:
            self.used = 0
            trim()


def trim() -> None:
    """Give back what is free; nothing where the C library does not offer it."""
    if sys.platform == "linux" and (offered := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        offered(0)


def memory() -> dict[str, int]:
    """Bytes of this machine in all ("total"), and that programs may still take ("available");
    empty where the system does not tell."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    except OSError:
        return {}
    wanted = {"total": "MemTotal", "available": "MemAvailable"}
    return {name: int(lines[key].split()[0]) * 1024 for name, key in wanted.items()}
