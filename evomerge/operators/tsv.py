"""TSV-Merge: orthogonalised singular vectors of all tasks (Gargiulo et al. 2025, TSV-M).

Each task vector keeps its k = max(1, r // K) largest of r = min(m, n) singular triples; the left
and the right vectors of all tasks together are replaced by the nearest orthonormal ones. Weights
multiply the singular values, so that everything else is prepared once.

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
    *MATRICES,
)


def scope(genes: dict[str, Any], place: Place) -> str:
    return "tensor" if place.is_matrix(genes["embeddings"] == "yes") else "tile"


def prepares(genes: dict[str, Any], place: Place) -> bool:
    return place.is_matrix(genes["embeddings"] == "yes")


def prepare(
    base: torch.Tensor, experts: torch.Tensor, stats: Any, place: Place
) -> dict[str, torch.Tensor]:
    """Orthonormal `left` (m, J) and `right` (n, J), `values` (J, K) in their expert's column."""
    k = max(1, min(place.shape) // len(experts))
    parts = [spectral.svd(one).first(k) for one in experts - base]
    joined = spectral.orthonormal(parts)
    values = torch.zeros(len(parts), k, len(parts), dtype=torch.float64, device=base.device)
    for i, part in enumerate(parts):
        values[i, :, i] = part.values
    values = values.view(-1, len(parts))
    kept = spectral.largest(values.sum(1), min(place.shape))
    found = {"left": joined.left, "right": joined.right, "values": values[kept]}
    return {name: value.float() for name, value in found.items()}


def merge(
    base: torch.Tensor,
    experts: torch.Tensor,
    *,
    stats: Any,
    place: Place,
    weight: torch.Tensor,
    vectors: str,
    embeddings: str,
    **_: Any,
) -> torch.Tensor:
    """base + left diag(values @ weight) right^T."""
    if not place.is_matrix(embeddings == "yes"):
        return combine.pick(base, experts - base, weight, vectors)
    factors = spectral.Factors(stats["left"], stats["values"] @ weight, stats["right"])
    return base + factors.product()
