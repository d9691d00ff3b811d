"""mergekit-evolve's YAML -> a recipe, as text with what has no counterpart in its comments."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from evomerge import errors, plugins
from evomerge.files import plain
from evomerge.inputs import find
from evomerge.interop import mergekit, plans
from evomerge.interop.methods import EVOLVED, Method
from evomerge.recipe import named
from evomerge.schema import Recipe

_ROLES = {
    "attention": ("self_attn", "attn", "attention"),
    "mlp": ("mlp", "feed_forward", "ffn"),
    "norm": ("norm", "layernorm", "input_layernorm", "post_attention_layernorm"),
}
_VARIED = ("density", "t")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Genome(_Part):
    """What mergekit-evolve varies."""

    models: list[Any] = Field(min_length=1)
    merge_method: str
    base_model: Any = None
    tokenizer_source: str | None = None
    layer_granularity: int = 0
    normalize: bool | None = None
    allow_negative_weights: bool = False
    filters: list[str] | None = None
    smooth: bool = False


class Task(_Part):
    """A task of lm-eval, and what it counts."""

    name: str = Field(min_length=1)
    weight: float = 1.0
    metric: str = "acc,none"


class Evolve(_Part):
    """The keys of the file."""

    genome: Genome
    tasks: list[Task] = Field(min_length=1)
    limit: int | None = Field(default=None, ge=1)
    num_fewshot: int | None = None
    shuffle: bool = False
    random_init: bool = False
    apply_chat_template: bool = True
    fewshot_as_multiturn: bool = True

    @field_validator("tasks", mode="before")
    @classmethod
    def _plain_names(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return [{"name": task} if isinstance(task, str) else task for task in value]


@dataclass(frozen=True)
class Imported:
    """A recipe as YAML text, and what a person has to know or to do."""

    text: str
    notes: tuple[str, ...]


def is_evolve(data: Mapping[str, Any]) -> bool:
    """Whether this is a search, not a merge."""
    return "genome" in data or "tasks" in data


def recipe_of(data: Mapping[str, Any], where: str, name: str, folder: Path) -> Imported:
    """The recipe of a mergekit-evolve YAML's content; `name` becomes the recipe's.

    Its objectives name files of items that are yet to be written: lm-eval's tasks are not items.
    Raises RecipeError, by the key's name, for what has no counterpart.
    """
    asked = plain.check(Evolve, data, where, raises=errors.RecipeError)
    genome = asked.genome
    if genome.merge_method not in EVOLVED:
        raise errors.RecipeError(
            errors.unknown(f"{where}: genome", "merge_method", genome.merge_method, EVOLVED)
        )
    method = plans.method_of(genome.merge_method, where)
    base, experts = _models(genome, where, method.base_is_input)
    names = {_slug(task.name): task for task in asked.tasks}
    if len(names) < len(asked.tasks):
        raise errors.RecipeError(f"{where}: tasks: a task stands twice; name each once")
    tokenizer = plans.tokenizer_of(genome.tokenizer_source or "base", base, experts, where)
    genes = _genes(genome, method, experts, where)
    inner = {"name": "cma_es", "weights": [_weights(asked, where)]}
    recipe: dict[str, Any] = {
        "name": _slug(name),
        "base": base,
        "experts": experts,
        "tokenizer": tokenizer or "base",
        "operator": method.operator,
        "space": {"blocks": _blocks(genome, base, folder, where), "roles": _roles(genome, where),
                  "genes": genes},
        "objectives": {slug: f"{slug}.jsonl" for slug in names},
        "strategy": {"name": "seeded", "inner": inner},
        "fidelity": {"name": "first", "items": asked.limit} if asked.limit else "all",
        "budget": {"candidates": 100},
        "dtype": "bfloat16",
    }  # fmt: skip
    plain.check(Recipe, recipe, where, raises=errors.RecipeError)
    notes = tuple(_notes(asked, names, tokenizer))
    return Imported(_text(recipe, notes), notes)


def _slug(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "imported"


def _models(genome: Genome, where: str, base_is_input: bool) -> tuple[str, dict[str, str]]:
    found = [mergekit.model(m, f"{where}: genome.models") for m in genome.models]
    if genome.base_model is not None:
        base = mergekit.model(genome.base_model, f"{where}: genome.base_model")
    elif base_is_input:
        base = found[0]
    else:
        raise errors.RecipeError(
            f"{where}: genome.base_model is missing: '{genome.merge_method}' merges differences "
            "to it"
        )
    experts = named(m.reference for m in found if base_is_input or m != base)
    if not experts:
        raise errors.RecipeError(f"{where}: genome.models: no model beside the base")
    return base.reference, experts


def _blocks(genome: Genome, base: str, folder: Path, where: str) -> int:
    if genome.layer_granularity < 1:
        return 1
    config = plain.read_json(find(base, folder)[0] / "config.json")
    layers = config.get("num_hidden_layers")
    if not isinstance(layers, int) or layers % genome.layer_granularity:
        raise errors.RecipeError(
            f"{where}: genome.layer_granularity: expected a divisor of the model's {layers} "
            f"layers, got {genome.layer_granularity}"
        )
    return int(layers // genome.layer_granularity)


def _roles(genome: Genome, where: str) -> list[str]:
    found = []
    for wanted in genome.filters or []:
        role = next((role for role, words in _ROLES.items() if wanted in words), None)
        if role is None:
            known = [word for words in _ROLES.values() for word in words]
            raise errors.RecipeError(
                errors.unknown(f"{where}: genome.filters", "filter", wanted, known)
            )
        found.append(role)
    return list(dict.fromkeys(found))


def _genes(genome: Genome, method: Method, experts: Iterable[str], where: str) -> dict[str, Any]:
    """Genes as mergekit-evolve fixes them, and the ranges of those that it varies."""
    normalize = EVOLVED[genome.merge_method] if genome.normalize is None else genome.normalize
    shared = {key: 0.5 if value is None else value for key, value in method.shared.items()}
    if "normalize" in shared:
        shared["normalize"] = normalize
    start = {key: 1.0 if value is None else value for key, value in method.of_input.items()}
    with errors.at(f"{where}: genome"):
        genes = method.translate(dict.fromkeys(experts, start), shared)
    declared = {gene.name: gene for gene in plugins.load("operator", method.operator).GENES}
    # what is folded into given weights can not be into varied ones
    if normalize and "normalize" not in declared and not method.divides:
        raise errors.RecipeError(
            f"{where}: genome.normalize: '{genome.merge_method}' with varied weights is not "
            "normalised here; set it to false"
        )
    fixed = {name: value for name, value in genes.items() if name not in (*_VARIED, "weight")}
    varied: dict[str, Any] = {name: "search" for name in _VARIED if name in declared}
    if "weight" in declared:
        low = declared["weight"].low if genome.allow_negative_weights else 0.0
        varied["weight"] = [low, declared["weight"].high]
    return {**fixed, **varied}


def _weights(asked: Evolve, where: str) -> list[float]:
    for i, task in enumerate(asked.tasks):
        if task.weight < 0:
            raise errors.RecipeError(
                f"{where}: tasks[{i}].weight: {task.weight:g} asks for a low score of "
                f"'{task.name}'; here more is better: write a scorer that turns it around"
            )
    return [task.weight for task in asked.tasks]


def _notes(asked: Evolve, names: Mapping[str, Task], tokenizer: str | None) -> Iterator[str]:
    for slug, task in names.items():
        yield (
            f"tasks: write the items of lm-eval's '{task.name}' ({task.metric}) to {slug}.jsonl; "
            f"'evomerge bank check {slug}.jsonl' checks them"
        )
    yield (
        "budget: mergekit-evolve has it in the option --max-fevals, 100 if not given; candidates, "
        "items or seconds can be given here"
    )
    yield "what is reported is confirmed on splits that the search does not see"
    genome = asked.genome
    if asked.num_fewshot:
        yield f"num_fewshot: write 'shots: {asked.num_fewshot}' into a bank's YAML"
    for key in ("shuffle", "random_init"):
        if value := getattr(asked, key):
            yield f"{key}: {value} has no counterpart; items are asked as written, in one order"
    if asked.apply_chat_template:
        yield "apply_chat_template: give a bank's scorer the option 'chat: true' if it is wanted"
    if genome.smooth:
        yield "genome.smooth has no counterpart: layers are in blocks with values of their own"
    if tokenizer is None:
        yield f"genome.tokenizer_source: {genome.tokenizer_source} is not read: it is the base's"


def _text(recipe: Mapping[str, Any], notes: Iterable[str]) -> str:
    comments = "".join(f"# {note}\n" for note in notes)
    body = yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True, width=98)
    return f"# From a search of mergekit-evolve. What to do, and what differs:\n{comments}{body}"
