"""Small model families that build themselves: `zoo:tiny/base` wherever a path is asked for.

The folder is the registry: a module here with a RECIPE is a family. It offers
`build(folder, report)`, and in RECIPE the names of its `members` (model folders) and of its
`banks` (files `banks/NAME.jsonl`).
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from evomerge.errors import RecipeError, unknown
from evomerge.zoo.cache import home, published
from evomerge.zoo.progress import shown

__all__ = ["build", "families", "home", "members", "path", "recipe_hash"]

_PREFIX = "zoo:"


def families() -> list[str]:
    """The families there are; nothing is imported to find out."""
    return sorted(
        file.stem
        for folder in __path__
        for file in Path(folder).glob("*.py")
        if re.search(r"^RECIPE\b.*=", file.read_text(encoding="utf-8"), re.MULTILINE)
    )


def _module(family: str) -> Any:
    known = families()
    if family not in known:
        raise RecipeError(unknown("zoo", "family", family, known))
    return importlib.import_module(f"{__name__}.{family}")


def recipe_hash(family: str) -> str:
    """The sha256 of everything that was decided about the family; it names the cache folder."""
    text = json.dumps(_module(family).RECIPE, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def members(family: str) -> list[str]:
    """What `zoo:FAMILY/...` may name: the model folders, then the banks."""
    recipe = _module(family).RECIPE
    return [*recipe["members"], *(f"banks/{bank}.jsonl" for bank in recipe["banks"])]


def build(family: str, *, report: Callable[[str, float], None] | None = None) -> Path:
    """Return the family's folder, building it when it is absent.

    `report` is told what is being done and the fraction done; without one, stderr shows it.
    """
    module = _module(family)
    folder = home() / "zoo" / f"{family}-{recipe_hash(family)[:12]}"
    if folder.is_dir():
        return folder
    with shown(family, report) as tell, published(folder, family, tell) as building:
        if building:
            started = time.monotonic()
            module.build(building, tell)
            _write_manifest(building, family, time.monotonic() - started)
    return folder


def path(reference: str, *, report: Callable[[str, float], None] | None = None) -> Path:
    """Turn `zoo:tiny`, `zoo:tiny/base` or `zoo:tiny/banks/code.jsonl` into a path that exists.

    Builds the family when it is absent; `report` is as for `build`.
    """
    family, parts = _split(reference)
    return build(family, report=report).joinpath(*parts)


def check(reference: str, what: str) -> None:
    """Raise RecipeError unless the reference names a `model` or a `bank` of a family.

    Nothing is built.
    """
    family, parts = _split(reference)
    known = [name for name in members(family) if ("/" in name) == (what == "bank")]
    if "/".join(parts) not in known:
        got = "/".join(parts)
        raise RecipeError(unknown(f"zoo:{family}", what, got, known))


def _split(reference: str) -> tuple[str, tuple[str, ...]]:
    if not reference.startswith(_PREFIX):
        raise RecipeError(f"zoo: a reference begins with '{_PREFIX}', got '{reference}'")
    family, _, inside = reference.removeprefix(_PREFIX).partition("/")
    known = members(family)
    parts = PurePosixPath(inside).parts
    whole = "/".join(parts)
    if ".." in parts or inside.startswith("/") or (whole and whole not in known):
        raise RecipeError(unknown(f"zoo:{family}", "member", inside, known))
    return family, parts


def _write_manifest(folder: Path, family: str, seconds: float) -> None:
    import importlib.metadata
    import platform

    files = sorted(file for file in folder.rglob("*") if file.is_file())
    manifest = {
        "family": family,
        "recipe_sha256": recipe_hash(family),
        "recipe": _module(family).RECIPE,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "transformers")},
        "seconds": round(seconds, 1),
        "files": {
            file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in files
        },
    }
    text = json.dumps(manifest, indent=2) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")
