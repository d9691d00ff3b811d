"""STAR: cut off small singular values, rescale the rest, average (Lee et al. 2025).

Of each task vector the fewest singular triples are kept that make up the share `eta` of its
nuclear norm, and are rescaled to all of it. Bases and singular values are prepared once; a
candidate is two products of matrices an expert.

`vectors` says what happens to other tensors than matrices: the weighted mean as in the authors'
code, the sum, or nothing. Embedding and head count as vectors unless `embeddings` is `yes`.
"""

from __future__ import annotations

from typing import Any

import torch

from evomerge.genome import MATRICES, Gene
from evomerge.layers import Place
from evomerge.maths import combine, spectral

VERSION = 2
GENES = (
    Gene("weight", -1.0, 2.0, default=1.0, per_expert=True, seeds=(0.3, 0.5, 0.7, 1.0, 1.5)),
    Gene("eta", 0.05, 1.0, default=0.4),
    *MATRICES,
)


def scope(genes: dict[str, Any], place: Place) -> str:
    return "tensor" if place.is_matrix(genes["embeddings"] == "yes") else "tile"


def prepares(genes: dict[str, Any], place: Place) -> bool:
    return place.is_matrix(genes["embeddings"] == "yes")


def prepare(
    base: torch.Tensor, experts: torch.Tensor, stats: Any, place: Place
) -> dict[str, torch.Tensor]:
    """Singular `values` (K, r) and `basis` (K, r, r), the vectors of the smaller side."""
    values, bases = [], []
    for one in experts - base:
        factors = spectral.svd(one)
        values.append(factors.values)
        bases.append(factors.right if len(factors.right) == len(factors.values) else factors.left)
    return {"values": torch.stack(values), "basis": torch.stack(bases).float()}


def merge(
    base: torch.Tensor,
    experts: torch.Tensor,
    *,
    stats: Any,
    place: Place,
    weight: torch.Tensor,
    eta: float,
    vectors: str,
    embeddings: str,
    **_: Any,
) -> torch.Tensor:
    """base + the mean of weighted, truncated and rescaled task vectors."""
    if not place.is_matrix(embeddings == "yes"):
        return combine.pick(base, experts - base, weight, vectors)
    wide = place.shape[0] < place.shape[1]
    merged = torch.zeros_like(base)
    for i, task_vector in enumerate(experts - base):
        values = stats["values"][i]
        rank = spectral.rank_of_mass(values, eta)
        basis = stats["basis"][i, :, :rank]
        gain = float(values.sum() / values[:rank].sum().clamp(min=torch.finfo(values.dtype).tiny))
        factor = weight[i] * gain / len(experts)
        if wide:
            merged += factor * (basis @ (basis.mT @ task_vector))
        else:
            merged += factor * (task_vector @ basis) @ basis.mT
    return base + merged
