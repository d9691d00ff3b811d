"""What can be known of a recipe before any of its inputs is opened, or built by the zoo."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge import errors, plugins, saving, shelf, zoo
from evomerge.console import count
from evomerge.files.bank import Bank
from evomerge.genome import Space
from evomerge.layers import APART, Layers
from evomerge.layout import lay_out
from evomerge.maths.intervals import LEAST
from evomerge.plan import Input, Template
from evomerge.schema import OF_A_CANDIDATE, Fidelity, Recipe, require_own_keys
from evomerge.scorers import function, structural

AUTO = "auto"
"""The device that is there."""

WITHOUT_FLOAT64 = ("mps",)
"""Devices on which torch has no float64, in which operators sum."""

REFUSED = {
    "population": "no generation would follow the first one",
    "candidates": "its second strategy would never begin",
}
SIZES = {
    **REFUSED,
    "archive": "nothing would ever have to leave it",
    "startup": "nothing would be modelled",
}
"""Options of strategies that are numbers of candidates, and what becomes of a search that ends
before; one that is given is refused where most of the strategy would never be."""


def before_inputs(recipe: Recipe, folder: Path, functions: Sequence[str]) -> None:
    """Raise RecipeError, InputError or MachineError for what can not be.

    `functions` are the names of objectives that are not in the recipe.
    """
    for operator in recipe.operators:
        plugins.load("operator", operator, "operator")
    for kind in ("strategy", "executor"):
        named = getattr(recipe, kind)
        plugins.check_options(kind, named.name, named.options, kind)
    _fidelity(recipe.fidelity)
    saving.size(recipe.disk_reserve, "disk_reserve")
    if recipe.budget.is_empty:
        raise errors.RecipeError("budget: give candidates, items, seconds or until")
    most = recipe.budget.candidates
    for size in _sizes(recipe):
        if size.given and size.key in REFUSED and most is not None and size.value > most:
            raise errors.RecipeError(
                f"{size.where}: {size.value} candidates are more than the budget has ({most}): "
                + SIZES[size.key]
            )
    if not recipe.objectives and not functions:
        raise errors.RecipeError("objectives: expected at least one, such as math: math.jsonl")
    for name in functions:
        if name in recipe.objectives:
            raise errors.RecipeError(f"objectives: '{name}' is in the recipe and in functions")
    require_own_keys([*recipe.objectives, *functions], "objectives", OF_A_CANDIDATE)
    _objectives(recipe, folder)
    _keep(recipe, folder, functions)
    _prefer(recipe, [*recipe.objectives, *functions])
    for key, model in {"base": recipe.base, **recipe.experts}.items():
        if model.startswith("zoo:"):
            with errors.at(key if key == "base" else f"experts.{key}"):
                zoo.check(model, "model")
    space, _ = lay_out(_imagined(recipe), recipe.space.genes, "space.genes")
    # A model may lack what is outside of all blocks; its own space is looked at once it is open
    sure = [gene for gene in space.genes if gene.group not in APART] or space.genes
    strategy(recipe, Space(sure), [*recipe.objectives, *functions])
    device(recipe)


def _fidelity(fidelity: Fidelity) -> None:
    """Refuse options that would do nothing, and losses that could not be compared."""
    name, reads = fidelity.name, fidelity.reads
    given = fidelity.identity()
    every = name == "all"
    for key, wrong, reason in (
        ("items", every and fidelity.items is not None, "'all' asks every item"),
        ("items", not every and fidelity.items is None, f"'{name}' needs a number of items"),
        ("estimator", every and reads != "mean", "'all' asks every item: there is only the mean"),
        ("estimator", name == "informative" and reads == "mean", "the mean of the most "
         "informative items is not that of all: expected equated, p_irt or stratified"),
        ("random", name != "informative" and "random" in given, "goes with 'informative'"),
        ("rotate", fidelity.rotates > 0 and not fidelity.draws, f"'{name}' has one fixed order"),
        ("elites", not fidelity.rotates and fidelity.elites is not None, "goes with 'rotate'"),
        *((key, reads == "mean" and key in given, "goes with estimators other than the mean:"
           " means of different items can not be compared")
          for key in ("calibration", "recalibration", "every", "rotate")),
        ("every", not fidelity.refits and "every" in given, "nothing is fitted or replaced anew"
         " here: goes with 'rotate'"),
    ):  # fmt: skip
        if wrong:
            raise errors.RecipeError(f"fidelity.{key}: {reason}")


@dataclass(frozen=True)
class Option:
    """One of a strategy, that a recipe has `given` or that is a default."""

    strategy: str
    where: str
    key: str
    value: Any
    given: bool


def _options(
    name: str, options: Mapping[str, Any], where: str, given: bool = True
) -> Iterator[Option]:
    """Those of a strategy and of all that it is around, at whatever depth."""
    module = plugins.load("strategy", name, where)
    parameters = inspect.signature(module.Strategy.__init__).parameters
    defaults = {key: parameter.default for key, parameter in parameters.items()}
    for key, value in {**defaults, **options}.items():
        one = Option(name, f"{where}.{key}", key, value, given and key in options)
        yield one
        if isinstance(value, Mapping) and isinstance(value.get("name"), str):
            inner = {option: v for option, v in value.items() if option != "name"}
            yield from _options(value["name"], inner, one.where, one.given)


def _sizes(recipe: Recipe) -> Iterator[Option]:
    for one in _options(recipe.strategy.name, recipe.strategy.options, "strategy"):
        if one.key in SIZES and isinstance(one.value, int):
            yield one


def too_few(banks: Mapping[str, Bank]) -> Iterator[str]:
    """Banks of whose means on `test` nothing can be said beyond themselves, for people; one item
    a split is a measure, such as a function's."""
    for name, bank in banks.items():
        there = len(bank.split("test"))
        if there < LEAST and max(there, len(bank.split("search"))) > 1:
            yield (
                f"'{name}' has {count(there, 'test item')}: with fewer than {LEAST}, "
                "differences between models get no interval and no p-value"
            )


