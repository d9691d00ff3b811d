"""Recipes: a YAML file that says what to search for; checked whole before any model is loaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from evomerge import errors, plugins, zoo
from evomerge.files import bank as banks
from evomerge.files import plain
from evomerge.files.checkpoint import Checkpoint, compare
from evomerge.genome import Gene, Space, Value
from evomerge.layers import Layers
from evomerge.plan import Dtype, Input, Plan, Template
from evomerge.scorers import function
from evomerge.worker import Setup

Signal = Literal["score", "probability", "plain"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SpaceOptions(Layers):
    """The resolution of the genome; `genes` narrows ranges, fixes values or adds genes.

    Keys of `genes` are `weight`, `ties.weight`, `weight[code]`, `weight@2` or a mix; values a
    number or choice (fixed), [low, high], a list of choices, or `search` (the whole range).
    """

    genes: dict[str, float | str | list[float] | list[str]] = Field(default_factory=dict)


class Objective(_Part):
    """A bank by name or path, or a function as `module:name`; `signal` is what the search sees."""

    bank: str | None = None
    function: str | None = None
    signal: Signal = "score"


class Fidelity(_Part):
    """How many items of each bank's `search` split a candidate answers, in a fixed order."""

    name: Literal["all", "first"] = "all"
    items: int | None = Field(default=None, ge=1)


class Budget(_Part):
    """When the search ends, whatever comes first; `items` counts all answers up to then."""

    candidates: int | None = Field(default=None, ge=1)
    items: int | None = Field(default=None, ge=1)
    seconds: float | None = Field(default=None, gt=0)


