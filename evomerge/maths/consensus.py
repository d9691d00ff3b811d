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


def elected(weighted: torch.Tensor, majority: float) -> torch.Tensor:
    """The sign of the total mass of each entry (*S); where it is zero, that of the whole pool.

    A pool without a majority elects the negative sign, as the authors' code does.
    """
    sign = torch.sign(mass(weighted))
    return torch.where(sign == 0, 1.0 if majority > 0 else -1.0, sign)


def disjoint(
    weighted: torch.Tensor, weight: torch.Tensor, sign: torch.Tensor | None, reducer: str
) -> torch.Tensor:
    """Reduce the entries (K, *S) that agree with `sign` (None: all that are not zero) to (*S).

    reducer: `sum`; `mean`, divided by the |weight| of the entries that take part (1 if none), so
    that a negative weight keeps its sign; `max`, the largest magnitude.
    """
    takes_part = weighted != 0 if sign is None else weighted * sign > 0
    chosen = torch.where(takes_part, weighted, 0.0)
    if reducer == "max":
        largest = chosen.abs().max(dim=0)
        return chosen.gather(0, largest.indices.unsqueeze(0))[0]
    total = mass(chosen)
    if reducer == "sum":
        return total
    divisor = mass(weigh(takes_part.to(weighted.dtype), weight.abs()))
    return total / torch.where(divisor == 0, 1.0, divisor)
