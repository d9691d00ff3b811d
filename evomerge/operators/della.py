"""DELLA: drop entries at random, small ones more often (Deep, Bhardwaj and Poria 2024, MAGPRUNE).

As in the authors' code: an entry of rank r of n in its row (1 is the smallest magnitude) is kept
with probability p = density - epsilon + 2 epsilon (r - 1) / (n - 1) and divided by p; then signs
are elected and the entries that agree are averaged. A vector is one row; where n = 1, p is the
density. Magnitudes are ranked by 12 significant bits, of which the authors' bfloat16 has 8.
mergekit rescales each tensor to its L1 norm instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from evomerge.genome import COMPAT, Gene
from evomerge.layers import Place
from evomerge.maths import consensus, mergekit, ranking, sparsify
from evomerge.maths.counter_rng import Noise

VERSION = 4
GENES = (
    Gene("weight", -1.0, 1.5, default=1.0, per_expert=True, seeds=(1.0,)),
    Gene("density", 1 / sparsify.GRID, 1.0, default=128 / sparsify.GRID, step=1 / sparsify.GRID),
    Gene("epsilon", 0.0, 0.4, default=0.07),
    Gene("scale", 0.0, 2.0, default=1.1, seeds=(0.5, 0.8, 1.1, 1.5)),
    Gene("elect", default="mass", choices=("mass", "none"), level="model", searched=False),
    COMPAT,
)


def scope(genes: dict[str, Any], place: Place) -> str:
    return "tensor" if genes["compat"] == "mergekit" else "row"


def prepares(genes: dict[str, Any], place: Place) -> bool:
    return _half(genes["density"], genes["epsilon"]) > 0 and (place.shape or (1,))[-1] > 1


def derive(base: torch.Tensor, experts: torch.Tensor, place: Place) -> dict[str, torch.Tensor]:
    """Ranks of magnitudes in their rows, from 0."""
    return {"ranks": ranking.rank_rows(experts, base)}


def merge(
    base: torch.Tensor,
    experts: torch.Tensor,
    *,
    stats: Any,
    rng: Noise,
    weight: torch.Tensor,
    density: float,
    epsilon: float,
    scale: float,
    elect: str,
    compat: str,
    **_: Any,
) -> torch.Tensor:
    """base + scale * mean of the entries that agree; with `elect: none`, their weighted sum."""
    ranks = stats.get("ranks", [None] * len(experts))
    if compat == "mergekit":
        kept = task_vectors = experts - base
        if density < 1:
            thinned = _thinned(base, experts, ranks, rng, density, epsilon, rescale=False)
            kept = mergekit.rescale(thinned, task_vectors)
        mass = elect == "mass"
        return base + scale * mergekit.reduce(kept, weight, elect=mass, normalize=mass)
    rescaled = _thinned(base, experts, ranks, rng, density, epsilon, rescale=True)
    if elect == "none":
        return torch.add(base, consensus.total(rescaled, weight), alpha=scale)
    sign = consensus.elected(rescaled, weight)
    merged = consensus.disjoint(rescaled, weight, sign, "mean")
    return torch.add(base, merged, alpha=scale)


def _half(density: float, epsilon: float) -> float:
    """Half of the window, which is narrowed to stay within [1/256, 1]."""
    return max(0.0, min(epsilon, 1.0 - density, density - 1 / sparsify.GRID))


def _thinned(
    base: torch.Tensor,
    experts: torch.Tensor,
    ranks: Sequence[torch.Tensor | None],
    rng: Noise,
    density: float,
    epsilon: float,
    *,
    rescale: bool,
) -> torch.Tensor:
    """Task vectors without what is dropped; with `rescale`, what is kept divided by its chance."""
    half, thinned = _half(density, epsilon), torch.empty_like(experts)
    rows = zip(experts, thinned, ranks, rng.rows(experts), strict=True)
    for expert, row, rank, drawn in rows:  # one expert at a time stays in a cache
        if rank is None:
            chance = torch.full_like(row, density)
        else:
            lowest = torch.tensor(density - half, device=row.device)
            chance = rank.to(row.dtype)
            torch.add(lowest, chance, alpha=2 * half / (row.shape[-1] - 1), out=chance)
        torch.sub(expert, base, out=row)
        row.mul_(drawn.lt_(chance))
        if rescale:
            row.div_(chance)
    return thinned
