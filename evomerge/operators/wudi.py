"""WUDI: the update that interferes least with all task vectors (Cheng et al. 2025).

The minimum over M of sum_k |(M - w_k D_k) D_k^T|^2 / |D_k|^2, plus a ridge towards the weighted
sum M_0, in closed form: M = (sum_k w_k D_k G_k + r M_0) (sum_k G_k + r I)^-1, where
G_k = D_k^T D_k / |D_k|^2. The authors take 300 small steps from M_0 and stop short of the minimum,
for which `ridge` stands here; r is `ridge` times the mean eigenvalue of sum_k G_k.

`vectors` says what happens to other tensors than matrices: the weighted mean as in the authors'
code, the sum, or nothing. Embedding and head count as vectors unless `embeddings` is `yes`.
"""

from __future__ import annotations

from typing import Any

import torch

from evomerge.genome import MATRICES, Gene
from evomerge.layers import Place
from evomerge.maths import combine, consensus

VERSION = 2
GENES = (
    Gene("weight", -1.0, 2.0, default=1.0, per_expert=True, seeds=(0.3, 0.5, 0.7, 1.0, 1.5)),
    Gene("ridge", 1e-6, 1.0, default=0.01, searched=False),
    *MATRICES,
)


def scope(genes: dict[str, Any], place: Place) -> str:
    return "tensor" if place.is_matrix(genes["embeddings"] == "yes") else "tile"


def merge(
    base: torch.Tensor,
    experts: torch.Tensor,
    *,
    place: Place,
    weight: torch.Tensor,
    ridge: float,
    vectors: str,
    embeddings: str,
    **_: Any,
) -> torch.Tensor:
    """base + the solution of the normal equations, in float64."""
    if not place.is_matrix(embeddings == "yes"):
        return combine.pick(base, experts - base, weight, vectors)
    task_vectors = (experts - base).double()
    weighted = consensus.weigh(task_vectors, weight)
    k, n = len(experts), place.shape[1]
    gram = task_vectors.new_zeros(n, n)
    target = task_vectors.new_zeros(base.shape)
    for task_vector, scaled in zip(task_vectors, weighted, strict=True):
        squares = task_vector.square().sum()
        own = task_vector.mT @ task_vector / torch.where(squares > 0, squares, 1.0)
        gram += own
        target += scaled @ own
    ridge *= k / n
    gram.diagonal().add_(ridge)
    target += ridge * consensus.mass(weighted)
    factor = torch.linalg.cholesky(gram)
    return base + torch.cholesky_solve(target.mT, factor).mT.float()
