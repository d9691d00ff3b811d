"""mergekit's merge YAML -> a plan that builds the same weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from evomerge import errors, inputs, plugins
from evomerge.files import plain
from evomerge.files.checkpoint import Checkpoint
from evomerge.genome import Gene
from evomerge.interop import mergekit, methods
from evomerge.interop.mergekit import Merge, Model
from evomerge.interop.methods import Method
from evomerge.layers import Layers
from evomerge.plan import Plan, Step, canonical, check_experts
from evomerge.recipe import dtype_of, named

_RESOLUTIONS = (
    Layers(), Layers(roles=("attention", "mlp", "norm")), Layers(blocks="all"),
    Layers(blocks="all", roles=("attention", "mlp", "norm")),
)  # fmt: skip


@dataclass(frozen=True)
class Imported:
    """A plan, and what a person should know of how it differs from what was read."""

    plan: Plan
    notes: tuple[str, ...]


def plan_of(data: Mapping[str, Any], where: str, folder: Path) -> Imported:
    """The plan of a merge YAML's content; relative paths begin here or in `folder`.

    Raises RecipeError, by the key's name, for what has no counterpart.
    """
    merge = mergekit.read(data, where)
    method = method_of(merge.merge_method, where)
    base, experts = _models(merge, method, where)
    names = {m: name for name, m in _named(experts).items()}
    references = {name: m.reference for m, name in names.items()}
    check_experts(method.operator, len(experts), where)
    tokenizer = tokenizer_of(_tokenizer_source(merge), base.reference, references, where)
    found = inputs.load(base.reference, references, folder, tokenizer=tokenizer or "base")
    root = found.base
    with errors.at(where):
        dtype = dtype_of(root, merge.out_dtype or merge.dtype or "")
    notes = list(_notes(merge, method, base, root))
    if tokenizer is None:
        source = plain.shown(_tokenizer_source(merge))
        notes.append(f"tokenizer_source {source} has no counterpart: it will be the base's")
    tensors = found.sources[0].tensors
    floating = [name for name, info in tensors.items() if info.dtype.is_floating_point]
    steps = dict(_steps(merge, method, base, names, floating, where))
    layers, groups = _grouped(tensors, steps)
    plan = Plan(
        base=found.inputs[0], experts=found.inputs[1:], layers=layers, groups=groups,
        dtype=dtype, vocabulary=found.vocabulary,
    )  # fmt: skip
    return Imported(plan, tuple(notes))


def method_of(name: str, where: str) -> Method:
    """The method by mergekit's name; RecipeError where no operator here does it."""
    if name in methods.LAYERS_ONLY:
        raise errors.RecipeError(
            f"{where}: merge_method '{name}' puts layers together instead of merging tensors: "
            "another architecture, which no plan describes"
        )
    here = {n for n, m in methods.METHODS.items() if m.operator in plugins.known("operator")}
    if name not in here:
        raise errors.RecipeError(errors.unknown(where, "merge_method", name, here))
    return methods.METHODS[name]


def _tokenizer_source(merge: Merge) -> Any:
    if merge.tokenizer_source or not isinstance(merge.tokenizer, Mapping):
        return merge.tokenizer_source or merge.tokenizer or "base"
    return merge.tokenizer.get("source") or "base"


def tokenizer_of(source: Any, base: str, experts: Mapping[str, str], where: str) -> str | None:
    """mergekit's `source` of a tokenizer as a recipe's `tokenizer`; None if no model is merged
    that it names."""
    if source in ("base", "union"):
        return str(source)
    asked = mergekit.model(source, f"{where}: tokenizer_source").reference
    names = {reference: f"expert:{name}" for name, reference in experts.items()}
    return {**names, base: "base"}.get(asked)


def _models(merge: Merge, method: Method, where: str) -> tuple[Model, list[Model]]:
    """The base, and the models that are merged into it."""
    sources = [*(merge.models or []), *(s for part in merge.slices or [] for s in part.sources)]
    found = list(dict.fromkeys(mergekit.model(s.model, where) for s in sources))
    if merge.base_model is not None:
        base = mergekit.model(merge.base_model, f"{where}: base_model")
        first = [base, *(m for m in found if m != base)]
        found = first if method.base_is_input else first[1:]
    elif method.needs_base:
        raise errors.RecipeError(
            f"{where}: base_model is missing: '{merge.merge_method}' merges differences to it"
        )
    else:
        base = found[0]
    if not found:
        raise errors.RecipeError(f"{where}: no model beside the base: nothing to merge")
    if base.adapter:
        raise errors.RecipeError(f"{where}: base_model can not be an adapter; merge it first")
    for m in found:
        if m.adapter and m.path != base.path:
            raise errors.RecipeError(
                f"{where}: the adapter '{m.adapter}' is on '{m.path}', expected one on the base "
                f"'{base.path}'; merge it into a model first"
            )
    return base, found


def _named(experts: Iterable[Model]) -> dict[str, Model]:
    experts = list(experts)
    return dict(zip(named(m.reference for m in experts), experts, strict=True))


