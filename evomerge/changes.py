"""What has changed since a run began, and whether it can go on with that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from evomerge import errors, plugins
from evomerge.recipe import Problem
from evomerge.scorers import function

EXCHANGEABLE = ("base", "experts", "vocabulary", "operators", "objectives", "libraries")
"""Parts of a run's identity that may change within it, if one insists: plans and answers of
before stay what they were."""

ORDERED = ("experts", "operators", "genes", "objectives")
"""Parts in whose order points and losses of before are."""


class Change(NamedTuple):
    """A key of a run's identity, what the run has there and what there is now (None: nothing)."""

    place: str
    old: Any
    new: Any

    @property
    def part(self) -> str:
        return self.place.split(".")[0]

    @property
    def is_of_a_set(self) -> bool:
        """Whether an expert or an objective has come or gone."""
        return self.part in ("experts", "objectives") and None in (self.old, self.new)

    def line(self, problem: Problem) -> str:
        """`place (file): the run has X, now it is Y`."""
        file = _file(problem, self.place)
        where = f"{self.place} ({file})" if file is not None and file.name else self.place
        return f"{where}: the run has {_shown(self.old)}, now it is {_shown(self.new)}"


def between(old: Any, new: Any, place: str = "") -> list[Change]:
    """The differing leaves of two identities."""
    return list(_between(old, new, place))


def _between(old: Any, new: Any, place: str) -> Iterator[Change]:
    if isinstance(old, dict) and isinstance(new, dict):
        if place in ORDERED and old.keys() == new.keys() and [*old] != [*new]:
            yield Change(f"order of {place}", [*old], [*new])
        for key in sorted({*old, *new}):
            yield from _between(old.get(key), new.get(key), f"{place}.{key}".lstrip("."))
    elif old != new and not _is_same(old, new) and not (place == "seeds" and _moved(old, new)):
        yield Change(place, old, new)


def _is_same(old: Any, new: Any) -> bool:
    """Whether two entries of an identity differ in no more than what is known of a function."""
    both = isinstance(old, list) and isinstance(new, list) and len(old) == len(new)
    return both and all(a == b or function.is_same(a, b) for a, b in zip(old, new, strict=True))


def _moved(old: str | None, new: str | None) -> bool:
    """Whether the run that seeds are from is elsewhere now; they are in the ledger."""
    return None not in (old, new) and not Path(str(old).removeprefix("run:")).exists()


def refuse(folder: Path, found: Sequence[Change], problem: Problem, *, allowed: bool) -> None:
    """Raise RecipeError with all differences, unless they are exchangeable and `allowed`."""
    fixed = [change for change in found if not _is_exchangeable(change, problem)]
    if not found or (allowed and not fixed):
        return
    what = "another recipe" if fixed else "other inputs or libraries"
    lines = "\n".join(f"  {change.line(problem)}" for change in found)
    advice = "Name another folder with -o, or undo the change"
    if not fixed:
        advice += "; --allow-change goes on with it, and records it"
    if any(change.part == "objectives" and change.is_of_a_set for change in found):
        advice += (
            f". What this run has found is scored on another bank by: "
            f"evomerge evaluate {folder} --front --bank BANK"
        )
    elif any(change.is_of_a_set for change in found):
        advice += ". Other experts are another search"
    raise errors.RecipeError(f"{folder}: this run was made from {what}:\n{lines}\n{advice}")


def _is_exchangeable(change: Change, problem: Problem) -> bool:
    """Other items of an objective only where no choice or fit rests on those of before; never
    another function, whose answers can not be told from those of the one before."""
    if change.part not in EXCHANGEABLE or change.is_of_a_set:
        return False
    if change.part != "objectives":
        return True
    if not problem.banks[change.place.partition(".")[2]].path.name:
        return False
    recipe = problem.recipe
    needs = plugins.strategy_needs(recipe.strategy.name, recipe.strategy.options)
    rests = recipe.fidelity.draws or recipe.fidelity.reads != "mean" or "answers" in needs
    return not rests and bool(change.old[-1] == change.new[-1])  # what the search sees of it


def _file(problem: Problem, place: str) -> Path | None:
    """What lies behind a key of the identity."""
    part, _, name = place.partition(".")
    if part == "base":
        return problem.base.folder
    if part == "experts" and name in problem.experts:
        return problem.experts[name].folder
    if part in ("objectives", "keep") and name in problem.banks:
        return problem.banks[name].path
    return None


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
