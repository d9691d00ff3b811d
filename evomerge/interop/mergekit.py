"""A merge as mergekit's YAML describes it, read whole; what a tensor's parameters are in it.

mergekit 0.1.5 (Goddard et al. 2024, Arcee's MergeKit): a parameter of a tensor is that of the
source model, else of its slice, else the global one. It is a value, a gradient (a list that is
interpolated over the layers of the slice), or a list of values with filters, of which the first
whose text is in the tensor's name counts. Embedding, head and last norm stand at the beginning
of a gradient.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from evomerge import errors
from evomerge.files import plain
from evomerge.layers import Layers

Scalar = bool | int | float | str
Settings = dict[str, Any]

_LAYER = re.compile(r"\.(\d+)\.")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("parameters", mode="before", check_fields=False)
    @classmethod
    def _none_are_given(cls, value: Any) -> Any:
        return {} if value is None else value


class Source(_Part):
    """A model of a slice, or of the whole merge."""

    model: Any
    layer_range: tuple[int, int] | None = None
    parameters: Settings = {}


class Slice(_Part):
    """Output layers that come from the same layers of all sources."""

    sources: list[Source] = Field(min_length=1)
    base_model: Any = None
    residual_weight: Any = None
    parameters: Settings = {}


class Merge(_Part):
    """The keys of the file."""

    merge_method: str
    name: Any = None
    models: list[Source] | None = None
    slices: list[Slice] | None = None
    modules: Any = None
    base_model: Any = None
    dtype: str | None = None
    out_dtype: str | None = None
    tokenizer_source: Any = None
    tokenizer: Any = None
    chat_template: Any = None
    parameters: Settings = {}


@dataclass(frozen=True)
class Model:
    """A reference to a model: a folder or a name on the hub, and an adapter on it."""

    path: str
    adapter: str = ""

    @property
    def reference(self) -> str:
        return self.adapter or self.path


def read(data: Mapping[str, Any], where: str) -> Merge:
    """The file's content as a Merge; RecipeError for what can not become a plan, and why."""
    merge = plain.check(Merge, data, where, raises=errors.RecipeError)
    if merge.modules is not None:
        raise errors.RecipeError(
            f"{where}: modules: models of several modules are not read; write the one that is "
            "merged as 'models'"
        )
    if (merge.models is None) == (merge.slices is None):
        raise errors.RecipeError(f"{where}: expected either 'models' or 'slices'")
    for i, part in enumerate(merge.slices or []):
        for key in ("base_model", "residual_weight"):
            if getattr(part, key) is not None:
                raise errors.RecipeError(
                    f"{where}: slices[{i}].{key} has no counterpart; leave it out"
                )
    return merge


def model(value: Any, where: str) -> Model:
    """`path`, `path+adapter` or a mapping of these; RecipeError for a revision."""
    adapter = ""
    if isinstance(value, Mapping):
        stray = sorted(set(value) - {"model", "lora"})
        if stray:
            raise errors.RecipeError(f"{where}: '{stray[0]}' has no counterpart; leave it out")
        path = _path(value.get("model"), where)
        adapter = _path(value["lora"], where) if value.get("lora") else ""
    else:
        path, _, adapter = _path(value, where).partition("+")
    for part in (path, adapter):
        if "@" in part and not Path(part).exists():
            raise errors.RecipeError(
                f"{where}: '{part}' names a revision; download it and give its folder"
            )
    return Model(path, adapter)


def _path(value: Any, where: str) -> str:
    if isinstance(value, Mapping):
        if value.get("revision"):
            raise errors.RecipeError(
                f"{where}: revision '{value['revision']}': download it and give its folder"
            )
        value = value.get("path")
    if not isinstance(value, str) or not value:
        raise errors.RecipeError(f"{where}: expected a model, got {plain.shown(value)}")
    return value