class Named(BaseModel):
    """A plug-in's name; whatever else is given are its options."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Recipe(_Part):
    """A whole search. `batch`: items scored at a time. `ask`: candidates asked for at a time when
    `deterministic` (always so inline). `shortlist`: candidates that are confirmed."""

    name: str = Field(pattern=r"^[\w.-]+$")
    description: str = ""
    base: str
    experts: dict[str, str] = Field(min_length=1)
    operator: str | list[str]
    space: SpaceOptions = SpaceOptions()
    objectives: dict[str, Objective] = Field(min_length=1)
    strategy: Named
    fidelity: Fidelity = Fidelity()
    budget: Budget = Budget(candidates=200)
    shortlist: int = Field(default=16, ge=1)
    batch: int = Field(default=25, ge=1)
    ask: int = Field(default=8, ge=1)
    seed: int = Field(default=0, ge=0)
    dtype: Dtype = "float32"
    device: str = "auto"
    executor: Named = Named(name="inline")
    deterministic: bool = False

    @field_validator("strategy", "executor", "fidelity", mode="before")
    @classmethod
    def _plain_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("objectives", mode="before")
    @classmethod
    def _plain_bank(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {key: {"bank": v} if isinstance(v, str) else v for key, v in value.items()}

    @field_validator("experts")
    @classmethod
    def _names(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not re.fullmatch(r"[\w.-]+", name):
                raise ValueError(f"an expert's name has letters, digits, . _ -; got '{name}'")
        return value

    @property
    def operators(self) -> list[str]:
        return [self.operator] if isinstance(self.operator, str) else self.operator


def read(source: str | Path | Mapping[str, Any]) -> tuple[Recipe, str, Path]:
    """The recipe of a file, of a shipped recipe's name or of a mapping; where; its folder.

    Raises RecipeError with the file, the key and the nearest valid name.
    """
    if isinstance(source, Mapping):
        where, folder, data = "recipe", Path.cwd(), dict(source)
    else:
        path = _find(str(source))
        where, folder = str(source), path.parent
        data = plain.read_yaml(path, where, raises=errors.RecipeError)
    recipe = plain.check(Recipe, data, where, raises=errors.RecipeError)
    _check_names(recipe, where)
    return recipe, where, folder


def _find(source: str) -> Path:
    """A file, or a shipped recipe as `quickstart` or `recipes/quickstart.yaml`."""
    if Path(source).is_file():
        return Path(source)
    shipped = banks.shipped("recipes")
    name = re.sub(r"^recipes/|\.ya?ml$", "", source)
    if (shipped / f"{name}.yaml").is_file() and "/" not in name:
        return shipped / f"{name}.yaml"
    known = [path.stem for path in shipped.glob("*.yaml")]
    raise errors.RecipeError(errors.unknown("recipe", "file or name", source, known))


def _check_names(recipe: Recipe, where: str) -> None:
    """What can be known without opening a model: names of plug-ins and their options."""
    for operator in recipe.operators:
        plugins.load("operator", operator, f"{where}: operator")
    for kind in ("strategy", "executor"):
        named: Named = getattr(recipe, kind)
        plugins.check_options(kind, named.name, named.options, f"{where}: {kind}")
    if recipe.fidelity.name == "first" and recipe.fidelity.items is None:
        raise errors.RecipeError(f"{where}: fidelity.items: 'first' needs a number of items")
    if not any((recipe.budget.candidates, recipe.budget.items, recipe.budget.seconds)):
        raise errors.RecipeError(f"{where}: budget: give candidates, items or seconds")
    for name, objective in recipe.objectives.items():
        if (objective.bank is None) == (objective.function is None):
            raise errors.RecipeError(f"{where}: objectives.{name}: give either bank or function")


@dataclass(frozen=True)
class Problem:
    """A recipe with its inputs opened (headers only) and its space laid out."""

    recipe: Recipe
    where: str
    base: Checkpoint
    experts: Mapping[str, Checkpoint]
    banks: Mapping[str, banks.Bank]
    template: Template
    space: Space
    fixed: Mapping[str, Value]

    @property
    def objectives(self) -> list[str]:
        return list(self.banks)

    @property
    def signals(self) -> dict[str, Signal]:
        """What the search sees of each objective."""
        given = self.recipe.objectives
        return {name: given[name].signal if name in given else "score" for name in self.banks}

    def plan(self, point: Iterable[float]) -> Plan:
        """The plan at a point of the unit cube."""
        return self.template.plan({**self.fixed, **self.space.decode(list(point))})

    @cached_property
    def setup(self) -> Setup:
        """What a worker needs."""
        folders = {c.sha256: str(c.folder) for c in (self.base, *self.experts.values())}
        return Setup(
            base=self.base.sha256, folders=folders, banks=self.banks, dtype=self.recipe.dtype,
            device=_device(self.recipe.device), batch=self.recipe.batch,
        )  # fmt: skip

    def portable(self) -> dict[str, Any]:
        """The recipe with absolute paths, so that it can be run from anywhere."""
        data = self.recipe.model_dump(mode="json")
        if not data["base"].startswith("zoo:"):
            data["base"] = str(self.base.folder.resolve())
        for name, expert in self.experts.items():
            if not data["experts"][name].startswith("zoo:"):
                data["experts"][name] = str(expert.folder.resolve())
        for name, objective in data["objectives"].items():
            path = self.banks[name].path
            if Path(objective["bank"] or "").suffix:
                objective["bank"] = str(path.resolve())
        return data

    def identity(self) -> dict[str, Any]:
        """What makes a run this run: a folder with another identity is refused."""
        recipe = self.recipe
        return {
            "base": self.base.sha256,
            "experts": {name: c.sha256 for name, c in self.experts.items()},
            "operators": {
                name: plugins.load("operator", name).VERSION for name in recipe.operators
            },
            "layers": self.template.layers.model_dump(mode="json"),
            "genes": {
                gene.key: list(gene.choices) or [gene.low, gene.high, gene.step]
                for gene in self.space.genes
            },
            "fixed": dict(self.fixed),
            "objectives": {
                name: [bank.name, bank.version, bank.sha256, self.signals[name]]
                for name, bank in self.banks.items()
            },
            "strategy": recipe.strategy.model_dump(),
            "fidelity": recipe.fidelity.model_dump(),
            "seed": recipe.seed,
            "dtype": recipe.dtype,
            "batch": recipe.batch,
        }


def _device(name: str) -> str:
    if name != "auto":
        return name
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator.type if accelerator is not None else "cpu"


def resolve(
    source: str | Path | Mapping[str, Any],
    *,
    functions: Mapping[str, Callable[..., Any]] | None = None,
    **changes: Any,
) -> Problem:
    """Open the inputs of a recipe and lay out its space; no tensor is read.

    `changes` replace top-level keys of the recipe; `functions` are further objectives.
    """
    recipe, where, folder = read(source)
    if changes:
        data = {**recipe.model_dump(), **changes}
        recipe = plain.check(Recipe, data, where, raises=errors.RecipeError)
        _check_names(recipe, where)
    shelf = _banks(recipe, folder, functions or {})
    base = Checkpoint.open(locate(recipe.base, folder), name="base")
    experts = {
        name: Checkpoint.open(locate(path, folder), name=f"experts.{name}")
        for name, path in recipe.experts.items()
    }
    compare(base, list(experts.values()))
    layers = Layers(blocks=recipe.space.blocks, roles=recipe.space.roles)
    groups = tuple(dict.fromkeys(layers.groups(base.tensors).values()))
    template = Template(
        base=_input("base", base), experts=tuple(_input(n, c) for n, c in experts.items()),
        layers=layers, groups=groups, operators=tuple(recipe.operators), dtype=recipe.dtype,
        seed=recipe.seed,
    )  # fmt: skip
    space, fixed = lay_out(template, recipe.space.genes, f"{where}: space.genes")
    names = list(shelf)
    plugins.check_strategy(
        recipe.strategy.name, recipe.strategy.options, space, names, f"{where}: strategy"
    )
    return Problem(recipe, where, base, experts, shelf, template, space, fixed)


def locate(reference: str, folder: Path) -> Path:
    """A model folder: `zoo:family/member`, or a path from here or from the recipe's folder."""
    if reference.startswith("zoo:"):
        return zoo.path(reference)
    near = Path(reference).expanduser()
    return near if near.exists() or near.is_absolute() else folder / near


