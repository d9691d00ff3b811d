"""Iso-C: the sum of the task vectors with all its singular values alike (Marczak et al. 2025).

No task left behind: isotropic model merging with common and task-specific subspaces. With the sum
U diag(s) V^T it is mean(s) U V^T; `flatten` moves the values only a part of the way to their mean.
Directions that the sum does not have, as of low-rank updates, stay zero and do not count in the
mean; the authors' code fills them with arbitrary ones.

`vectors` says what happens to other tensors than matrices: the weighted mean as in the authors'
code, the sum, or nothing. Embedding and head count as vectors unless `embeddings` is `yes`.
"""

from __future__ import annotations

from typing import Any

import torch

from evomerge.genome import MATRICES, Gene
from evomerge.layers import Place
from evomerge.maths import combine, consensus, spectral

VERSION = 2
GENES = (
    Gene("weight", -1.0, 2.0, default=1.0, per_expert=True, seeds=(0.3, 0.5, 0.7, 1.0, 1.5)),
    Gene("flatten", 0.0, 1.0, default=1.0, searched=False),
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
    flatten: float,
    vectors: str,
    embeddings: str,
    **_: Any,
) -> torch.Tensor:
    """base + the weighted sum with its spectrum flattened."""
    if not place.is_matrix(embeddings == "yes"):
        return combine.pick(base, experts - base, weight, vectors)
    summed = consensus.total(experts - base, weight)
    return spectral.isotropic(summed, flatten).float().add_(base)
