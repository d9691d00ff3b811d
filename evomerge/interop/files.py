"""A YAML of mergekit or mergekit-evolve, read from a file and written as what evomerge reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evomerge import errors
from evomerge.files import plain
from evomerge.files.writer import atomic_text
from evomerge.interop import evolve, plans


@dataclass(frozen=True)
class Written:
    """What was read (a `plan` or a `recipe`), where it went, and what differs."""

    kind: str
    path: Path
    notes: tuple[str, ...]


def convert(file: Path, out: Path | None) -> Written:
    """Write a merge as a plan (JSON) and a search as a recipe (YAML), by default beside `file`.

    Raises RecipeError for what has no counterpart, and for a file that is already there.
    """
    where = str(file)
    data = plain.read_yaml(file, where, raises=errors.RecipeError)
    search = evolve.is_evolve(data)
    kind, endings = ("recipe", plain.YAML) if search else ("plan", (".json",))
    target = out or file.with_name(f"{file.stem}.{kind}{endings[0]}")
    if target.suffix not in endings:
        raise errors.RecipeError(
            f"{target}: {file.name} becomes a {kind}; expected a name that ends in {endings[0]}"
        )
    if target.exists():
        raise errors.RecipeError(f"{target}: already exists; choose another name")
    if search:
        found = evolve.recipe_of(data, where, target.stem.removesuffix(".recipe"), file.parent)
        text, notes = found.text, found.notes
    else:
        imported = plans.plan_of(data, where, file.parent)
        text, notes = f"{imported.plan.model_dump_json(indent=1)}\n", imported.notes
    atomic_text(target, text)
    return Written(kind, target, notes)
