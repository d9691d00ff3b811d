"""Model Breadcrumbs: leave out the largest and the small entries (Davari and Belilovsky 2024).

As in the authors' code, in each row the floor(gamma n) largest of n magnitudes are left out and
the floor(density n) next ones are kept, at least one. mergekit selects in the whole tensor, counts
`density` from what is left if the two do not fit together, and takes everything at density 1.
"""

from __future__ import annotations

from typing import Any

import torch

from evomerge.genome import COMPAT, Gene
from evomerge.layers import Place
from evomerge.maths import consensus, mergekit, sparsify

VERSION = 2
GENES = (
    Gene("weight", -1.0, 1.5, default=0.3, per_expert=True, seeds=(0.1, 0.2, 0.3, 0.5, 1.0)),
    Gene("density", 1 / sparsify.GRID, 1.0, default=38 / sparsify.GRID, step=1 / sparsify.GRID),
    Gene("gamma", 0.0, 0.05, default=0.01),
    Gene("elect", default="none", choices=("none", "mass"), level="model", searched=False),
    Gene(
        "threshold_scope", default="row", choices=("row", "tensor"),
        level="model", searched=False,
    ),
    COMPAT,
)  # fmt: skip


def scope(genes: dict[str, Any], place: Place) -> str:
    whole = genes["compat"] == "mergekit" or genes["threshold_scope"] == "tensor"
    return "tensor" if whole else "row"


def merge(
    base: torch.Tensor,
    experts: torch.Tensor,
    *,
    weight: torch.Tensor,
    density: float,
    gamma: float,
    elect: str,
    threshold_scope: str,
    compat: str,
    **_: Any,
) -> torch.Tensor:
    """base + weighted sum of the entries that are kept; `elect: mass`, of those that agree."""
    task_vectors = experts - base
    if compat == "mergekit":
        kept = mergekit.keep(task_vectors, density, gamma)
        mass = elect == "mass"
        return base + mergekit.reduce(kept, weight, elect=mass, normalize=False)
    if threshold_scope == "tensor":
        flat = task_vectors.view(len(task_vectors), -1)
        kept = sparsify.band_rows(flat, density, gamma).view_as(task_vectors)
    else:
        kept = sparsify.band_rows(task_vectors, density, gamma)
    if elect == "none":
        return consensus.total(kept, weight).add_(base)
    sign = consensus.elected(kept, weight)
    return consensus.disjoint(kept, weight, sign, "sum").add_(base)