def _input(name: str, checkpoint: Checkpoint) -> Input:
    return Input(name=name, sha256=checkpoint.sha256, path=str(checkpoint.folder))


def _banks(
    recipe: Recipe, folder: Path, functions: Mapping[str, Callable[..., Any]]
) -> dict[str, banks.Bank]:
    shelf = {}
    for name, objective in recipe.objectives.items():
        if objective.function is not None:
            shelf[name] = function.bank(name, objective.function)
        else:
            shelf[name] = banks.load(_near(str(objective.bank), folder), resolve=zoo.path)
    for name, call in functions.items():
        if name in shelf:
            raise errors.RecipeError(f"objectives: '{name}' is in the recipe and in functions")
        shelf[name] = function.bank(name, call)
    return shelf


def _near(reference: str, folder: Path) -> str:
    beside = folder / reference
    return str(beside) if not Path(reference).exists() and beside.is_file() else reference


_PATTERN = re.compile(r"^(?:(\w+)\.)?(\w+)(?:\[([^\]]+)\])?(?:@(.+))?$")


def lay_out(
    template: Template, overrides: Mapping[str, Any], where: str
) -> tuple[Space, dict[str, Value]]:
    """The genes that are searched, and the values of those that are not."""
    genes = {gene.key: gene for gene in template.genes()}
    fixed = {key: gene.default for key, gene in genes.items() if not gene.searched}
    for pattern, value in overrides.items():
        chosen = [gene for gene in genes.values() if _matches(pattern, gene)]
        if not chosen:
            known = {gene.name for gene in genes.values()} | set(genes)
            raise errors.RecipeError(errors.unknown(where, "gene", pattern, known))
        for gene in chosen:
            fixed.pop(gene.key, None)
            place = f"{where}.{pattern}"
            if isinstance(value, list):
                genes[gene.key] = _narrow(gene, value, place)
            elif value != "search":
                gene.check(value, place)
                fixed[gene.key] = value
    return Space(list(_free(genes, fixed))), fixed


def _matches(pattern: str, gene: Gene) -> bool:
    found = _PATTERN.match(pattern)
    if not found:
        return False
    operator, name, expert, group = found.groups()
    return (
        name == gene.name
        and operator in (None, gene.operator)
        and expert in (None, gene.expert)
        and group in (None, gene.group)
    )


def _narrow(gene: Gene, values: list[Any], where: str) -> Gene:
    for value in values:
        gene.check(value, where)
    if gene.choices:
        default = gene.default if gene.default in values else values[0]
        return replace(gene, choices=tuple(values), default=default)
    if len(values) != 2 or not values[0] < values[1]:
        raise errors.RecipeError(f"{where}: expected [low, high], got {values}")
    default = min(max(float(gene.default), values[0]), values[1])
    return replace(gene, low=float(values[0]), high=float(values[1]), default=default)


def _free(genes: Mapping[str, Gene], fixed: Mapping[str, Value]) -> Iterable[Gene]:
    """Genes that are searched; conditions on fixed genes are settled here."""
    for key, gene in genes.items():
        if key in fixed:
            continue
        while gene.when is not None and gene.when[0] in fixed:
            if fixed[gene.when[0]] not in gene.when[1]:
                break
            gene = replace(gene, when=genes[gene.when[0]].when)
        else:
            yield gene
