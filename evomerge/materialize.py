"""Plan + checkpoints -> tensors, tile by tile; a live model and a folder get the same bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol

import torch

from evomerge import errors, heap, passes, plugins
from evomerge.arguments import arguments
from evomerge.files.checkpoint import TensorInfo
from evomerge.files.vocabulary import present
from evomerge.inputs import Opened
from evomerge.layers import Place
from evomerge.maths.counter_rng import Noise
from evomerge.passes import Tensors
from evomerge.plan import Input, Plan, Vocabulary, canonical
from evomerge.work import Work, extents

TILE = 2**17
"""Elements of a tile: few enough for a cache, enough to outweigh the calls."""

KEPT = 2**30
"""Bytes that a workshop keeps of what operators `derive`; what is more is derived each time."""


class Source(Protocol):
    """Where tensors come from: a checkpoint, or a plan that is merged as it is read."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...

    def read_flat(self, name: str, start: int, stop: int) -> torch.Tensor: ...


@dataclass
class Workshop:
    """What candidates share: opened models by sha256, and gene-free statistics. With `once`
    there is one plan, and what it does not need is not prepared."""

    checkpoints: Opened
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    tile: int = TILE
    kept: int = KEPT
    once: bool = False
    _heap: heap.Heap = field(default_factory=heap.Heap)
    _stats: dict[tuple[str, ...], Tensors] = field(default_factory=dict)
    _derived: dict[tuple[object, ...], Tensors] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.once:
            heap.keep()

    @classmethod
    def of(cls, plan: Plan) -> Workshop:
        """Open all models of a plan where its paths say; raises InputError if one changed."""
        return cls(Opened.of(plan), kept=0, once=True)

    def source(self, item: Input, vocabulary: Vocabulary | None = None) -> Source:
        """Where an input's tensors come from, in the layout of a plan's vocabulary."""
        if item.plan is not None:
            return Merged(item.plan, self)
        return self.checkpoints.source(item, vocabulary)

    def used(self, size: int) -> None:
        """Told of the bytes of each tile, so that those of one long merge do not add up."""
        if self.once:
            self._heap.note(size)

    def stats(self, merged: Merged, work: Work) -> Tensors:
        """Finished statistics of a tensor's operator, pooled over it or the whole model."""
        module, name = work.module, "" if work.pooled else work.place.name
        if not hasattr(module, "prepare") or not work.prepares:
            return {}
        brief = self.once and hasattr(module, "bracket")
        # Those in brief are for the genes of one plan alone
        key = (merged.plan.key if brief else "", *merged.inputs_of(work), name, work.scope)
        if key not in self._stats:
            names = [name] if name else merged.mergeable
            scopes = {n: work.scope_of(merged.places[n]) for n in names}
            found = passes.bracketed(module, merged, scopes) if brief else None
            found = found or passes.prepare(module, merged, scopes)
            if self.once and name:  # whose turn does not come again
                return found
            self._stats[key] = found
        return self._stats[key]

    def derived(
        self, merged: Merged, work: Work, inputs: tuple[torch.Tensor, torch.Tensor], start: int
    ) -> Tensors:
        """What the operator derives from the inputs of an extent, kept while there is room."""
        if not hasattr(work.module, "derive") or not work.prepares:
            return {}
        key = (*merged.inputs_of(work), work.place.name, start, inputs[0].numel())
        found = self._derived.get(key)
        if found is None:
            found = work.module.derive(*inputs, work.place)
            size = sum(value.nbytes for value in found.values())
            if size <= self.kept:
                self.kept -= size
                self._derived[key] = found
        return found


