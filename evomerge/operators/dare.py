"""DARE: drop task-vector entries at random and rescale the rest (Yu et al. 2024, section 3.2).

mergekit rescales to the L1 norm that a task vector has in the whole tensor, which is close to the
inverse density in large tensors only, and sums where signs are elected.
"""

from __future__ import annotations

from typing import Any

import torch

from evomerge.genome import COMPAT, Gene
from evomerge.layers import Place
from evomerge.maths import consensus, mergekit
from evomerge.maths.counter_rng import Noise

VERSION = 3
GENES = (
    Gene("weight", -1.0, 1.5, default=0.3, per_expert=True, seeds=(0.1, 0.2, 0.3, 0.5, 1.0)),
    Gene("density", 1 / 256, 1.0, default=26 / 256, step=1 / 256),
    Gene("rescale", default="inverse", choices=("inverse", "none"), level="model", searched=False),
    Gene("elect", default="none", choices=("none", "mass"), level="model", searched=False),
    COMPAT,
)


def scope(genes: dict[str, Any], place: Place) -> str:
    return "tensor" if genes["compat"] == "mergekit" else "tile"


def merge(
    base: torch.Tensor,
    experts: torch.Tensor,
    *,
    rng: Noise,
    weight: torch.Tensor,
    density: float,
    rescale: str,
    elect: str,
    compat: str,
    **_: Any,
) -> torch.Tensor:
    """base + sum_k w_k m_k (W_k - base) / density, m_k kept with probability `density`.

    Unbiased: the mean over seeds is task arithmetic. With `elect: mass` the disjoint mean of
    TIES takes the place of the sum.
    """
    task_vectors = experts - base
    kept = task_vectors.clone() if compat == "mergekit" else task_vectors
    for row, drawn in zip(kept, rng.rows(kept), strict=True):  # one at a time stays in a cache
        row.mul_(drawn.lt_(density))
    if compat == "mergekit":
        kept = mergekit.rescale(kept, task_vectors) if rescale == "inverse" else kept
        return base + mergekit.reduce(kept, weight, elect=elect == "mass", normalize=False)
    scale = 1 / density if rescale == "inverse" else 1.0
    if elect == "none":
        return torch.add(base, consensus.total(kept, weight), alpha=scale)
    merged = consensus.disjoint(kept, weight, consensus.elected(kept, weight), "mean")
    return torch.add(base, merged, alpha=scale)
