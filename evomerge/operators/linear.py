"""Weighted mean of the experts (Wortsman et al. 2022, Model soups).

mergekit divides by the sum of the weights, signs and all, which turns a single negative weight
positive.
"""

from __future__ import annotations

from typing import Any

import torch

from evomerge.genome import COMPAT, Gene
from evomerge.layers import Place
from evomerge.maths import consensus

VERSION = 3
GENES = (
    Gene("weight", -0.5, 1.5, default=1.0, per_expert=True, seeds=(1.0,)),
    Gene("normalize", default="yes", choices=("yes", "no"), level="model", searched=False),
    COMPAT,
)


def scope(genes: dict[str, Any], place: Place) -> str:
    return "tile"


def merge(
    base: torch.Tensor,
    experts: torch.Tensor,
    *,
    weight: torch.Tensor,
    normalize: str,
    compat: str,
    **_: Any,
) -> torch.Tensor:
    """sum_k w_k W_k, divided by sum |w| unless `normalize` is `no`.

    With a negative weight it is base + sum_k w_k (W_k - base) / sum |w|, which otherwise is the
    same: it moves away from its expert. Where the divisor is zero it is taken as one.
    """
    if normalize == "no":
        return consensus.total(experts, weight)
    weights = weight.tolist()
    total = sum(weights) if compat == "mergekit" else sum(map(abs, weights))
    share = [one / (total or 1.0) for one in weights]
    if total and min(share) >= 0:
        return consensus.mean(experts, share)
    return consensus.total(experts - base, share).add_(base)
