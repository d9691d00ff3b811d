"""Karcher mean: the weighted mean direction on the sphere, at the weighted mean length.

Karcher 1977, Riemannian center of mass and mollifier smoothing; the iteration is steepest descent
of the squared distances. mergekit's version has equal weights and stops after ten steps.
"""

from __future__ import annotations

from typing import Any

import torch

from evomerge.genome import COMPAT, SPHERE_OF, Gene
from evomerge.layers import Place
from evomerge.maths import combine

VERSION = 3
GENES = (
    Gene("weight", 0.0, 1.0, default=1.0, per_expert=True, seeds=(1.0,)),
    SPHERE_OF,
    COMPAT,
)  # fmt: skip


def scope(genes: dict[str, Any], place: Place) -> str:
    return "tile"


def prepare(
    base: torch.Tensor, experts: torch.Tensor, stats: Any, place: Place
) -> dict[str, torch.Tensor]:
    """Inner products of base and task vectors."""
    return combine.spherical(base, experts, place.offset)


def merge(
    base: torch.Tensor,
    experts: torch.Tensor,
    *,
    stats: Any,
    weight: torch.Tensor,
    of: str,
    compat: str,
    place: Place,
    **_: Any,
) -> torch.Tensor:
    """The mean of the experts' `weights`, or base + the mean of their `task_vectors`.

    All weights zero give the base. A negative weight pushes the direction away from its expert.
    """
    if not weight.any():
        return base.clone()
    shift = float(place.offset and compat == "paper")
    products = combine.inner_products(stats["scales" if shift else "gram"], of)
    if compat == "mergekit":
        equal = torch.ones_like(products[0])
        coefficients = combine.karcher(products, equal, steps=10, tolerance=1e-5, least=1e-5)
    else:
        coefficients = combine.karcher(
            products, weight.double(), steps=100, tolerance=1e-7, least=0.0
        )
    return combine.add(base, experts, combine.on_base(coefficients, of), shift)
