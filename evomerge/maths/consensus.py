"""Sign election among task vectors (Yadav et al. 2023, TIES-Merging, section 3)."""

from __future__ import annotations

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


def elected(weighted: torch.Tensor) -> torch.Tensor:
    """The sign of the total mass of each entry (*S): 0 where the experts balance exactly."""
    return torch.sign(mass(weighted))


def disjoint(
    weighted: torch.Tensor, weight: torch.Tensor, sign: torch.Tensor, reducer: str
) -> torch.Tensor:
    """Reduce the entries (K, *S) whose sign is the elected `sign` (*S) to (*S).

    reducer: `sum`; `mean`, divided by the |weight| of the entries that take part (1 if none), so
    that a negative weight keeps its sign; `max`, the largest magnitude.
    """
    chosen = (weighted * sign).relu_()  # magnitudes of those that agree, else 0
    if reducer == "max":
        return chosen.amax(dim=0) * sign
    total = mass(chosen).mul_(sign)
    if reducer == "sum":
        return total
    divisor = mass(weigh(chosen > 0, weight.abs()))
    return total / divisor.masked_fill_(divisor == 0, 1.0)
