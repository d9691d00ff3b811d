"""What a session owes to the run it works on: the same recipe, inputs and libraries."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

from evomerge import __version__, budget, changes, errors, packages
from evomerge.files import latest
from evomerge.files.ledger import Ledger, begun
from evomerge.files.writer import atomic_text
from evomerge.recipe import Problem

LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "scipy", "pymoo", "cma", "optuna")
"""Whose versions answers and proposals depend on."""


def refuse_model(folder: Path) -> None:
    """RecipeError for a folder that holds a model, and no run: one of the inputs, by mistake."""
    is_model = (folder / "config.json").exists() or any(folder.glob("*.safetensors"))
    if is_model and not begun(folder):
        raise errors.RecipeError(f"{folder}: holds a model, expected a new folder for the run")


def refuse_past(until: str | None, folder: Path, now: float) -> None:
    """RecipeError for a new run that is to end before it begins; one that is there may confirm."""
    if until is not None and budget.until(until, now) < now and not begun(folder):
        raise errors.RecipeError(f"budget.until: '{until}' is over; give a time to come (--until)")


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
        # An earlier evomerge noted fewer of them
        now = {name: x for name, x in versions().items() if name in before["versions"]}
        found = changes.between(old, {**mine, "libraries": now})
        changes.refuse(ledger.folder, found, problem, allowed=allow_change)
        lines = [change.line(problem) for change in found]
    if lines:
        dropped = _dropped(ledger, problem)
        ledger.append("changed", lines)
        ledger.set_meta("dropped", dropped)
    if theirs != mine:
        ledger.set_meta("identity", mine)
    ledger.set_meta("paths", {item.sha256: item.path for item in problem.inputs.inputs})
    recipe = problem.portable()
    ledger.set_meta("recipe", recipe)
    atomic_text(ledger.folder / "recipe.json", json.dumps(recipe, indent=1))
    return [f"changed since the run began: {line}" for line in lines]


def finish(ledger: Ledger, problem: Problem, candidates: int) -> None:
    """Note that nothing is left to do for this recipe, unless more time may give more to do."""
    limits = problem.recipe.budget
    if limits.seconds is None and limits.until is None:
        ledger.set_meta("finished", {"candidates": candidates, "recipe": problem.portable()})


def finished(ledger: Ledger, problem: Problem) -> int | None:
    """How many candidates there were when nothing was left to do; None where something may be.

    It spares a replay, in which a strategy thinks as long as it has thought in the search.
    """
    noted = ledger.meta("finished")
    if noted is None or noted["recipe"] != problem.portable():
        return None
    if ledger.at("confirmed") < latest.known(ledger):
        return None
    return int(noted["candidates"])


def _dropped(ledger: Ledger, problem: Problem) -> dict[str, list[str]]:
    """By objective, items that have answers and are no longer in its bank; RecipeError where one
    has moved to another split, which would let the search see what is reported."""
    there = {name: {i.id: i.split for i in bank.items} for name, bank in problem.banks.items()}
    gone: dict[str, set[str]] = {name: set() for name in there}
    for _, answer in ledger.answers():
        split = there[answer.bank].get(answer.item)
        if split is None:
            gone[answer.bank].add(answer.item)
        elif split != answer.split:
            raise errors.RecipeError(
                f"{problem.banks[answer.bank].path}: item '{answer.item}' has been answered as "
                f"one of '{answer.split}', now it is in '{split}': name another folder with -o"
            )
    return {name: sorted(items) for name, items in gone.items()}


def versions() -> dict[str, str]:
    return {"evomerge": __version__, **{name: packages.version(name) for name in LIBRARIES}}


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
    found = {}
    for name in problem.objectives:
        bank = problem.banks[name]
        origin = {"origin": bank.origin} if bank.origin else {}
        found[name] = {"bank": bank.name, "scorer": bank.scorer, **origin}
    return found


def pinned(folder: Path) -> dict[str, str]:
    """The commits of a run that has begun, by the names that its recipe has for them."""
    return dict(Ledger(folder).meta("origins") or {}) if begun(folder) else {}


def other_scores(ledger: Ledger, problem: Problem) -> list[str]:
    """Parts of the recipe by which its scores can not be compared with those of a run."""
    recorded, now = ledger.meta("identity") or {}, problem.identity()
    parts = ("base", "experts", "vocabulary", "objectives", "keep", "dtype")
    return [part for part in parts if changes.between(recorded.get(part), now.get(part))]


def require_same_scores(ledger: Ledger, problem: Problem) -> None:
    """Raise RecipeError where new scores could not be compared with those of the run."""
    if other := other_scores(ledger, problem):
        raise errors.RecipeError(
            f"{ledger.folder}: {', '.join(other)}: not what the run was made with; its scores can "
            "not be compared with new ones"
        )
