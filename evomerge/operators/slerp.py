"""Spherical interpolation of two experts (Shoemake 1985), each tensor as one vector.

Lengths are not normalised: with an angle w between W_1 and W_2 the result is
(sin((1 - t) w) W_1 + sin(t w) W_2) / sin w. mergekit takes the straight line where |cos w| >
0.9995, which is the rule for `weights` of models with a common base; with `compat: paper` that
happens only where the sine vanishes, or where one of the two is zero.
"""

from __future__ import annotations

from typing import Any

import torch

from evomerge.genome import COMPAT, SPHERE_OF, Gene
from evomerge.layers import Place
from evomerge.maths import combine

VERSION = 2
EXPERTS = (2, 2)
GENES = (
    Gene("t", 0.0, 1.0, default=0.5, seeds=(0.25, 0.5, 0.75)),
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
    t: float,
    of: str,
    compat: str,
    place: Place,
    **_: Any,
) -> torch.Tensor:
    """The point at `t` of the way from the first expert (0) to the second (1)."""
    shift = float(place.offset and compat == "paper")
    products = combine.inner_products(stats["scales" if shift else "gram"], of)
    linear_above = 0.9995 if compat == "mergekit" else 1 - 1e-12
    if compat == "paper" and not products.diagonal().all():
        linear_above = -1.0
    coefficients = combine.slerp(products, t, linear_above)
    return combine.add(base, experts, combine.on_base(coefficients, of), shift)
