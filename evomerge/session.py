"""What a session owes to the run it works on: the same recipe, inputs and libraries."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evomerge import __version__, errors
from evomerge.files.ledger import Ledger, begun
from evomerge.files.writer import atomic_text
from evomerge.recipe import Problem

LIBRARIES = ("torch", "transformers", "numpy", "pymoo", "cma")
"""Whose versions answers and proposals depend on."""

EXCHANGEABLE = ("base", "experts", "vocabulary", "operators", "objectives", "libraries")
"""Parts of a run's identity that may change within it, if one insists: plans and answers of
before stay what they were."""


def open_run(ledger: Ledger, problem: Problem, *, allow_change: bool) -> list[str]:
    """Make a folder that of this recipe, or see whether it is; what has changed and is allowed.

    Raises RecipeError with the differences to the recipe, inputs or libraries that it was made
    with, unless they are exchangeable and allowed: then they become an event.
    """
    mine, theirs = problem.identity(), ledger.meta("identity")
    lines: list[str] = []
    if theirs is None:
        ledger.set_meta("banks", _banks(problem))
        ledger.set_meta("origins", problem.origins())
    else:
        before = ledger.last_session() or {"versions": versions()}
        old = {**theirs, "libraries": before["versions"]}
        lines = list(differences(old, {**mine, "libraries": versions()}))
        _refuse(ledger.folder, lines, allow_change=allow_change)
    if lines:
        ledger.append("changed", lines)
    if theirs != mine:
        ledger.set_meta("identity", mine)
    recipe = problem.portable()
    ledger.set_meta("recipe", recipe)
    atomic_text(ledger.folder / "recipe.json", json.dumps(recipe, indent=1))
    return [f"changed since the run began: {line}" for line in lines]


def _refuse(folder: Path, lines: list[str], *, allow_change: bool) -> None:
    if not lines:
        return
    fixed = [line for line in lines if line.split(":")[0].split(".")[0] not in EXCHANGEABLE]
    if allow_change and not fixed:
        return
    what = "another recipe" if fixed else "other inputs or libraries"
    advice = "Name another folder with -o, or undo the change"
    if not fixed:
        advice += "; --allow-change goes on with it, and records it"
    changes = "\n".join(f"  {line}" for line in lines)
    raise errors.RecipeError(f"{folder}: this run was made from {what}:\n{changes}\n{advice}")


def versions() -> dict[str, str]:
    return {"evomerge": __version__, **{name: version(name) for name in LIBRARIES}}


def version(library: str) -> str:
    """What is installed, without importing it."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def facts(problem: Problem) -> dict[str, Any]:
    """Where and with what a session works."""
    return {
        "executor": problem.recipe.executor.model_dump(),
        "budget": problem.recipe.budget.model_dump(),
        "device": problem.setup.device,
        "host": platform.node(),
        "python": platform.python_version(),
        "versions": versions(),
    }


def _banks(problem: Problem) -> dict[str, Any]:
    return {
        name: {"bank": problem.banks[name].name, "scorer": problem.banks[name].scorer}
        for name in problem.objectives
    }


def pinned(folder: Path) -> dict[str, str]:
    """The commits of a run that has begun, by the names that its recipe has for them."""
    return dict(Ledger(folder).meta("origins") or {}) if begun(folder) else {}


def other_scores(ledger: Ledger, problem: Problem) -> list[str]:
    """Parts of the recipe by which its scores can not be compared with those of a run."""
    recorded, now = ledger.meta("identity") or {}, problem.identity()
    parts = ("base", "experts", "vocabulary", "objectives", "keep", "dtype")
    return [part for part in parts if recorded.get(part) != now.get(part)]


def require_same_scores(ledger: Ledger, problem: Problem) -> None:
    """Raise RecipeError where new scores could not be compared with those of the run."""
    if other := other_scores(ledger, problem):
        raise errors.RecipeError(
            f"{ledger.folder}: {', '.join(other)}: not what the run was made with; its scores can "
            "not be compared with new ones"
        )


def differences(old: Any, new: Any, place: str = "") -> Iterator[str]:
    """Lines `place: the run has X, now it is Y`, at most one a leaf."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key):
                yield from differences(old.get(key), new.get(key), f"{place}.{key}".lstrip("."))
    elif old != new:
        yield f"{place}: the run has {_short(old)}, now it is {_short(new)}"


def _short(value: Any) -> str:
    shown = "nothing" if value is None else str(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