def too_large(recipe: Recipe, banks: Mapping[str, Bank]) -> Iterator[str]:
    """What a budget ends before, for people: a strategy's defaults, and whatever a budget of items
    can not hold. Answers that another run has given cost nothing, so that with `seeds` only
    candidates are counted."""
    most, what = recipe.budget.candidates, "candidates of the budget"
    if recipe.budget.items is not None and recipe.seeds is None:
        can = _candidates(recipe, recipe.budget.items, banks)
        if most is None or can < most:
            most, what = can, "candidates that the budget of items has at most"
    if most is not None:
        for size in _sizes(recipe):
            if size.value > most:
                yield (
                    f"{size.strategy}: its {size.key} of {size.value} is more than the {most} "
                    f"{what}: {SIZES[size.key]}"
                )


def _candidates(recipe: Recipe, items: int, banks: Mapping[str, Bank]) -> int:
    """How many a budget of items can have at most: base and experts answer every item."""
    there = [len(bank.split("search")) for bank in banks.values()]
    rungs = (min(given, default=2) for _, given in _rungs(recipe))
    fewest = min([recipe.fidelity.items or max(there), *rungs])
    each = sum(min(n, fewest) for n in there)
    left = items - (1 + len(recipe.experts)) * sum(there)
    return max(0, math.ceil(left / each))


def all_asked(recipe: Recipe, banks: Mapping[str, Bank]) -> Iterator[str]:
    """Where a recipe asks for more items than a bank has, for people."""
    asked = [("fidelity.items is", recipe.fidelity.items or 0)]
    asked += [(f"{where} has", n) for where, rungs in _rungs(recipe) for n in rungs]
    for name, bank in banks.items():
        there = len(bank.split("search"))
        for what, n in asked:
            if 1 < there < n:
                yield f"{what} {n}, and '{name}' has {there}: all are asked"


def _rungs(recipe: Recipe) -> Iterator[tuple[str, list[int]]]:
    """Where a strategy has numbers of items that it asks, and those that it is given."""
    for one in _options(recipe.strategy.name, recipe.strategy.options, "strategy"):
        if one.key == "rungs":
            yield one.where, [n for n in one.value or () if isinstance(n, int)]


