"""Task arithmetic: base plus weighted task vectors (Ilharco et al. 2023, eq. in section 2)."""

from __future__ import annotations

from typing import Any

import torch

from evomerge.genome import Gene
from evomerge.layers import Place
from evomerge.maths import consensus

VERSION = 2
GENES = (
    Gene(
        "weight", -1.0, 1.5, default=0.3, per_expert=True,
        seeds=(0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5),
    ),
)  # fmt: skip


def scope(genes: dict[str, Any], place: Place) -> str:
    return "tile"


def merge(
    base: torch.Tensor, experts: torch.Tensor, *, weight: torch.Tensor, **_: Any
) -> torch.Tensor:
    """base + sum_k w_k (W_k - base); a negative weight forgets its expert's task."""
    return consensus.total(experts - base, weight).add_(base)