def at(setting: Any, name: str, t: float, where: str) -> Scalar | None:
    """A parameter's value for tensor `name` at `t` in [0, 1] of its slice's depth.

    None where no filter fits. RecipeError for a setting that is none of the forms.
    """
    if isinstance(setting, Mapping):
        setting = [setting]
    if isinstance(setting, bool | int | float | str):
        return setting
    if not isinstance(setting, list) or not setting:
        raise errors.RecipeError(
            f"{where}: expected a value, a list over depth, or filters with values, got "
            f"{plain.shown(setting)}"
        )
    if not any(isinstance(part, Mapping) for part in setting):
        return _gradient(setting, t, where)
    for part in setting:
        stray = set(part) - {"filter", "value"} if isinstance(part, Mapping) else {part}
        if stray or "value" not in part:
            raise errors.RecipeError(
                f"{where}: expected 'filter' and 'value', got {plain.shown(part)}"
            )
        wanted = part.get("filter")
        if wanted in (None, "*") or str(wanted) in name:
            return at(part["value"], name, t, where)
    return None


def _gradient(values: list[Any], t: float, where: str) -> Scalar:
    for value in values:
        if not isinstance(value, bool | int | float | str):
            raise errors.RecipeError(f"{where}: expected values, got {plain.shown(value)}")
    place = t * (len(values) - 1)
    low = int(place)
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        high = min(len(values) - 1, low + 1)
        return float((1 - (place - low)) * values[low] + (place - low) * values[high])
    chosen: Scalar = values[low]
    return chosen


@dataclass(frozen=True)
class Place:
    """Where a tensor is in the file: its sources, their settings, and `t` in the slice."""

    sources: Mapping[Model, Settings]
    shared: tuple[Settings, ...]
    t: float

    def settings(self, source: Model | None) -> Iterator[Settings]:
        """From the most to the least special."""
        if source is not None:
            yield self.sources.get(source, {})
        yield from self.shared


def places(merge: Merge, names: Iterable[str], where: str) -> dict[str, Place]:
    """The place of every tensor; RecipeError for slices that change the order of layers."""
    names = list(names)
    numbers = {name: _LAYER.search(name) for name in names}
    depths = {name: int(found[1]) for name, found in numbers.items() if found}
    n_layers = 1 + max(depths.values(), default=0)
    if merge.slices is None:
        parts = [Slice(sources=merge.models or [])]
        ranges = [(0, n_layers)]
    else:
        parts = merge.slices
        ranges = [_layers(part, f"{where}: slices[{i}]") for i, part in enumerate(parts)]
    if [low for low, _ in ranges] + [n_layers] != [0] + [high for _, high in ranges]:
        raise errors.RecipeError(
            f"{where}: slices that leave out, repeat or move layers make another architecture, "
            f"which no plan describes; expected layers 0 to {n_layers}, once and in order"
        )
    role = {name: place.role for name, place in Layers().places(dict.fromkeys(names, ())).items()}
    found: dict[str, Place] = {}
    for name in names:
        if name in depths:
            i = next(i for i, (_, high) in enumerate(ranges) if depths[name] < high)
            low, high = ranges[i]
            # a slice of one layer stands at the end of a gradient
            t = (depths[name] - low) / (high - low - 1) if high - low > 1 else 1.0
        else:
            i, t = 0 if role[name] == "embedding" else len(parts) - 1, 0.0
        found[name] = Place(_sources(parts[i], where), (parts[i].parameters, merge.parameters), t)
    return found


def _layers(part: Slice, where: str) -> tuple[int, int]:
    ranges = {source.layer_range for source in part.sources}
    if len(ranges) > 1:
        raise errors.RecipeError(
            f"{where}: sources of different layers, which no plan describes; expected one "
            "layer_range for all"
        )
    found = ranges.pop()
    if found is None:
        raise errors.RecipeError(f"{where}: layer_range is missing")
    return found


def _sources(part: Slice, where: str) -> dict[Model, Settings]:
    found: dict[Model, Settings] = {}
    for source in part.sources:
        one = model(source.model, where)
        if one in found:
            raise errors.RecipeError(f"{where}: '{one.reference}' stands twice; name it once")
        found[one] = source.parameters
    return found
