"""Model Stock: as far from the base towards the mean as the experts' angle says.

Jang, Yun and Han 2024, Model Stock: all we need is just a few fine-tuned models.
t = K cos / (1 + (K - 1) cos), one angle a tensor, or a row with `filter_wise`. The paper assumes
one common angle; of several, cosines are averaged. Outside of [0, 1] the formula has no meaning:
experts that oppose each other leave the base. mergekit does not limit t, and takes products of
lengths as at least 1e-6.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from evomerge.genome import COMPAT, Gene
from evomerge.layers import Place
from evomerge.maths import combine

VERSION = 1
EXPERTS = (2, sys.maxsize)
GENES = (
    Gene("scale", 0.0, 2.0, default=1.0, seeds=(0.5, 1.0, 1.5)),
    Gene("filter_wise", default="no", choices=("no", "yes"), level="model", searched=False),
    COMPAT,
)


def scope(genes: dict[str, Any], place: Place) -> str:
    return "row" if genes["filter_wise"] == "yes" else "tile"


def prepares(genes: dict[str, Any], place: Place) -> bool:
    return bool(genes["filter_wise"] == "no")


def prepare(
    base: torch.Tensor, experts: torch.Tensor, stats: Any, place: Place
) -> dict[str, torch.Tensor]:
    """Inner products of base and task vectors."""
    return {"gram": combine.gram(base, experts)}


def merge(
    base: torch.Tensor,
    experts: torch.Tensor,
    *,
    stats: Any,
    scale: float,
    filter_wise: str,
    compat: str,
    **_: Any,
) -> torch.Tensor:
    """base + scale t (mean of the experts - base)."""
    products = combine.gram(base, experts) if filter_wise == "yes" else stats["gram"]
    k = len(experts)
    cosine = combine.stock(products[..., 1:, 1:], 1e-6 if compat == "mergekit" else 0.0)
    if compat == "paper":
        cosine = cosine.clamp(min=0.0)
    below = 1 + (k - 1) * cosine
    singular = below.abs() < 1e-6
    t = torch.where(singular, 0.0, k * cosine / torch.where(singular, 1.0, below))
    each = (scale * t / k).expand(k, *t.shape)
    coefficients = torch.cat([torch.zeros_like(each[:1]), each])
    return combine.add(base, experts, coefficients[..., None] if t.dim() else coefficients)