def _objectives(recipe: Recipe, folder: Path) -> None:
    for name, objective in recipe.objectives.items():
        with errors.at(f"objectives.{name}"):
            given = [objective.bank, objective.function, objective.measure]
            if sum(one is not None for one in given) != 1:
                raise errors.RecipeError("expected either 'bank', 'function' or 'measure'")
            if objective.signal != "score" and objective.bank is None:
                raise errors.RecipeError(
                    f"signal: '{objective.signal}' is of a bank's answers; a function or a "
                    "measure has 'score' alone: leave 'signal' out"
                )
            if objective.function is not None:
                function.find(objective.function)
            elif objective.measure is not None:
                structural.find(objective.measure)
            elif objective.bank is not None:
                _bank(recipe, objective.bank, folder)


def _keep(recipe: Recipe, folder: Path, functions: Sequence[str]) -> None:
    for name, one in recipe.keep.items():
        with errors.at(f"keep.{name}"):
            if name in recipe.objectives or name in functions:
                raise errors.RecipeError("is an objective too; give it another name")
            if (one.within is None) == (one.at_least is None):
                raise errors.RecipeError("expected either 'within' or 'at_least'")
            if one.of != "base" and one.of not in recipe.experts:
                known = ["base", *recipe.experts]
                raise errors.RecipeError(errors.unknown("of", "model", one.of, known))
            _bank(recipe, one.bank, folder)


def _prefer(recipe: Recipe, objectives: Sequence[str]) -> None:
    for name in recipe.prefer:
        if name not in objectives:
            raise errors.RecipeError(errors.unknown("prefer", "objective", name, objectives))
    if recipe.prefer and not any(recipe.prefer.values()):
        raise errors.RecipeError("prefer: all weights are 0")


def _bank(recipe: Recipe, bank: str, folder: Path) -> None:
    """Whether there is such a bank; refused if it is a test set that others report."""
    keys = shelf.check(bank, folder)
    if keys is None or keys.benchmark is None or recipe.allow_contamination:
        return
    if contamination := keys.benchmark.contamination():
        raise errors.RecipeError(
            f"bank '{keys.name}': {contamination}. Search and validate on other items; "
            "`allow_contamination: true` does it anyway, and says so in report and model card"
        )


def _imagined(recipe: Recipe) -> Template:
    """A template with every group that the base may turn out to have."""
    layers = Layers(blocks=recipe.space.blocks, roles=recipe.space.roles)
    groups = layers.imaginable()
    if layers.blocks == "all":  # how many is not known yet: those that are named
        named = (re.search(r"@(\d+)((?:/\w+)?)$", pattern) for pattern in recipe.space.genes)
        ends = {group.removeprefix("1") for group in groups if group[0] == "1"}
        groups += tuple(m[1] + m[2] for m in named if m and m[1] != "1" and m[2] in ends)
    experts = tuple(Input(name=name, sha256="") for name in recipe.experts)
    base = Input(name="base", sha256="")
    unique = tuple(dict.fromkeys(groups))
    return Template(base, experts, layers, unique, tuple(recipe.operators))


def strategy(recipe: Recipe, space: Space, objectives: Sequence[str]) -> None:
    """Whether the strategy can search this space, with the options it is given."""
    named, seed = recipe.strategy, recipe.seed
    plugins.check_strategy(named.name, named.options, space, objectives, "strategy", seed=seed)


def device(recipe: Recipe) -> str:
    """The device that `auto` stands for, or the one that is named.

    RecipeError for an unknown one, MachineError for one without float64 and for one that this
    machine does not have; workers with an address are on other machines.
    """
    import torch

    here = torch.accelerator.current_accelerator(check_available=True)
    if recipe.device == AUTO:
        return here.type if here is not None and here.type not in WITHOUT_FLOAT64 else "cpu"
    try:
        wanted = torch.device(recipe.device)
    except RuntimeError:
        known = (AUTO, "cpu", "cuda", "xpu")
        raise errors.RecipeError(
            errors.unknown("device", "device", recipe.device, known)
        ) from None
    if wanted.type in WITHOUT_FLOAT64:
        raise errors.MachineError(
            f"device: '{recipe.device}' has no numbers of 64 bits, in which merges are summed; "
            "name cpu"
        )
    there = wanted.type == "cpu" or recipe.executor.options.get("address") is not None
    if here is not None and wanted.type == here.type:
        there = there or (wanted.index or 0) < torch.accelerator.device_count()
    if not there:
        raise errors.MachineError(
            f"device: '{recipe.device}' is not on this machine; '{AUTO}' takes what there is"
        )
    return recipe.device