def _steps(
    merge: Merge,
    method: Method,
    base: Model,
    names: Mapping[Model, str],
    tensors: list[str],
    where: str,
) -> Iterator[tuple[str, Step]]:
    """The step of every tensor by its own name."""
    module = plugins.load("operator", method.operator)
    declared = {gene.name: gene for gene in module.GENES}
    _known_parameters(merge, method, where)
    for name, place in mergekit.places(merge, tensors, where).items():
        with errors.at(f"{where}: {name}"):
            shared = {
                key: _value(place, None, key, default, name)
                for key, default in method.shared.items()
            }
            inputs = {
                called: {
                    key: _value(place, source, key, default, name)
                    for key, default in method.of_input.items()
                }
                if source in place.sources or (source == base and merge.slices is None)
                else _absent(method, source)
                for source, called in names.items()
            }
            genes = method.translate(inputs, shared)
        yield name, _step(method.operator, module, declared, genes, f"{where}: {name}")


def _absent(method: Method, source: Model) -> dict[str, Any]:
    """Parameters of a model that is no source of a slice: it takes no part there."""
    if "weight" not in method.of_input:
        raise errors.RecipeError(
            f"'{source.reference}' is no source of the slice, and this method has no weight that "
            "could leave it out; name it in all slices"
        )
    return {**method.of_input, "weight": 0.0}


def _value(
    place: mergekit.Place, source: Model | None, key: str, default: Any, name: str
) -> mergekit.Scalar:
    for settings in place.settings(source):
        if key in settings:
            value = mergekit.at(settings[key], name, place.t, key)
            if value is not None:
                return value
    if default is None:
        of = f" of {source.reference}" if source is not None else ""
        raise errors.RecipeError(f"{key}{of} is missing")
    known: mergekit.Scalar = default
    return known


def _known_parameters(merge: Merge, method: Method, where: str) -> None:
    """Refuse a parameter that the method does not have: mergekit would not read it."""
    known = {*method.of_input, *method.shared}
    for key in _given(merge):
        if key not in known and key not in methods.IGNORED:
            raise errors.RecipeError(
                errors.unknown(f"{where}: parameters", "parameter", key, known)
            )


def _given(merge: Merge) -> dict[str, Any]:
    """All parameters that stand anywhere in the file."""
    everywhere = [merge.parameters, *(s.parameters for s in merge.models or [])]
    for part in merge.slices or []:
        everywhere += [part.parameters, *(s.parameters for s in part.sources)]
    return {key: value for settings in everywhere for key, value in settings.items()}


def _step(
    operator: str,
    module: ModuleType,
    declared: Mapping[str, Gene],
    genes: methods.Genes,
    where: str,
) -> Step:
    kept = {}
    for name, value in genes.items():
        if name not in declared:
            raise errors.RecipeError(
                errors.unknown(f"{where}: {operator}", "gene", name, declared)
            )
        each = value.values() if isinstance(value, dict) else [value]
        for one in each:
            declared[name].check(one, f"{where}: {operator}.{name}")
        kept[name] = value
    return Step(operator=operator, version=module.VERSION, genes=kept)


def _grouped(names: Iterable[str], steps: Mapping[str, Step]) -> tuple[Layers, dict[str, Step]]:
    """The resolution that needs the fewest steps; a tensor unlike its group has its own."""
    names = list(names)
    found = [(layers, _groups(layers.groups(names), steps)) for layers in _RESOLUTIONS]
    return min(found, key=lambda pair: len(pair[1]))


def _groups(groups: Mapping[str, str], steps: Mapping[str, Step]) -> dict[str, Step]:
    texts = {name: canonical(step.model_dump()) for name, step in steps.items()}
    counts: dict[str, Counter[str]] = {}
    for name, text in texts.items():
        counts.setdefault(groups[name], Counter())[text] += 1
    usual = {group: count.most_common(1)[0][0] for group, count in counts.items()}
    by_text = {texts[name]: step for name, step in steps.items()}
    found = {group: by_text[text] for group, text in usual.items()}
    found.update({n: steps[n] for n, text in texts.items() if text != usual[groups[n]]})
    return found


def _notes(merge: Merge, method: Method, base: Model, root: Checkpoint) -> Iterator[str]:
    if merge.base_model is None:
        yield f"no base_model: '{base.path}' gives config, tokenizer and the order of tensors"
    computed = merge.dtype or dtype_of(root, "")
    if computed != "float32":
        yield (
            f"mergekit computes in {computed}, evomerge in float32 and rounds once: values differ "
            "by rounding, and entries near a threshold may be kept or not ('dtype: float32' with "
            "'out_dtype' makes mergekit do the same)"
        )
    yield from method.notes
    if "normalize" in _given(merge).keys() - method.shared.keys():
        yield f"parameters: normalize is left out: {methods.IGNORED['normalize']}"
    if merge.name is not None:
        yield "name has no counterpart: a plan is named by its content"
    for key in set(merge.tokenizer) - {"source"} if isinstance(merge.tokenizer, Mapping) else ():
        yield f"tokenizer.{key} has no counterpart: the tokenizer is written as it is"
    if merge.chat_template is not None:
        yield "chat_template has no counterpart: it will be the tokenizer's own"
