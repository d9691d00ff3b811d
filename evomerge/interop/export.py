"""A plan -> a YAML from which mergekit builds the same weights.

Values of each tensor become filters: one for all tensors of a layer where they agree, else one
with the tensor's name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import yaml

from evomerge import errors
from evomerge.materialize import TILE, Merged, Workshop
from evomerge.maths import consensus, sparsify
from evomerge.plan import Input, Plan

Values = dict[str, float | bool]


@dataclass(frozen=True)
class Tensor:
    """One tensor in mergekit's terms: parameters of the base, of each expert, and shared ones."""

    experts: dict[str, Values]
    base: Values = field(default_factory=dict)
    shared: Values = field(default_factory=dict)
    balanced: int = 0


@dataclass(frozen=True)
class Way:
    """How an operator is written: mergekit's method, and each tensor's parameters.

    `absent`: those of a tensor that stays the base's. `base_is`: mergekit's base is the plan's
    `base`, an `input` like the others, or the `first` expert.
    """

    method: str
    tensor: Callable[[Merged, str], Tensor]
    absent: Callable[[list[str]], Tensor]
    base_is: str = "base"


def _weights(merged: Merged, name: str) -> dict[str, float]:
    # the shortest decimals that are the same float32, in which both compute
    given = [float(str(weight)) for weight in merged.genes(name)["weight"].cpu().numpy()]
    return dict(zip((item.name for item in merged.plan.experts), given, strict=True))


def _task_arithmetic(merged: Merged, name: str) -> Tensor:
    return Tensor({expert: {"weight": w} for expert, w in _weights(merged, name).items()})


def _left_alone(experts: list[str]) -> Tensor:
    return Tensor({expert: {"weight": 0.0} for expert in experts})


def _linear(merged: Merged, name: str) -> Tensor:
    """The operator's sum written out: what the shares leave is the base's."""
    weights, genes = _weights(merged, name), merged.genes(name)
    if genes["normalize"] == "no":
        return _mean(weights, 0.0)
    signed = genes["compat"] == "mergekit"
    total = sum(w if signed else abs(w) for w in weights.values()) or 1.0
    shares = {expert: w / total for expert, w in weights.items()}
    return _mean(shares, 1.0 - sum(shares.values()))


def _mean(weights: Mapping[str, float], base: float) -> Tensor:
    return Tensor({expert: {"weight": w} for expert, w in weights.items()}, {"weight": base})


def _ties(merged: Merged, name: str) -> Tensor:
    genes, weights = merged.genes(name), _weights(merged, name)
    ours = genes["compat"] != "mergekit"
    if ours and genes["reducer"] == "mean" and min(weights.values()) < 0:
        raise errors.RecipeError(
            f"{name}: mergekit divides by negative weights with their sign, evomerge does not: no "
            "YAML gives these weights; save the model instead"
        )
    for gene, known in (("reducer", ("mean", "sum")), ("threshold_scope", ("model", "tensor"))):
        if ours and genes[gene] not in known:
            raise errors.RecipeError(f"{name}: {gene}: '{genes[gene]}' has no counterpart")
    shared: Values = {"normalize": genes["reducer"] == "mean", "lambda": float(genes["scale"])}
    density = dict.fromkeys(weights, float(genes["density"]))
    balanced = 0
    if ours:
        kept, balanced = _kept(merged, name)
        size = merged.tensors[name].numel
        # half an entry more, so that rounding down gives the count
        density = {e: min(1.0, (n + 0.5) / size) for e, n in zip(weights, kept, strict=True)}
        weights = {e: w if n else 0.0 for (e, w), n in zip(weights.items(), kept, strict=True)}
    given: dict[str, Values] = {
        e: {"weight": w, "density": density[e]} for e, w in weights.items()
    }
    return Tensor(given, shared=shared, balanced=balanced)


def _kept(merged: Merged, name: str) -> tuple[list[int], int]:
    """How many entries of each expert the plan's thresholds keep in a tensor; in how many the
    experts then balance exactly, so that their sign is a matter of convention."""
    genes, size = merged.genes(name), merged.tensors[name].numel
    table = merged.stats(name)["thresholds"]
    total, balanced = torch.zeros(len(table), dtype=torch.int64), 0
    for start in range(0, size, TILE):
        base, experts = merged.inputs(name, start, min(start + TILE, size))
        trimmed = sparsify.trim(experts - base, table, genes["density"])
        total += (trimmed != 0).sum(1).cpu()
        sign = consensus.elected(trimmed, genes["weight"])
        balanced += int(((sign == 0) & (trimmed != 0).any(0)).sum())
    return [int(count) for count in total], balanced


def _slerp(merged: Merged, name: str) -> Tensor:
    genes = merged.genes(name)
    _only(name, genes, of="weights", compat="mergekit")
    return Tensor({}, shared={"t": float(genes["t"])})


def _only(name: str, genes: Mapping[str, Any], **wanted: str) -> None:
    for gene, value in wanted.items():
        if genes[gene] != value:
            raise errors.RecipeError(
                f"{name}: {gene}: '{genes[gene]}' has no counterpart, only '{value}' has; save "
                "the model instead"
            )


def _never(experts: list[str]) -> Tensor:
    raise errors.RecipeError(
        "plan.groups: tensors without a step are the base's, which this method can not leave; "
        "save the model instead"
    )


WAYS: Mapping[str, Way] = {
    "linear": Way("linear", _linear, lambda names: _mean(dict.fromkeys(names, 0.0), 1.0), "input"),
    "task_arithmetic": Way("task_arithmetic", _task_arithmetic, _left_alone),
    "ties": Way("ties", _ties, _left_alone),
    "slerp": Way("slerp", _slerp, _never, "first"),
}
"""Operators that mergekit can be told of exactly; random masks, for one, are of each's own."""


