"""The packages that are installed: which can not be imported, and one without its bars."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


def version(name: str) -> str:
    """What is installed, without importing it."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def broken(names: Iterable[str]) -> Iterator[str]:
    """Why those that are installed can not be imported."""
    for name in names:
        if version(name) == "missing":
            continue
        try:
            importlib.import_module(name.replace("-", "_"))
        except Exception as error:  # whatever it is, that is the finding
            yield f"{name} can not be imported: {type(error).__name__}: {error}".splitlines()[0]


@contextmanager
def without_bars() -> Iterator[None]:
    """Without the bars that transformers draws for every file."""
    from transformers.utils import logging

    bars: Any = logging
    drawn = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            bars.enable_progress_bar()