class Merged:
    """The tensors of one plan, computed when they are read; itself a Source for other plans."""

    def __init__(self, plan: Plan, workshop: Workshop) -> None:
        self.plan = plan
        self.workshop = workshop
        self.base = workshop.source(plan.base, plan.vocabulary)
        self.experts = [workshop.source(item, plan.vocabulary) for item in plan.experts]
        self.dtype: torch.dtype = getattr(torch, plan.dtype)
        self.groups = plan.places(self.tensors)
        known = set(self.groups.values())
        for group in plan.groups.keys() - known:
            raise errors.RecipeError(errors.unknown("plan.groups", "group", group, known))
        self._genes = {
            group: arguments(step, plan, workshop.device) for group, step in plan.groups.items()
        }
        self._works: dict[str, Work | None] = {}
        self._stats: dict[str, Tensors] = {}
        self._sums: dict[tuple[str, str], Tensors] = {}
        self._runs: dict[str, dict[int, torch.Tensor]] = {}

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self.base.tensors

    @cached_property
    def mergeable(self) -> list[str]:
        """Names of the floating-point tensors; others are the base's."""
        return [name for name, info in self.tensors.items() if info.dtype.is_floating_point]

    def work(self, name: str) -> Work | None:
        """What tensor `name` goes through; None where it is the base's."""
        if name not in self._works:
            self._works[name] = self._work(name)
        return self._works[name]

    def _work(self, name: str) -> Work | None:
        step = self.plan.groups.get(self.groups[name])
        if step is None or not self.experts or not self.tensors[name].dtype.is_floating_point:
            return None
        module = plugins.load("operator", step.operator)
        return Work(step.operator, module, self.genes(name), self.places[name])

    def inputs_of(self, work: Work) -> tuple[str, ...]:
        """What an operator's gene-free findings depend on."""
        return (work.operator, str(work.module.VERSION), *self.plan.identities())

    def stored_dtype(self, name: str) -> torch.dtype:
        stored = self.tensors[name].dtype
        return self.dtype if stored.is_floating_point else stored

    def tiles(self, name: str) -> Iterator[tuple[int, int]]:
        """Flat extents that may be merged one at a time, as the operator's scope says."""
        work, info = self.work(name), self.tensors[name]
        scope = "tile" if work is None else work.scope
        starts = {start for start, _ in extents(info, scope, self.workshop.tile)}
        yield from pairwise([*sorted({*starts, *self._present(name)}), info.numel])

    def _present(self, name: str) -> dict[int, torch.Tensor]:
        """(K,) which experts have the rows from an element on; {}: all have, or the operator sees
        a task vector of zero instead, as it has statistics, whole tensors or a fixed K."""
        work = self.work(name)
        if work is None or work.needs_all:
            return {}
        if name not in self._runs:
            self._runs[name] = present(self.experts, self.tensors[name])
        return self._runs[name]

    @cached_property
    def places(self) -> dict[str, Place]:
        return self.plan.layers.places({n: info.shape for n, info in self.tensors.items()})

    def inputs(
        self, name: str, start: int, stop: int, step: int = 1
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Base (n,) and experts (K, n) of every `step`-th entry of an extent, in float32."""
        device = self.workshop.device
        base = self.base.read_flat(name, start, stop)[::step].to(device, torch.float32)
        experts = torch.empty((len(self.experts), len(base)), device=device)
        for row, expert in zip(experts, self.experts, strict=True):
            row.copy_(expert.read_flat(name, start, stop)[::step])
        self.workshop.used(base.nbytes + experts.nbytes)
        return base, experts

    def merge(self, name: str, start: int, stop: int) -> torch.Tensor:
        """One extent of `tiles`, merged: (stop - start,) in float32, or as the base has it."""
        work = self.work(name)
        if work is None:
            return self.base.read_flat(name, start, stop)
        base, experts = self.shaped(name, work.scope, start, stop)
        genes, names = work.genes, [item.name for item in self.plan.experts]
        here = [there for begin, there in self._present(name).items() if begin <= start][-1:]
        if here and not here[0].any():
            return base.reshape(-1)
        if here:
            names = [each for each, there in zip(names, here[0], strict=True) if there]
            experts, genes = experts[here[0]], work.genes_of(here[0])
        derived = self.workshop.derived(self, work, (base, experts), start)
        merged: torch.Tensor = work.module.merge(
            base,
            experts,
            stats={**self.stats(name), **derived},
            sums=self.sums(work),
            rng=Noise(self.plan.seed, name, names, start),
            place=work.place,
            **genes,
        )
        return merged.reshape(-1)

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

    def genes(self, name: str) -> dict[str, Any]:
        """Gene values of tensor `name` as its operator receives them."""
        return self._genes[self.groups[name]]

    def stats(self, name: str) -> Tensors:
        """What candidates share of tensor `name`'s operator; nothing where it has none."""
        if name not in self._stats:
            work = self.work(name)
            if self.workshop.once:  # one tensor comes after the other
                self._stats.clear()
            self._stats[name] = self.workshop.stats(self, work) if work is not None else {}
        return self._stats[name]

    def sums(self, work: Work) -> Tensors:
        """What the operator's `measure` finds for this plan, pooled like its statistics."""
        if not work.measures:
            return {}
        key = (work.operator, "" if work.pooled else work.place.name)
        if key not in self._sums:
            names = self.mergeable if work.pooled else [work.place.name]
            works = [self.work(name) for name in names]
            same = [one for one in works if one and one.operator == work.operator]
            self._sums[key] = self._measure(same)
        return self._sums[key]

    def _measure(self, works: list[Work]) -> Tensors:
        found: Tensors = {}
        for work in works:
            name = work.place.name
            for start, stop in self.tiles(name):
                inputs = self.shaped(name, work.scope, start, stop)
                part = work.module.measure(
                    *inputs, stats=self.stats(name), place=work.place, **work.genes
                )
                passes.add(found, part)
        return found

    def read_flat(
        self, name: str, start: int, stop: int, dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """Any extent of the merged tensor, so that a plan can be an input of another plan; rounded
        to the dtype that it is stored in, or another."""
        covering = [
            extent for extent in self.tiles(name) if extent[0] < stop and extent[1] > start
        ]
        first, last = (covering[0][0], covering[-1][1]) if covering else (start, stop)
        dtype, device = dtype or self.stored_dtype(name), self.workshop.device
        # Parts put together later would scatter the heap.
        whole = torch.empty(last - first, dtype=dtype, device=device)
        for begin, end in covering:
            whole[begin - first : end - first].copy_(self.merge(name, begin, end))
        return whole[start - first : stop - first]

    def read(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        info = self.tensors[name]
        return self.read_flat(name, 0, info.numel, dtype).view(info.shape)

    @cached_property
    def _group_keys(self) -> dict[str | None, str]:
        shared = [self.plan.identities(), self.plan.dtype, self.plan.seed]
        keys: dict[str | None, str] = {None: canonical([*shared, None])}
        for group, step in self.plan.groups.items():
            keys[group] = canonical([*shared, step.model_dump()])
        return keys

    def tensor_key(self, name: str) -> str:
        """What the bits of one merged tensor depend on, as text."""
        work = self.work(name)
        if work is None:
            return self._group_keys[None]
        sums = {key: value.tolist() for key, value in self.sums(work).items()}
        return f"{self._group_keys[self.groups[name]]}{canonical(sums) if sums else ''}"
