"""Plans: plain JSON that fully describes one merged model; and the template that genomes fill."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import ModuleType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_serializer

from evomerge import errors, plugins
from evomerge.files import plain
from evomerge.genome import Gene, Space, Value
from evomerge.layers import Layers

Dtype = Literal["float32", "bfloat16", "float16"]
Genes = Mapping[str, Value | Mapping[str, Value]]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Input(_Frozen):
    """A checkpoint or an adapter (sha256 of its content), or another plan.

    `on` is the checkpoint that an adapter changes. `path` is where it was found, `origin` the
    hub's name and commit; neither is part of a plan's key.
    """

    name: str
    sha256: str
    path: str = ""
    origin: str = ""
    plan: Plan | None = None
    on: Input | None = None

    @model_serializer(mode="wrap")
    def _brief(self, serialize: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return without_empty(serialize(self), ("origin", "on"))


class Vocabulary(_Frozen):
    """One layout of embedding and head for `models` (base first) that differ in it.

    `tokenizer` is `base`, `expert:NAME` or `union`; `untied` gives every model a head of its own.
    `sha256` is that of the token maps.
    """

    tokenizer: str
    models: tuple[Input, ...]
    untied: bool
    sha256: str


class Step(_Frozen):
    """What one group of tensors goes through; per-expert genes are {expert: value}."""

    operator: str
    version: int
    genes: dict[str, Value | dict[str, Value]] = {}

    @field_validator("genes", mode="before")
    @classmethod
    def _values(cls, value: Any) -> Any:
        for name, given in value.items() if isinstance(value, Mapping) else ():
            if not isinstance(given, float | int | str | Mapping):
                raise ValueError(f"'{name}': expected a value, or a mapping of experts to values")
        return value


class Plan(_Frozen):
    """One merged model. Tensors of groups without a step are the base's; `key` names the plan.

    A group is one of the layers' or a tensor's own name, which comes first. A plan without experts
    and groups is its base.
    """

    base: Input
    experts: tuple[Input, ...] = ()
    layers: Layers = Layers()
    groups: dict[str, Step] = {}
    dtype: Dtype = "float32"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    vocabulary: Vocabulary | None = None

    @model_serializer(mode="wrap")
    def _brief(self, serialize: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return without_empty(serialize(self), ("vocabulary",))

    @cached_property
    def key(self) -> str:
        """sha256 of the canonical JSON; where inputs lie on disk is no part of it."""
        return hashlib.sha256(canonical(without_paths(self.model_dump())).encode()).hexdigest()

    def inputs(self) -> Iterable[Input]:
        return (self.base, *self.experts)

    def identities(self) -> list[str]:
        """sha256 of all that the inputs' tensors depend on."""
        found = [item.sha256 for item in self.inputs()]
        return found if self.vocabulary is None else [*found, self.vocabulary.sha256]

    def places(self, names: Iterable[str]) -> dict[str, str]:
        """Tensor name -> group, of all tensors of the model."""
        found = self.layers.groups(names)
        return {name: name if name in self.groups else group for name, group in found.items()}

    @classmethod
    def parse(cls, data: object, where: str) -> Plan:
        """Raises RecipeError with the places of all that is wrong."""
        return plain.check(cls, data, where, raises=errors.RecipeError)


def nested(plan: Plan, name: str) -> Input:
    """A plan as an input of another plan."""
    return Input(name=name, sha256=plan.key, plan=plan)


