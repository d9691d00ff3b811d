"""Plan + checkpoints -> tensors, tile by tile; a live model and a folder get the same bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from types import ModuleType
from typing import Any, Protocol

import torch

from evomerge import errors, plugins
from evomerge.arguments import arguments
from evomerge.files.checkpoint import TensorInfo
from evomerge.files.vocabulary import present
from evomerge.inputs import Opened
from evomerge.layers import Place
from evomerge.maths.counter_rng import Noise
from evomerge.plan import Input, Plan, Step, Vocabulary, canonical

TILE = 2**18
"""Elements of a tile: base and a few experts of it fit the cache of one core."""

Tensors = dict[str, torch.Tensor]


class Source(Protocol):
    """Where tensors come from: a checkpoint, or a plan that is merged as it is read."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...

    def read_flat(self, name: str, start: int, stop: int) -> torch.Tensor: ...


@dataclass
class Workshop:
    """What candidates share: opened models by sha256, and gene-free statistics."""

    checkpoints: Opened
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    tile: int = TILE
    _stats: dict[tuple[str, ...], Tensors] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: Plan) -> Workshop:
        """Open all models of a plan where its paths say; raises InputError if one changed."""
        return cls(Opened.of(plan))

    def source(self, item: Input, vocabulary: Vocabulary | None = None) -> Source:
        """Where an input's tensors come from, in the layout of a plan's vocabulary."""
        if item.plan is not None:
            return Merged(item.plan, self)
        return self.checkpoints.source(item, vocabulary)

    def stats(self, merged: Merged, name: str) -> Tensors:
        """Finished statistics of tensor `name`'s operator, pooled over it or the whole model."""
        step, genes = merged.step(name), merged.genes(name)
        assert step is not None
        module = plugins.load("operator", step.operator)
        if not hasattr(module, "prepare"):
            return {}
        if hasattr(module, "prepares") and not module.prepares(genes, merged.places[name]):
            return {}
        inputs = merged.plan.identities()
        pooled, scope = merged.pool(name) == "model", module.scope(genes, merged.places[name])
        key = (step.operator, str(module.VERSION), *inputs, "" if pooled else name, scope)
        if key not in self._stats:
            names = merged.mergeable if pooled else [name]
            scopes = {other: module.scope(genes, merged.places[other]) for other in names}
            self._stats[key] = _prepare(module, merged, scopes)
        return self._stats[key]


def _prepare(module: ModuleType, merged: Merged, scopes: Mapping[str, str]) -> Tensors:
    """Run the passes of an operator's statistics over tensors; each sees what the last found.

    Extents do not follow the workshop's tiles: sums of floats shall not depend on them.
    """
    stats: Tensors | None = None
    for _ in range(getattr(module, "PASSES", 1)):
        found: Tensors = {}
        for name, scope in scopes.items():
            for start, stop in extents(merged.tensors[name], scope, TILE):
                inputs = merged.shaped(name, scope, start, stop)
                _add(found, module.prepare(*inputs, stats, merged.places[name]))
        stats = module.finish(found, stats) if hasattr(module, "finish") else found
    assert stats is not None
    return stats


