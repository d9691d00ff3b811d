"""Iso-CTS: common and task-specific directions, all alike (Marczak et al. 2025).

Of r = min(m, n) directions the share `common` is the sum's, and each task adds an equal number of
its own from what is left of its task vector; all are made orthonormal and get the mean of their
singular values, or move there by `flatten`. The counts are those of the authors' code.

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
    Gene("common", 0.0, 1.0, default=0.8),
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
    common: float,
    flatten: float,
    vectors: str,
    embeddings: str,
    **_: Any,
) -> torch.Tensor:
    """base + common and task directions of the weighted task vectors."""
    if not place.is_matrix(embeddings == "yes"):
        return combine.pick(base, experts - base, weight, vectors)
    weighted = consensus.weigh(experts - base, weight)
    k_common, k_task = counts(min(place.shape), len(experts), common)
    merged = spectral.spectral_concat(weighted, k_common, k_task, flatten=flatten)
    return base + merged.float()


def counts(rank: int, experts: int, common: float) -> tuple[int, int]:
    """How many directions are common, and how many each task adds; all together `rank`."""
    each = round((rank - int(common * rank)) / experts)
    each = min(each, rank // experts)
    return rank - each * experts, each
