"""Layer swapping: lowest and highest layers from one side, the middle from another.

Bandarkar et al. 2024, Layer swapping for zero-shot cross-lingual transfer: the outer layers, the
embedding and the head come from a language expert, the inner ones from a task expert, and layers
at the seams are their average. Here both sides are weighted means of the experts, so that one-hot
weights are the paper's method and a search can find out who belongs where.
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
    Gene("outer", 0.0, 1.0, default=1.0, per_expert=True, level="model", seeds=(1.0,)),
    Gene("inner", 0.0, 1.0, default=1.0, per_expert=True, level="model", seeds=(1.0,)),
    Gene("bottom", 0.0, 0.5, default=5 / 32, step=1 / 64, level="model"),
    Gene("top", 0.0, 0.5, default=3 / 32, step=1 / 64, level="model"),
    Gene("seam", 0.0, 0.25, default=2 / 64, step=1 / 64, level="model"),
)


def scope(genes: dict[str, Any], place: Place) -> str:
    return "tile"


def merge(
    base: torch.Tensor,
    experts: torch.Tensor,
    *,
    place: Place,
    outer: torch.Tensor,
    inner: torch.Tensor,
    bottom: float,
    top: float,
    seam: float,
    **_: Any,
) -> torch.Tensor:
    """The mean of the experts by `outer` or `inner` weights, or half of each.

    `bottom`, `top`, `seam`: shares of the layers, rounded; each end has a seam. Tensors outside
    of all layers are outer ones. A side whose weights are all zero is the base.
    """
    share = _outer_share(place, bottom, top, seam)
    weight = share * _normalised(outer) + (1 - share) * _normalised(inner)
    return consensus.total(experts - base, weight).add_(base)


def _outer_share(place: Place, bottom: float, top: float, seam: float) -> float:
    if place.depth is None:
        return 1.0
    below, above, between = (round(part * place.layers) for part in (bottom, top, seam))
    from_below, from_above = place.depth - below, place.layers - above - 1 - place.depth
    if from_below < 0 or from_above < 0:
        return 1.0
    at_seam = (below and from_below < between) or (above and from_above < between)
    return 0.5 if at_seam else 0.0


def _normalised(weight: torch.Tensor) -> torch.Tensor:
    total = weight.abs().sum()
    return weight / torch.where(total == 0, 1.0, total)
