"""Sign election among task vectors (Yadav et al. 2023, TIES-Merging, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def weigh(task_vectors: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted task vectors: (K, *S) times (K,)."""
    return task_vectors * weight.view(-1, *[1] * (task_vectors.dim() - 1))


def mass(weighted: torch.Tensor) -> torch.Tensor:
    """Sum over experts (*S), added in their order so that tiles give the same bits."""
    total = weighted[0].clone()
    for row in weighted[1:]:
        total += row
    return total


def variance(task_vectors: torch.Tensor) -> torch.Tensor:
    """Variance over the K experts of each entry (*S), divided by K."""
    spread = task_vectors - mass(task_vectors) / len(task_vectors)
    return mass(spread.square_()) / len(task_vectors)


def total(task_vectors: torch.Tensor, weight: torch.Tensor | Sequence[float]) -> torch.Tensor:
    """sum_k w_k x_k (*S) of (K, *S) and (K,), added in the experts' order."""
    first, *others = weight.tolist() if isinstance(weight, torch.Tensor) else weight
    summed: torch.Tensor = task_vectors[0] * first
    for row, one in zip(task_vectors[1:], others, strict=True):
        summed.add_(row, alpha=one)
    return summed


def mean(tensors: torch.Tensor, share: Sequence[float]) -> torch.Tensor:
    """sum_k s_k x_k (*S) of (K, *S), for K shares >= 0 that sum to 1: exactly x where all x_k = x.

    As a running mean, m_k = m_(k-1) + s_k / (s_1 + ... + s_k) (x_k - m_(k-1)).
    """
    found: torch.Tensor | None = None
    before = 0.0
    for row, one in zip(tensors, share, strict=True):
        if one:
            before += one
            found = row.clone() if found is None else found.lerp_(row, one / before)
    return torch.zeros_like(tensors[0]) if found is None else found


def elected(task_vectors: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The sign of the weighted mass of each entry (*S): 0 where the experts balance exactly."""
    return total(task_vectors, weight).sign_()


def disjoint(
    task_vectors: torch.Tensor, weight: torch.Tensor, sign: torch.Tensor, reducer: str
) -> torch.Tensor:
    """Reduce those entries w_k x_k of (K, *S) that have the elected `sign` (*S) to (*S).

    reducer: `sum`; `mean`, divided by the |weight| of the entries that take part (1 if none), so
    that a negative weight keeps its sign; `max`, the largest magnitude.
    """
    merged, divisor = torch.zeros_like(sign), torch.zeros_like(sign)
    agrees = torch.empty_like(sign)
    for row, one in zip(task_vectors, weight.tolist(), strict=True):
        torch.mul(row, sign, out=agrees)  # of the sign of its weight, or set to 0
        agrees.clamp_(max=0.0) if one < 0 else agrees.clamp_(min=0.0)
        if reducer == "max":
            torch.maximum(merged, agrees.mul_(one), out=merged)
            continue
        merged.add_(agrees, alpha=one)
        if reducer == "mean":
            divisor.add_(agrees.ne_(0.0), alpha=abs(one))
    if reducer == "mean":  # where nothing takes part, 0 by the smallest number is 0
        merged.div_(divisor.clamp_(min=torch.finfo(divisor.dtype).tiny))
    return merged.mul_(sign)