def extents(info: TensorInfo, scope: str, size: int) -> Iterator[tuple[int, int]]:
    """Flat extents of a tensor: of `size` entries, of whole rows, or all of it."""
    if scope == "tensor":
        size = info.numel
    elif scope == "row" and info.shape:
        size = max(1, size // max(1, info.shape[-1])) * info.shape[-1]
    for start in range(0, info.numel, max(1, size)):
        yield start, min(start + size, info.numel)


def _add(total: Tensors, part: Mapping[str, torch.Tensor]) -> None:
    for key, value in part.items():
        total[key] = total[key] + value if key in total else value


class Merged:
    """The tensors of one plan, computed when they are read; itself a Source for other plans."""

    def __init__(self, plan: Plan, workshop: Workshop) -> None:
        self.plan = plan
        self.workshop = workshop
        self.base = workshop.source(plan.base, plan.vocabulary)
        self.experts = [workshop.source(item, plan.vocabulary) for item in plan.experts]
        self.dtype: torch.dtype = getattr(torch, plan.dtype)
        self.groups = plan.places(self.tensors)
        _check_groups(plan, set(self.groups.values()))
        self._genes = {
            group: arguments(step, plan, workshop.device) for group, step in plan.groups.items()
        }
        self._sums: dict[tuple[str, str], Tensors] = {}
        self._runs: dict[str, dict[int, torch.Tensor]] = {}

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self.base.tensors

    @cached_property
    def mergeable(self) -> list[str]:
        """Names of the floating-point tensors; others are the base's."""
        return [name for name, info in self.tensors.items() if info.dtype.is_floating_point]

    def step(self, name: str) -> Step | None:
        """What tensor `name` goes through; None where it is the base's."""
        if not self.experts or not self.tensors[name].dtype.is_floating_point:
            return None
        return self.plan.groups.get(self.groups[name])

    def stored_dtype(self, name: str) -> torch.dtype:
        stored = self.tensors[name].dtype
        return self.dtype if stored.is_floating_point else stored

    def tiles(self, name: str) -> Iterator[tuple[int, int]]:
        """Flat extents that may be merged one at a time, as the operator's scope says."""
        step = self.step(name)
        scope = "tile" if step is None else self._scope(step, name)
        info = self.tensors[name]
        starts = {start for start, _ in extents(info, scope, self.workshop.tile)}
        yield from pairwise([*sorted({*starts, *self._present(name)}), info.numel])

    def _present(self, name: str) -> dict[int, torch.Tensor]:
        """(K,) which experts have the rows from an element on; {}: all have, or the operator sees
        a task vector of zero instead, as it has statistics, whole tensors or a fixed K."""
        step = self.step(name)
        if step is None:
            return {}
        if name not in self._runs:
            module = plugins.load("operator", step.operator)
            blind = hasattr(module, "prepare") or hasattr(module, "EXPERTS")
            blind = blind or self._scope(step, name) == "tensor"
            self._runs[name] = {} if blind else present(self.experts, self.tensors[name])
        return self._runs[name]

    def _scope(self, step: Step, name: str) -> str:
        module = plugins.load("operator", step.operator)
        return str(module.scope(self.genes(name), self.places[name]))

    def genes(self, name: str) -> dict[str, Any]:
        """Gene values of tensor `name` as its operator receives them."""
        return self._genes[self.groups[name]]

    @cached_property
    def places(self) -> dict[str, Place]:
        return self.plan.layers.places({n: info.shape for n, info in self.tensors.items()})

    def inputs(self, name: str, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Base (n,) and experts (K, n) of an extent, in float32."""
        device = self.workshop.device
        base = self.base.read_flat(name, start, stop).to(device, torch.float32)
        experts = torch.empty((len(self.experts), stop - start), device=device)
        for row, expert in zip(experts, self.experts, strict=True):
            row.copy_(expert.read_flat(name, start, stop))
        return base, experts

    def merge(self, name: str, start: int, stop: int) -> torch.Tensor:
        """One extent of `tiles`, merged: (stop - start,) in the plan's dtype."""
        step = self.step(name)
        if step is None:
            return self.base.read_flat(name, start, stop).to(self.stored_dtype(name))
        module = plugins.load("operator", step.operator)
        base, experts = self.shaped(name, self._scope(step, name), start, stop)
        genes, names = self.genes(name), [item.name for item in self.plan.experts]
        here = [there for begin, there in self._present(name).items() if begin <= start][-1:]
        if here and not here[0].any():
            return base.reshape(-1).to(self.dtype)
        if here:
            names = [each for each, there in zip(names, here[0], strict=True) if there]
            experts, genes = experts[here[0]], _of_some(genes, here[0])
        merged: torch.Tensor = module.merge(
            base,
            experts,
            stats=self.workshop.stats(self, name),
            sums=self.sums(name),
            rng=Noise(self.plan.seed, name, names, start),
            place=self.places[name],
            **genes,
        )
        return merged.reshape(-1).to(self.dtype)

    def shaped(
        self, name: str, scope: str, start: int, stop: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The inputs of an extent, in rows or whole where the scope asks for it."""
        base, experts = self.inputs(name, start, stop)
        shape = self.tensors[name].shape
        if scope == "tile" or not shape:
            return base, experts
        part = (-1, shape[-1]) if scope == "row" else shape
        return base.view(part), experts.view(len(experts), *part)

    def pool(self, name: str) -> str:
        return str(self.genes(name).get("threshold_scope", "tensor"))

    def sums(self, name: str) -> Tensors:
        """What the operator's `measure` finds for this plan, pooled like its statistics."""
        step = self.step(name)
        if step is None:
            return {}
        module = plugins.load("operator", step.operator)
        if not hasattr(module, "measure") or not module.measures(self.genes(name)):
            return {}
        pool = self.pool(name)
        place = (step.operator, "" if pool == "model" else name)
        if place not in self._sums:
            names = self.mergeable if pool == "model" else [name]
            self._sums[place] = self._measure(step.operator, names)
        return self._sums[place]

    def _measure(self, operator: str, names: list[str]) -> Tensors:
        module = plugins.load("operator", operator)
        found: Tensors = {}
        for name in names:
            step = self.step(name)
            if step is None or step.operator != operator:
                continue
            stats, scope = self.workshop.stats(self, name), self._scope(step, name)
            for start, stop in self.tiles(name):
                inputs = self.shaped(name, scope, start, stop)
                place = self.places[name]
                _add(found, module.measure(*inputs, stats=stats, place=place, **self.genes(name)))
        return found

    def read_flat(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Any extent of the merged tensor, so that a plan can be an input of another plan."""
        covering = [
            extent for extent in self.tiles(name) if extent[0] < stop and extent[1] > start
        ]
        if not covering:
            return torch.empty(0, dtype=self.stored_dtype(name), device=self.workshop.device)
        whole = torch.cat([self.merge(name, *extent) for extent in covering])
        return whole[start - covering[0][0] : stop - covering[0][0]]

    def read(self, name: str) -> torch.Tensor:
        info = self.tensors[name]
        return self.read_flat(name, 0, info.numel).view(info.shape)

    @cached_property
    def _group_keys(self) -> dict[str | None, str]:
        shared = [self.plan.identities(), self.plan.dtype, self.plan.seed]
        keys: dict[str | None, str] = {None: canonical([*shared, None])}
        for group, step in self.plan.groups.items():
            keys[group] = canonical([*shared, step.model_dump()])
        return keys

    def tensor_key(self, name: str) -> str:
        """What the bits of one merged tensor depend on, as text."""
        group = self.groups[name] if self.step(name) is not None else None
        sums = {key: value.tolist() for key, value in self.sums(name).items()}
        return f"{self._group_keys[group]}{canonical(sums)}"


def _of_some(genes: Mapping[str, Any], there: torch.Tensor) -> dict[str, Any]:
    per_expert = {name: g[there] for name, g in genes.items() if isinstance(g, torch.Tensor)}
    return {**genes, **per_expert}


def _check_groups(plan: Plan, known: set[str]) -> None:
    for group in plan.groups:
        if group not in known:
            raise errors.RecipeError(errors.unknown("plan.groups", "group", group, known))
