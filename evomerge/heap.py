"""The memory of this machine, and giving back what is free where a merge goes through a large
model once."""

from __future__ import annotations

import ctypes
import functools
import sys
from pathlib import Path
from typing import Any

EVERY = 2**29
"""Bytes of tiles after which it is worth the time: what is given back costs when it is needed
again."""

KEPT, WHOLE = 2**26, 2**24
"""Bytes that stay at hand when they are freed, and up to which an allocation is of that kind."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, in every glibc


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
    if offered := _offered("malloc_trim"):
        offered(0)


@functools.cache
def keep() -> None:
    """Have the C library of this process keep what is freed: where model after model is built, its
    tiles are allocated again and again, and fresh pages cost a quarter of the time."""
    if offered := _offered("mallopt"):
        offered(_MMAP_THRESHOLD, WHOLE)
        offered(_TRIM_THRESHOLD, KEPT)


def _offered(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def memory() -> dict[str, int]:
    """Bytes of this machine in all ("total"), and that programs may still take ("available");
    empty where the system does not tell."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    except OSError:
        return {}
    wanted = {"total": "MemTotal", "available": "MemAvailable"}
    return {name: int(lines[key].split()[0]) * 1024 for name, key in wanted.items()}
