"""What mergekit 0.1.5 computes where it differs from the papers (Goddard et al. 2024).

For the operators' gene `compat: mergekit`, tensor by tensor; the authors' formulas are elsewhere.
"""

from __future__ import annotations

import torch

from evomerge.maths import consensus


def keep(task_vectors: torch.Tensor, density: float, gamma: float | None = None) -> torch.Tensor:
    """Keep floor(density d), of all d entries of each expert (K, *S), below the floor(gamma d)
    largest; fewer are left out where the density asks for more. At density 1 nothing happens.

    Without `gamma` none are left out, and at least one is kept.
    """
    d = task_vectors[0].numel()
    if density >= 1 or d == 0:
        return task_vectors
    kept = int(density * d) if gamma is not None else max(1, int(density * d))
    flat = task_vectors.reshape(len(task_vectors), -1)
    order = flat.abs().argsort(dim=1)
    lowest = max(0, d - kept - int((gamma or 0.0) * d))
    chosen = order[:, lowest : lowest + kept]
    mask = torch.zeros_like(flat).scatter_(1, chosen, 1.0)
    return (flat * mask).view_as(task_vectors)


def rescale(kept: torch.Tensor, task_vectors: torch.Tensor) -> torch.Tensor:
    """Give each expert's kept entries (K, *S) the L1 norm that all its entries have."""
    before = task_vectors.abs().flatten(1).sum(1)
    after = kept.abs().flatten(1).sum(1)
    factor = torch.where((before < 1e-7) | (after < 1e-7), 1.0, before / after)
    return consensus.weigh(kept, factor)


def reduce(
    task_vectors: torch.Tensor, weight: torch.Tensor, *, elect: bool, normalize: bool
) -> torch.Tensor:
    """Weighted sum (*S) of task vectors (K, *S), of those that agree with the sign if `elect`.

    A sum of exactly 0 elects the positive sign. Normalised, it is divided by the sum of the
    weights that take part, signs and all.
    """
    weighted = consensus.weigh(task_vectors, weight)
    agrees = torch.ones_like(weighted)
    if elect:
        sign = torch.where(consensus.mass(weighted) >= 0, 1.0, -1.0)
        agrees = (weighted.sign() == sign).to(weighted.dtype)
    total = consensus.mass(weighted * agrees)
    if not normalize:
        return total
    divisor = consensus.mass(consensus.weigh(agrees, weight))
    nothing = divisor == 0 if elect else divisor.abs() < 1e-8
    return total / divisor.masked_fill(nothing, 1.0)


def sce(task_vectors: torch.Tensor, share: float, *, erase: bool) -> torch.Tensor:
    """SCE's merged task vector (*S) of the selected entries of (K, *S).

    Selected are the floor(share nonzero) of largest variance. Coefficients are mean squares,
    equal ones where these sum to less than 1e-6; divisors are at least 1e-6.
    """
    if share < 1:
        variance = task_vectors.var(dim=0, unbiased=False)
        kept = int(torch.count_nonzero(variance) * share)
        chosen = variance.flatten().topk(kept).indices
        mask = torch.zeros_like(variance).flatten().scatter_(0, chosen, 1.0)
        task_vectors = task_vectors * mask.view_as(variance)
    energy = task_vectors.square().flatten(1).mean(1)
    if energy.sum() < 1e-6:
        energy = torch.ones_like(energy)
    weighted = consensus.weigh(task_vectors, energy / energy.sum())
    if not erase:
        return consensus.mass(weighted)
    sign = torch.where(consensus.mass(task_vectors) >= 0, 1.0, -1.0)
    agrees = (task_vectors.sign() == sign).to(weighted.dtype)
    divisor = consensus.mass(consensus.weigh(agrees, energy / energy.sum()))
    return consensus.mass(weighted * agrees) / divisor.clamp(min=1e-6)
