"""Plan + checkpoints -> tensors, tile by tile; a live model and a folder get the same bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch

from evomerge import errors, plugins
from evomerge.files.checkpoint import Checkpoint, TensorInfo
from evomerge.genome import Gene
from evomerge.maths.counter_rng import Noise
from evomerge.plan import Input, Plan, Step, canonical

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
    """What candidates share: open checkpoints by sha256, and gene-free statistics."""

    checkpoints: Mapping[str, Checkpoint]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    tile: int = TILE
    _stats: dict[tuple[str, ...], Tensors] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: Plan) -> Workshop:
        """Open all checkpoints of a plan where its paths say; raises InputError if one changed."""
        checkpoints = {}
        for item in leaves(plan):
            if not item.path:
                raise errors.InputError(f"{item.name}: the plan does not say where it is ('path')")
            checkpoint = Checkpoint.open(Path(item.path), item.name)
            if checkpoint.sha256 != item.sha256:
                raise errors.InputError(
                    f"{item.path}: not the checkpoint that the plan was made from (sha256 "
                    f"{checkpoint.sha256[:12]}, the plan has {item.sha256[:12]})"
                )
            checkpoints[item.sha256] = checkpoint
        return cls(checkpoints)

    def source(self, item: Input) -> Source:
        if item.plan is not None:
            return Merged(item.plan, self)
        if item.sha256 not in self.checkpoints:
            raise errors.InputError(
                f"{item.name}: no open checkpoint has sha256 {item.sha256[:12]} ({item.path})"
            )
        return self.checkpoints[item.sha256]

    def stats(self, merged: Merged, operator: str, pool: str, name: str) -> Tensors:
        """Finished statistics of an operator, pooled over tensor `name` or the whole model."""
        module = plugins.load("operator", operator)
        if not hasattr(module, "prepare") or pool == "row":
            return {}
        inputs = [item.sha256 for item in merged.plan.inputs()]
        place = (operator, str(module.VERSION), *inputs, name if pool == "tensor" else "")
        if place not in self._stats:
            names = [name] if pool == "tensor" else merged.mergeable
            self._stats[place] = _prepare(module, merged, names)
        return self._stats[place]


def leaves(plan: Plan) -> Iterator[Input]:
    """The checkpoints under a plan, through the plans among its inputs."""
    for item in plan.inputs():
        if item.plan is not None:
            yield from leaves(item.plan)
        else:
            yield item


def _prepare(module: ModuleType, merged: Merged, names: list[str]) -> Tensors:
    """Run the passes of an operator's statistics over tensors; each sees what the last found."""
    stats: Tensors | None = None
    for _ in range(getattr(module, "PASSES", 1)):
        found: Tensors = {}
        for name in names:
            for start, stop in merged.tiles(name):
                _add(found, module.prepare(*merged.inputs(name, start, stop), stats))
        stats = module.finish(found, stats) if hasattr(module, "finish") else found
    assert stats is not None
    return stats


def _add(total: Tensors, part: Mapping[str, torch.Tensor]) -> None:
    for key, value in part.items():
        total[key] = total[key] + value if key in total else value


