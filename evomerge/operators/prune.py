"""Prune, merge, prune again, as Sparsity-Aware Evolution does (Zhang et al. 2026).

Source: arXiv 2602.08218, of a pair of parents; here the task vectors of any number of experts.
In each tensor, as there in each layer, an expert keeps the largest `density` of its entries by
magnitude, and those that tie with the smallest of them. The weighted sum of what is left has the
union of their places; it is pruned to the same density again, so that the result is that sparse.
With `fill: attract`, an entry that some experts have lost is what the others say, as if they had
the weight of all: where one of two parents is zero, the child takes the other's value.
"""

from __future__ import annotations

from typing import Any

import torch

from evomerge.genome import Gene
from evomerge.layers import Place
from evomerge.maths import consensus, sparsify

VERSION = 1
GENES = (
    Gene("weight", -0.5, 1.5, default=0.3, per_expert=True, seeds=(0.1, 0.2, 0.3, 0.5, 1.0)),
    Gene("density", 1 / sparsify.GRID, 1.0, default=0.5, step=1 / sparsify.GRID),
    Gene("fill", default="none", choices=("none", "attract"), level="model", searched=False),
    Gene(
        "threshold_scope", default="tensor", choices=("tensor", "row"),
        level="model", searched=False,
    ),
)  # fmt: skip


def scope(genes: dict[str, Any], place: Place) -> str:
    return str(genes["threshold_scope"])


def merge(
    base: torch.Tensor,
    experts: torch.Tensor,
    *,
    weight: torch.Tensor,
    density: float,
    fill: str,
    threshold_scope: str,
    **_: Any,
) -> torch.Tensor:
    """base + pruned weighted sum of the pruned task vectors."""
    pools = experts - base
    if threshold_scope == "tensor":
        pools = pools.reshape(len(experts), 1, base.numel())
    kept = sparsify.trim_rows(pools, density)
    merged = consensus.total(kept, weight)
    if fill == "attract":
        merged.mul_(_as_if_all(kept, weight))
    return sparsify.trim_rows(merged, density).view_as(base).add_(base)


def _as_if_all(kept: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The sum of all |weight| over that of the experts that keep an entry: (*S) of (K, *S)."""
    there = consensus.total(kept.ne(0).to(kept.dtype), weight.abs())
    # where no weight is left there is nothing to fill
    return torch.where(there > 0, sum(weight.abs().tolist()) / there, 1.0)
