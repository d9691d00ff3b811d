"""How one tensor of a plan is merged: what is the same for all of its extents, settled once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import torch

from evomerge.files.checkpoint import TensorInfo
from evomerge.layers import Place


@dataclass(frozen=True)
class Work:
    """An operator, its genes as it receives them, and the place of the tensor."""

    operator: str
    module: ModuleType
    genes: dict[str, Any]
    place: Place

    @cached_property
    def scope(self) -> str:
        return self.scope_of(self.place)

    def scope_of(self, place: Place) -> str:
        return str(self.module.scope(self.genes, place))

    @cached_property
    def prepares(self) -> bool:
        """Whether merge needs anything that does not depend on genes."""
        ask = getattr(self.module, "prepares", None)
        return ask is None or bool(ask(self.genes, self.place))

    @cached_property
    def measures(self) -> bool:
        """Whether merge needs sums that depend on genes."""
        return hasattr(self.module, "measure") and bool(self.module.measures(self.genes))

    @cached_property
    def pooled(self) -> bool:
        """Whether statistics and sums are those of the whole model, not of the tensor."""
        return bool(self.genes.get("threshold_scope") == "model")

    @cached_property
    def needs_all(self) -> bool:
        """Whether every entry has to come from all experts, those without it as the base."""
        fixed = hasattr(self.module, "prepare") or hasattr(self.module, "EXPERTS")
        # a sum that is not divided would lose the share of those that are missing
        return fixed or self.scope == "tensor" or self.genes.get("normalize") == "no"

    def genes_of(self, there: torch.Tensor) -> dict[str, Any]:
        """The genes of those experts alone for whom `there` (K,) is true."""
        per_expert = {n: g[there] for n, g in self.genes.items() if isinstance(g, torch.Tensor)}
        return {**self.genes, **per_expert}


def extents(info: TensorInfo, scope: str, size: int) -> Iterator[tuple[int, int]]:
    """Flat extents of a tensor: of `size` entries, of whole rows, or all of it."""
    if scope == "tensor":
        size = info.numel
    elif scope == "row" and info.shape:
        size = max(1, size // max(1, info.shape[-1])) * info.shape[-1]
    for start in range(0, info.numel, max(1, size)):
        yield start, min(start + size, info.numel)
