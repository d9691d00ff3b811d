"""The packages that are installed, and those of them that can not be imported."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Iterable, Iterator


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