def canonical(data: Any) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def without_empty(data: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Without those of `keys` that say nothing: plans keep the names that they had before them."""
    return {key: value for key, value in data.items() if value or key not in keys}


def without_paths(data: Any) -> Any:
    """The same JSON without the `path` and `origin` of its inputs."""
    if isinstance(data, Mapping):
        kept = {key: value for key, value in data.items() if key not in ("path", "origin")}
        return {key: without_paths(value) for key, value in kept.items()}
    if isinstance(data, list | tuple):
        return [without_paths(value) for value in data]
    return data


def relocated(data: Any, paths: Mapping[str, str]) -> Any:
    """The JSON of a plan with its inputs where `paths`, by sha256, says that they lie."""
    if isinstance(data, Mapping):
        inner = {key: relocated(value, paths) for key, value in data.items()}
        return {**inner, "path": paths[data["sha256"]]} if data.get("sha256") in paths else inner
    return [relocated(one, paths) for one in data] if isinstance(data, list) else data


def check_experts(operator: str, experts: int, where: str) -> None:
    """Raise RecipeError if the operator does not merge this many; its `EXPERTS` says how many."""
    fewest, most = _experts(operator)
    if fewest <= experts <= most:
        return
    wanted = f"{fewest}" if fewest == most else f"{fewest} or more"
    able = [
        name
        for name in plugins.known("operator")
        if _experts(name)[0] <= experts <= _experts(name)[1]
    ]
    raise errors.RecipeError(
        f"{where}: '{operator}' merges {wanted} experts, got {experts}. "
        f"Operators that merge {experts}: {', '.join(able)}"
    )


def _experts(operator: str) -> tuple[int, int]:
    fewest, most = getattr(plugins.load("operator", operator), "EXPERTS", (1, sys.maxsize))
    return fewest, most


@dataclass(frozen=True)
class Template:
    """All that a recipe settles about its plans before any gene has a value."""

    base: Input
    experts: tuple[Input, ...]
    layers: Layers
    groups: tuple[str, ...]
    operators: tuple[str, ...]
    dtype: Dtype = "float32"
    seed: int = 0
    vocabulary: Vocabulary | None = None

    def genes(self) -> list[Gene]:
        """Every gene of the operators, placed; first the choice of operator, if there is one.

        Raises RecipeError for an operator that does not merge this many experts.
        """
        placed = []
        if len(self.operators) > 1:
            placed.append(Gene("operator", choices=self.operators, default=self.operators[0]))
        for operator in self.operators:
            check_experts(operator, len(self.experts), "operator")
            for gene in plugins.load("operator", operator, "operator").GENES:
                placed += self._place(gene, operator)
        return placed

    def _place(self, gene: Gene, operator: str) -> list[Gene]:
        several = len(self.operators) > 1
        owner = operator if several else ""
        copies = []
        for group in self.groups if gene.level == "group" else ("",):
            for expert in (e.name for e in self.experts) if gene.per_expert else ("",):
                copy = replace(gene, operator=owner, group=group, expert=expert, when=None)
                if gene.when is not None:
                    parent = replace(copy, name=gene.when[0], expert="")
                    copy = replace(copy, when=(parent.key, gene.when[1]))
                elif several:
                    copy = replace(copy, when=("operator", (operator,)))
                copies.append(copy)
        return copies

    def plan(self, values: Mapping[str, Value]) -> Plan:
        """The plan for typed values by gene key; genes not named stand at their default."""
        genes = self.genes()
        stray = sorted(set(values) - {gene.key for gene in genes})
        if stray:
            raise errors.RecipeError(
                errors.unknown("plan", "gene", stray[0], [gene.key for gene in genes])
            )
        # Decoding drops what is inactive and rounds to the grid: equal models, equal plans.
        whole = Space(genes)
        values = whole.decode(whole.encode(values))
        operator = str(values.get("operator", self.operators[0]))
        module = plugins.load("operator", operator, "operator")
        steps = {group: self._step(module, operator, group, values) for group in self.groups}
        return Plan(
            base=self.base, experts=self.experts, layers=self.layers, groups=steps,
            dtype=self.dtype, seed=self.seed, vocabulary=self.vocabulary,
        )  # fmt: skip

    def _step(
        self, module: ModuleType, operator: str, group: str, values: Mapping[str, Value]
    ) -> Step:
        owner = operator if len(self.operators) > 1 else ""
        genes: dict[str, Value | dict[str, Value]] = {}
        for gene in module.GENES:
            placed = replace(gene, operator=owner, group=group if gene.level == "group" else "")
            if gene.per_expert:
                keys = {e.name: replace(placed, expert=e.name).key for e in self.experts}
                per_expert = {name: values[key] for name, key in keys.items() if key in values}
                if per_expert:
                    genes[gene.name] = per_expert
            elif placed.key in values:
                genes[gene.name] = values[placed.key]
        return Step(operator=operator, version=module.VERSION, genes=genes)
