"""Consensus merging: keep the coordinates that several tasks need (Wang et al. 2024, TALL-masks).

Localizing task information for improved model merging and compression. Expert k needs a
coordinate where |x_k| > tall_k |sum_j x_j - x_k|, x_k its weighted task vector. What fewer than
`agree` experts need is left at the base's value; at 2 that is what one or nobody needs. At 0 it
is task arithmetic, above K the base.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from evomerge.genome import Gene
from evomerge.layers import Place
from evomerge.maths import consensus

VERSION = 2
EXPERTS = (2, sys.maxsize)
GENES = (
    Gene("weight", -1.0, 1.5, default=0.3, per_expert=True, seeds=(0.1, 0.2, 0.3, 0.5, 1.0)),
    Gene("tall", 0.1, 1.0, default=0.4, per_expert=True, level="model"),
    Gene("agree", 0.0, 4.0, default=2.0, step=1.0, level="model"),
)


def scope(genes: dict[str, Any], place: Place) -> str:
    return "tile"


def merge(
    base: torch.Tensor,
    experts: torch.Tensor,
    *,
    weight: torch.Tensor,
    tall: torch.Tensor,
    agree: float,
    **_: Any,
) -> torch.Tensor:
    """base + the sum of weighted task vectors, where at least `agree` experts need it."""
    weighted = consensus.weigh(experts - base, weight)
    total = consensus.total(experts - base, weight)
    rest = consensus.weigh(total - weighted, tall).abs_()
    needed_by = (weighted.abs_() > rest).sum(0)
    return total.mul_(needed_by >= agree).add_(base)
