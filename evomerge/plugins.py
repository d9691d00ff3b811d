"""The contracts of the plug-in folders. The folder is the registry: a name is a file in it."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Protocol

from evomerge import errors, keywords
from evomerge.genome import Gene, Space

REFERENCE_POINT = 1.1
"""Loss that bounds the hypervolume in every objective: 0 is the best of base and experts, 1 is
one unit worse (usually the base model)."""

FAILED_LOSS = 1000.0
"""What a library is told of a failed candidate where it insists on a number: beyond any loss (20
is a score of 0 at the least unit); never infinity, on which hypervolume code hangs or crashes."""


@dataclass(frozen=True)
class Proposal:
    """A candidate and the items wanted per objective (None: as the fidelity says).

    `point` (D,) of the unit cube, or `plan` (its JSON) where no point describes the candidate.
    The same id may be proposed again with more items.
    """

    id: int
    point: tuple[float, ...] | None = None
    plan: Mapping[str, Any] | None = None
    items: int | None = None


@dataclass(frozen=True)
class Observation:
    """What is known of one candidate: losses (M,) to minimise and their standard errors (M,).

    A failed candidate has `losses=None`. `answers[objective][item] = score` is filled for
    strategies that need it. `lacks`: how much it lacks of what has to be kept, by estimates (0:
    nothing), which losses say too, answers do not; `keeps`: how probably it lacks nothing.
    """

    id: int
    point: tuple[float, ...] | None
    losses: tuple[float, ...] | None
    errors: tuple[float, ...] = ()
    items: int = 0
    answers: Mapping[str, Mapping[str, float]] | None = None
    lacks: float = 0.0
    keeps: float = 1.0

    @property
    def failed(self) -> bool:
        return self.losses is None


Start = Sequence[tuple[tuple[float, ...], tuple[float, ...] | None]]
"""Points (D,) that are known before a strategy begins, with their losses (None: failed)."""

FEW = 8
"""Genes that the need "few_genes" allows: a full quadratic then has 45 coefficients."""

NOT_OPTIONS = frozenset({"seed", "start"})
"""Keywords of a plug-in that its caller fills, never a recipe."""


class Strategy(Protocol):
    """strategies/NAME.py: `class Strategy`. Its keyword options are those of `__init__`.

    NEEDS names what it can not do without: "numbers_only" (no choice genes), "one_objective",
    "several_objectives", "few_genes" (FEW), "expert_weights", "answers" (per item). A combinator
    may define a module function `needs(options)` instead; one that decides something by itself
    `explain(space, objectives, options)`: a line that says what.
    Given the same events in the same order it is in the same state, bit for bit: every random
    number derives from `seed`; global generators, clocks and files are not touched.
    A combinator hands what it knows to its inner strategy as `start`, if that takes it. What a
    `population` of None is, a module function `default_population(space)` says.
    """

    NEEDS: ClassVar[frozenset[str]]

    def __init__(
        self, space: Space, objectives: Sequence[str], *, seed: int, **options: Any
    ) -> None: ...

    def ask(self, n: int) -> list[Proposal]:
        """At most n > 0 proposals; []: wait for tells, or finished if none are outstanding."""
        ...

    def tell(self, observations: Sequence[Observation]) -> None:
        """Any order, any subset; a candidate may be told several times."""
        ...

    def incumbents(self) -> list[tuple[float, ...]]:
        """Points worth confirming beside the front, such as a distribution mean."""
        ...

    # optional: notes() -> list[str], what people should know of how it went, after the search;
    # promoted() -> int, how many known candidates the next ask begins with, for more items


FOLDERS = {
    "operator": "operators",
    "strategy": "strategies",
    "scorer": "scorers",
    "executor": "executors",
}

PARTS = {
    "operator": ("VERSION", "GENES", "scope", "merge"),
    "strategy": ("Strategy",),
    "scorer": ("prepare", "score"),
    "executor": ("Executor",),
}
"""What a module must have to be a plug-in of each kind."""


_LOADED: dict[tuple[str, str], ModuleType] = {}
"""Modules by kind and name: names are looked up for every tensor of every candidate."""


def known(kind: str) -> list[str]:
    """Sorted names of the plug-ins that come with evomerge."""
    package = importlib.import_module(f"evomerge.{FOLDERS[kind]}")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.name[0] != "_")


def load(kind: str, name: str, where: str = "") -> ModuleType:
    """The module behind a name: `ties` is operators/ties.py, `my_lab.climb` the user's own.

    Raises RecipeError for an unknown name, with the nearest known one.
    """
    if (kind, name) not in _LOADED:
        _LOADED[kind, name] = _import(kind, name, where or kind)
    return _LOADED[kind, name]


def _import(kind: str, name: str, where: str) -> ModuleType:
    if "." not in name:
        if name not in known(kind):
            raise errors.RecipeError(errors.unknown(where, kind, name, known(kind)))
        return importlib.import_module(f"evomerge.{FOLDERS[kind]}.{name}")
    module = own_module(name, where)
    if lacking := [part for part in PARTS[kind] if not hasattr(module, part)]:
        raise errors.RecipeError(
            f"{where}: module '{name}' is no {kind}: it lacks {', '.join(lacking)}"
        )
    return module


def own_module(name: str, where: str) -> ModuleType:
    """A user's module, from the current folder or the Python path; RecipeError says why not."""
    if not re.fullmatch(r"\w+(\.\w+)*", name):
        raise errors.RecipeError(f"{where}: expected the name of a Python module, got '{name}'")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever the user's code does when it is imported
        if isinstance(error, ModuleNotFoundError) and name.startswith(error.name or " "):
            reason = f"no module '{name}' in {Path.cwd()} or on the Python path"
        else:
            reason = f"module '{name}' can not be imported: {type(error).__name__}: {error}"
        raise errors.RecipeError(f"{where}: {reason}") from error