class Merged:
    """The tensors of one plan, computed when they are read; itself a Source for other plans."""

    def __init__(self, plan: Plan, workshop: Workshop) -> None:
        self.plan = plan
        self.workshop = workshop
        self.base = workshop.source(plan.base)
        self.experts = [workshop.source(item) for item in plan.experts]
        self.dtype: torch.dtype = getattr(torch, plan.dtype)
        self.groups = plan.places(self.tensors)
        _check_groups(plan, set(self.groups.values()))
        self._genes = {
            group: _arguments(step, plan, workshop.device) for group, step in plan.groups.items()
        }
        self._sums: dict[tuple[str, str], Tensors] = {}

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
        info, step = self.tensors[name], self.step(name)
        scope = "tile"
        if step is not None:
            module = plugins.load("operator", step.operator)
            scope = module.scope(self._genes[self.groups[name]])
        size = self.workshop.tile
        if scope == "tensor":
            size = info.numel
        elif scope == "row" and info.shape:
            size = max(1, size // max(1, info.shape[-1])) * info.shape[-1]
        for start in range(0, info.numel, max(1, size)):
            yield start, min(start + size, info.numel)

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
        genes = self._genes[self.groups[name]]
        base, experts = self._shaped(name, module.scope(genes), start, stop)
        merged: torch.Tensor = module.merge(
            base,
            experts,
            stats=self._stats(name, step),
            sums=self.sums(name),
            rng=Noise(self.plan.seed, name, [item.name for item in self.plan.experts], start),
            **genes,
        )
        return merged.reshape(-1).to(self.dtype)

    def _shaped(
        self, name: str, scope: str, start: int, stop: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The inputs of an extent, in rows or whole where the scope asks for it."""
        base, experts = self.inputs(name, start, stop)
        shape = self.tensors[name].shape
        if scope == "tile" or not shape:
            return base, experts
        part = (-1, shape[-1]) if scope == "row" else shape
        return base.view(part), experts.view(len(experts), *part)

    def _pool(self, step: Step) -> str:
        return str(step.genes.get("threshold_scope", "tensor"))

    def _stats(self, name: str, step: Step) -> Tensors:
        return self.workshop.stats(self, step.operator, self._pool(step), name)

    def sums(self, name: str) -> Tensors:
        """What the operator's `measure` finds for this plan, pooled like its statistics."""
        step = self.step(name)
        if step is None:
            return {}
        module = plugins.load("operator", step.operator)
        if not hasattr(module, "measure") or not module.measures(self._genes[self.groups[name]]):
            return {}
        pool = self._pool(step)
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
            genes = self._genes[self.groups[name]]
            stats = self._stats(name, step)
            for start, stop in self.tiles(name):
                base, experts = self._shaped(name, module.scope(genes), start, stop)
                _add(found, module.measure(base, experts, stats=stats, **genes))
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
        inputs = [item.sha256 for item in self.plan.inputs()]
        shared = [inputs, self.plan.dtype, self.plan.seed]
        keys: dict[str | None, str] = {None: canonical([*shared, None])}
        for group, step in self.plan.groups.items():
            keys[group] = canonical([*shared, step.model_dump()])
        return keys

    def tensor_key(self, name: str) -> str:
        """What the bits of one merged tensor depend on, as text."""
        group = self.groups[name] if self.step(name) is not None else None
        sums = {key: value.tolist() for key, value in self.sums(name).items()}
        return f"{self._group_keys[group]}{canonical(sums)}"


def _check_groups(plan: Plan, known: set[str]) -> None:
    for group in plan.groups:
        if group not in known:
            raise errors.RecipeError(errors.unknown("plan.groups", "group", group, known))


def _arguments(step: Step, plan: Plan, device: torch.device) -> dict[str, Any]:
    """Gene values as `merge` receives them: per-expert ones (K,) float32, others as they are."""
    module = plugins.load("operator", step.operator, "plan.groups")
    if step.version != module.VERSION:
        raise errors.RecipeError(
            f"plan.groups: {step.operator} has version {module.VERSION} here, the plan was made "
            f"with {step.version}: its result would differ"
        )
    declared = {gene.name: gene for gene in module.GENES}
    experts = [item.name for item in plan.experts]
    for name, value in step.genes.items():
        if name not in declared:
            raise errors.RecipeError(errors.unknown(step.operator, "gene", name, declared))
        _check_value(declared[name], value, experts, f"plan.groups: {step.operator}.{name}")
    found: dict[str, Any] = {}
    for name, gene in declared.items():
        given: Any = step.genes.get(name, gene.default)
        if gene.per_expert:
            each = given if isinstance(given, dict) else dict.fromkeys(experts, given)
            given = torch.tensor([each[expert] for expert in experts], device=device)
        found[name] = given
    return found


def _check_value(gene: Gene, value: object, experts: list[str], where: str) -> None:
    if not isinstance(value, dict):
        gene.check(value, where)
    elif not gene.per_expert or set(value) != set(experts):
        expected = f"a value for each of {', '.join(experts)}" if gene.per_expert else "one value"
        raise errors.RecipeError(f"{where}: expected {expected}, got {value}")
    else:
        for expert, one in value.items():
            gene.check(one, f"{where}[{expert}]")