def to_mergekit(plan: Plan) -> str:
    """The YAML of a plan; it makes mergekit compute in float32 and save in the plan's dtype.

    Raises RecipeError for a plan that no YAML describes, naming what stands against it.
    """
    way = _way(plan)
    workshop = Workshop.of(plan)
    tokenizer = _tokenizer(plan, workshop)
    merged = Merged(plan, workshop)
    experts = [item.name for item in plan.experts]
    names = merged.mergeable
    tensors = {
        name: way.tensor(merged, name) if merged.work(name) else way.absent(experts)
        for name in names
    }
    data: dict[str, Any] = {"merge_method": way.method}
    if way.base_is != "input":
        data["base_model"] = _reference(plan.base if way.base_is == "base" else plan.experts[0])
    data |= {"models": _models(plan, way, tensors), "dtype": "float32", "out_dtype": plan.dtype}
    shared = _settings({name: tensor.shared for name, tensor in tensors.items()})
    if way.base_is == "input":
        shared["normalize"] = False
    if shared:
        data["parameters"] = shared
    body = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=98)
    head = f"# The plan {plan.key} of evomerge, for mergekit 0.1.5\n"
    if balanced := sum(tensor.balanced for tensor in tensors.values()):
        head += (
            f"# {balanced:,} entries differ: experts balance there exactly, where mergekit elects "
            "the positive sign\n"
        )
    return head + tokenizer + body


def _tokenizer(plan: Plan, workshop: Workshop) -> str:
    """A comment where the tokenizer is not the base's; RecipeError where rows or head are not."""
    if plan.vocabulary is None:
        return ""
    frame = workshop.checkpoints.frame(plan.vocabulary)
    if not frame.same or frame.untied:
        raise errors.RecipeError(
            f"plan: {'tokens' if not frame.same else 'heads'} of the models differ, which "
            "mergekit brings together by rules of its own: no YAML gives these weights; save the "
            "model instead"
        )
    return f"# The tokenizer's files are to be those of {frame.models[frame.leader].folder}\n"


def _way(plan: Plan) -> Way:
    operators = {step.operator for step in plan.groups.values()}
    if len(operators) != 1:
        raise errors.RecipeError(
            f"plan: mergekit has one merge_method for all tensors, the plan has "
            f"{', '.join(sorted(operators)) or 'none'}"
        )
    (operator,) = operators
    if operator not in WAYS:
        raise errors.RecipeError(
            f"plan: no YAML gives exactly the weights of '{operator}'; operators that have one: "
            f"{', '.join(WAYS)}. Save the model instead"
        )
    return WAYS[operator]


def _models(plan: Plan, way: Way, tensors: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    found, base = [], _reference(plan.base) if way.base_is == "input" else ""
    # named once: a base that is an expert too has both weights, and its config counts as the first
    experts = sorted(plan.experts, key=lambda item: _reference(item) != base)
    weights = {name: tensor.base for name, tensor in tensors.items()}
    merged = _reference(experts[0]) == base
    if base and not merged:
        found.append({"model": base, "parameters": _settings(weights)})
    for item in experts:
        given = {name: tensor.experts.get(item.name, {}) for name, tensor in tensors.items()}
        if merged and item is experts[0]:
            given = {n: {"weight": v["weight"] + weights[n]["weight"]} for n, v in given.items()}
        parameters = _settings(given)
        found.append(
            {"model": _reference(item), **({"parameters": parameters} if parameters else {})}
        )
    twins = [model for model, n in Counter(row["model"] for row in found).items() if n > 1]
    if twins:
        raise errors.RecipeError(f"plan: mergekit names a model once, '{twins[0]}' is there twice")
    return found


def _reference(item: Input) -> str:
    if item.plan is not None:
        raise errors.RecipeError(f"{item.name}: is a plan of its own; save it as a model first")
    if re.search(r"[+@]", item.path):
        raise errors.RecipeError(
            f"{item.path}: mergekit reads + and @ as adapter and revision; rename the folder"
        )
    return f"{_reference(item.on)}+{item.path}" if item.on else item.path


def _settings(values: Mapping[str, Values]) -> dict[str, Any]:
    """Parameter -> mergekit's setting, from each tensor's values by parameter."""
    found = {}
    for key in dict.fromkeys(key for row in values.values() for key in row):
        found[key] = _setting({name: row[key] for name, row in values.items() if key in row})
    return found


def _setting(values: Mapping[str, float | bool]) -> Any:
    """One value, or filters: the first whose text is in a tensor's name counts."""
    usual = Counter(values.values()).most_common(1)[0][0]
    layers: dict[str, list[str]] = {}
    for name in values:
        if found := re.match(r".*?\.\d+\.", name):
            layers.setdefault(found[0], []).append(name)
    filters: dict[str, float | bool] = {}
    for prefix, names in layers.items():
        if len({values[name] for name in names}) == 1 and _apart(prefix, names, values):
            filters[prefix] = values[names[0]]
    covered = {name for prefix in filters for name in layers[prefix]}
    filters |= {name: value for name, value in values.items() if name not in covered}
    # a text that is part of another comes after it
    ordered = sorted(filters, key=len, reverse=True)
    kept = [t for t in ordered if filters[t] != usual or _shadowed(t, filters)]
    rows = [{"filter": text, "value": filters[text]} for text in kept]
    return [*rows, {"value": usual}] if rows else usual


def _apart(prefix: str, names: list[str], values: Iterable[str]) -> bool:
    """Whether the prefix is in the names of its own layer alone."""
    return all(name in names for name in values if prefix in name)


def _shadowed(text: str, filters: Iterable[str]) -> bool:
    """Whether a shorter filter would catch what this one is for."""
    return any(other != text and other in text for other in filters)