def strategy_needs(name: str, options: Mapping[str, Any]) -> frozenset[str]:
    """What a strategy can not do without, its inner strategies' needs included."""
    module = load("strategy", name)
    if hasattr(module, "needs"):
        return frozenset(module.needs(options))
    return frozenset(module.Strategy.NEEDS)


def check_options(kind: str, name: str, options: Mapping[str, Any], where: str) -> None:
    """Raise RecipeError for an option that the plug-in does not take, or not with this value.

    Options are the keywords of a class, or of a scorer's `prepare`.
    """
    module = load(kind, name, where)
    call = module.prepare if kind == "scorer" else getattr(module, kind.capitalize()).__init__
    with_name = (f"{where} ({name})", f"{where}.{name}")
    keywords.check(call, options, *with_name, unless=NOT_OPTIONS)


def begin(
    name: str,
    options: Mapping[str, Any],
    space: Space,
    objectives: Sequence[str],
    *,
    seed: int,
    where: str,
    start: Start = (),
) -> Strategy:
    """A new strategy, told the `start` if it takes one.

    Whatever it says against its options is a RecipeError.
    """
    module = load("strategy", name, where)
    known = {"start": start} if start and takes(module.Strategy, "start") else {}
    try:
        strategy: Strategy = module.Strategy(space, objectives, seed=seed, **options, **known)
    except errors.EvomergeError:
        raise
    except Exception as error:  # the user's own code
        reason = f"{type(error).__name__}: {error}"
        raise errors.RecipeError(f"{where}: '{name}' can not begin: {reason}") from error
    return strategy


def inner(value: Any, where: str) -> tuple[str, dict[str, Any]]:
    """Name and options of a combinator's inner strategy, checked.

    Raises RecipeError unless it is a mapping with a name and options that this strategy takes.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise errors.RecipeError(f"{where}: got {value!r}, expected a mapping with a name")
    options = {key: option for key, option in value.items() if key != "name"}
    check_options("strategy", value["name"], options, where)
    return value["name"], options


def explain(name: str, options: Mapping[str, Any], space: Space, objectives: Sequence[str]) -> str:
    """What a strategy decides by itself for this space, in a line; empty for most."""
    module = load("strategy", name)
    return str(module.explain(space, objectives, options)) if hasattr(module, "explain") else ""


def notes(strategy: Strategy) -> list[str]:
    """What people should know of how a search went; nothing from most strategies."""
    return list(getattr(strategy, "notes", list)())


def promoted(strategy: Strategy) -> int:
    """How many known candidates a strategy's next ask begins with, for more items."""
    return int(getattr(strategy, "promoted", int)())


def takes(plugin: type[Any], keyword: str) -> bool:
    """Whether the plug-in's class can be given this keyword."""
    parameters = inspect.signature(plugin.__init__).parameters
    return keyword in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def check_strategy(
    name: str,
    options: Mapping[str, Any],
    space: Space,
    objectives: Sequence[str],
    where: str,
    *,
    seed: int = 0,
) -> None:
    """Refuse by name a strategy that can not do what is asked, and name those that can.

    It is begun once, so that a wrong option shows before anything is scored.
    """
    check_options("strategy", name, options, where)
    if not len(space):
        raise errors.RecipeError(f"{where}: the space has no genes: there is nothing to search")
    reason = refusal(strategy_needs(name, options), space.genes, objectives)
    if reason:
        able = [n for n in known("strategy")
                if not refusal(strategy_needs(n, {}), space.genes, objectives)]  # fmt: skip
        raise errors.RecipeError(f"{where}: '{name}' {reason}. Strategies that can: {able}")
    begin(name, options, space, objectives, seed=seed, where=where)


def refusal(needs: frozenset[str], genes: Sequence[Gene], objectives: Sequence[str]) -> str | None:
    """Why a strategy with these needs can not search this; None if it can."""
    choices = [gene.key for gene in genes if gene.choices]
    if "numbers_only" in needs and choices:
        return f"searches numbers only, and '{choices[0]}' is a choice"
    if "one_objective" in needs and len(objectives) > 1:
        return f"has one objective, and {len(objectives)} are asked for"
    if "several_objectives" in needs and len(objectives) < 2:
        return f"trades objectives off, and '{objectives[0]}' is the only one"
    if "few_genes" in needs and len(genes) > FEW:
        return f"fits surrogates of at most {FEW} genes, and there are {len(genes)}"
    if "expert_weights" in needs and not any(g.expert and g.name == "weight" for g in genes):
        return "mixes experts by their weights, and no gene is an expert's weight"
    return None


def is_structural(scorer: str) -> bool:
    """Whether a scorer is given what was counted while the model was built, not the model."""
    return bool(getattr(load("scorer", scorer), "STRUCTURAL", False))
