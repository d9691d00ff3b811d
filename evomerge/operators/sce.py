"""SCE: select, calculate, erase (Wan et al. 2024, FuseChat).

Of the entries in which the experts differ the share `density` of largest variance is selected;
an expert's coefficient is its part of the squares there; entries whose sign is not the elected one
are erased. As in the authors' code the selection gives the coefficients alone: the merge is of all
entries. mergekit merges the selected entries only. At density 1 without erasing it is FuseChat's
first fusion method, VaRM, for each tensor.
"""

from __future__ import annotations

from typing import Any

import torch

from evomerge.genome import COMPAT, Gene
from evomerge.layers import Place
from evomerge.maths import consensus, mergekit, sparsify

VERSION = 2
GENES = (
    Gene("density", 1 / sparsify.GRID, 1.0, default=26 / sparsify.GRID, step=1 / sparsify.GRID),
    Gene("scale", 0.0, 2.0, default=1.0, seeds=(0.3, 0.5, 0.7, 1.0, 1.5)),
    Gene("erase", default="yes", choices=("yes", "no"), level="model", searched=False),
    COMPAT,
)
PASSES = sparsify.PASSES + 1


def scope(genes: dict[str, Any], place: Place) -> str:
    return "tensor" if genes["compat"] == "mergekit" else "tile"


def prepares(genes: dict[str, Any], place: Place) -> bool:
    return bool(genes["compat"] == "paper")


def prepare(
    base: torch.Tensor, experts: torch.Tensor, stats: sparsify.State | None, place: Place
) -> dict[str, torch.Tensor]:
    """Counts of the variances that are not 0; in the last pass, squares by density."""
    task_vectors = experts - base
    variance = consensus.variance(task_vectors)
    if stats is None or int(stats["passes"]) < sparsify.PASSES:
        return {"counts": sparsify.count(variance[variance > 0][None], stats)}
    column = sparsify.columns(variance, sparsify.thresholds(stats)[0])
    rows = [
        torch.bincount(column, weights=row.double().square(), minlength=sparsify.GRID + 2)
        for row in task_vectors
    ]
    return {"squares": torch.stack(rows)}


def finish(sums: sparsify.State, stats: sparsify.State | None) -> dict[str, torch.Tensor]:
    """Last of all `energy` (K, GRID + 1): an expert's squares in the entries of a density."""
    if "counts" in sums:
        return sparsify.descend(sums["counts"], stats)
    return {"energy": sums["squares"].cumsum(1)[:, :-1]}


def merge(
    base: torch.Tensor,
    experts: torch.Tensor,
    *,
    stats: Any,
    density: float,
    scale: float,
    erase: str,
    compat: str,
    **_: Any,
) -> torch.Tensor:
    """base + scale * mean of the entries that agree, weighted by the experts' parts.

    Where nothing is selected, all experts have the same part.
    """
    task_vectors = experts - base
    if compat == "mergekit":
        return base + scale * mergekit.sce(task_vectors, density, erase=erase == "yes")
    energy = stats["energy"][:, round(density * sparsify.GRID)]
    total = energy.sum()
    part = torch.where(total > 0, energy / total, 1 / len(energy)).float()
    if erase == "no":
        return torch.add(base, consensus.total(task_vectors, part), alpha=scale)
    sign = consensus.mass(task_vectors).ge_(0.0).mul_(2.0).sub_(1.0)
    merged = consensus.disjoint(task_vectors, part, sign, "mean")
    return torch.add(base, merged, alpha=scale)
