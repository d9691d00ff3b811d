"""Weighted sums of task vectors, and the coefficients that follow from inner products alone.

Slerp, Karcher mean and Model Stock stay in the span of what they merge. So one pass over the
tensor finds the inner products, a few numbers give the coefficients, and the rest is a sum.
"""

from __future__ import annotations

import torch

from evomerge.maths import consensus

BLOCK = 4096
"""Entries that are summed at a time, whatever the number of threads."""
OPPOSED = 1e-6
"""Least 1 + cosine of two directions: nearer to opposed, rounding would choose the way."""
START = 1e-4
"""Least length of a mean of unit vectors that has a direction."""


def total(values: torch.Tensor) -> torch.Tensor:
    """Sum over the last dimension of (*S, n), in fixed blocks: the same bits everywhere."""
    whole = values.shape[-1] // BLOCK * BLOCK
    blocks = values[..., :whole].reshape(*values.shape[:-1], whole // BLOCK, BLOCK)
    return blocks.sum(-1).sum(-1) + values[..., whole:].sum(-1)


def gram(base: torch.Tensor, experts: torch.Tensor, shift: float = 0.0) -> torch.Tensor:
    """Inner products (*S, K + 1, K + 1), float64, of base + shift (*S, n) and task vectors
    (K, *S, n)."""
    vectors = torch.cat([base[None], experts - base]).double()
    vectors[0] += shift
    count = len(vectors)
    found = vectors.new_zeros((*vectors.shape[1:-1], count, count))
    for i in range(count):
        for j in range(i + 1):
            found[..., i, j] = found[..., j, i] = total(vectors[i] * vectors[j])
    return found


def spherical(base: torch.Tensor, experts: torch.Tensor, offset: bool) -> dict[str, torch.Tensor]:
    """`gram`, and for a norm that scales by 1 + w also `scales`, that of 1 + base: what lies on a
    sphere is what scales, not its difference from one."""
    found = {"gram": gram(base, experts)}
    return {**found, "scales": gram(base, experts, 1.0)} if offset else found


def add(
    base: torch.Tensor, experts: torch.Tensor, coefficients: torch.Tensor, shift: float = 0.0
) -> torch.Tensor:
    """base + c_0 (base + shift) + sum_k c_k (W_k - base): (*S, n), with coefficients (K + 1,) for
    all or (K + 1, *S, 1)."""
    shares = coefficients.to(base.dtype)
    if shares.dim() == 1:
        shares = shares.view(-1, *[1] * base.dim())
    shifted = base + shift if shift else base
    return base + shares[0] * shifted + consensus.mass((experts - base) * shares[1:])


def pick(
    base: torch.Tensor, task_vectors: torch.Tensor, weight: torch.Tensor, rule: str
) -> torch.Tensor:
    """What operators for matrices do to other tensors: base + the weighted `mean` of the task
    vectors (K, *S), divided by K, or their `sum`; or the `base` alone."""
    if rule == "base":
        return base.clone()
    share = 1 / len(task_vectors) if rule == "mean" else 1.0
    return torch.add(base, consensus.total(task_vectors, weight), alpha=share)


def inner_products(products: torch.Tensor, of: str) -> torch.Tensor:
    """(K, K) of the experts' `weights` or of their `task_vectors`, from what `gram` found."""
    own = products[1:, 1:]
    if of == "task_vectors":
        return own
    return products[0, 0] + products[0, 1:] + products[1:, :1] + own


def on_base(coefficients: torch.Tensor, of: str) -> torch.Tensor:
    """Coefficients (K,) of `weights` or of `task_vectors` as `add` takes them (K + 1,)."""
    of_base = coefficients.sum() - 1 if of == "weights" else coefficients.sum() * 0
    return torch.cat([of_base.view(1), coefficients])


def slerp(products: torch.Tensor, t: float, linear_above: float) -> torch.Tensor:
    """Coefficients (2,) of two vectors with inner products (2, 2), at `t` of the way.

    They are sin((1 - t) w) / sin w and sin(t w) / sin w for the angle w (Shoemake 1985); straight
    where |cos w| > `linear_above`. To a vector of length 0 the angle counts as a right one.
    """
    lengths = products.diagonal().sqrt()
    cosine = products[0, 1] / torch.where(lengths > 0, lengths, 1.0).prod()
    straight = products.new_tensor([1 - t, t])
    if float(cosine.abs()) > linear_above:
        return straight
    angle = torch.arccos(cosine)
    return torch.sin(straight * angle) / torch.sin(angle)


def karcher(
    products: torch.Tensor, weight: torch.Tensor, *, steps: int, tolerance: float, least: float
) -> torch.Tensor:
    """Coefficients (K,) of the weighted mean direction on the sphere, at the mean length.

    The direction u is a fixed point of u <- exp_u(sum_k a_k log_u(x_k / |x_k|)), found in at most
    `steps` (Karcher 1977), a_k = w_k / sum |w|; vectors no longer
    than `least` have no direction, and one opposed to u pulls nowhere: no way there is shortest.
    Everything happens in coordinates of the unit vectors.
    """
    lengths = products.diagonal().sqrt()
    there = lengths > least
    size = weight.abs().sum()
    if not there.any() or size == 0:
        return torch.zeros_like(lengths)
    units = products / torch.where(there, lengths, 1.0).outer(torch.where(there, lengths, 1.0))
    share = weight * there / (weight * there).abs().sum().clamp(min=torch.finfo().tiny)
    mean = _normal(share, units, max(tolerance, START))
    if mean is None:
        mean = torch.zeros_like(share)
        mean[(share != 0).int().argmax()] = 1.0
    for _ in range(steps):
        cosine = (units @ mean).clamp(-1.0, 1.0)
        angle = torch.arccos(cosine)
        apart = there & (angle > tolerance) & (1 + cosine > OPPOSED)
        pull = torch.where(apart, share * angle / torch.where(apart, torch.sin(angle), 1.0), 0.0)
        tangent = pull - (pull * cosine).sum() * mean
        length = (tangent @ units @ tangent).clamp(min=0.0).sqrt()
        if float(length) < tolerance:
            break
        mean = torch.cos(length) * mean + torch.sin(length) / length * tangent
        mean = mean / (mean @ units @ mean).sqrt()
    scale = (weight / size * lengths).sum()
    return scale * mean / torch.where(there, lengths, 1.0)


def _normal(
    coordinates: torch.Tensor, units: torch.Tensor, tolerance: float
) -> torch.Tensor | None:
    length = (coordinates @ units @ coordinates).clamp(min=0.0).sqrt()
    return None if float(length) < tolerance else coordinates / length


def stock(products: torch.Tensor, least: float) -> torch.Tensor:
    """The mean cosine (*S) between K task vectors with inner products (*S, K, K).

    Products of two lengths count as at least `least`; a task vector of length 0 is at a right
    angle to all others.
    """
    lengths = products.diagonal(dim1=-2, dim2=-1).sqrt()
    both = lengths[..., :, None] * lengths[..., None, :]
    smallest = torch.finfo(both.dtype).tiny
    cosines = (products / both.clamp(min=max(least, smallest))).clamp(-1.0, 1.0)
    k = products.shape[-1]
    i, j = torch.triu_indices(k, k, offset=1).unbind()
    return cosines[..., i, j].mean(-1)
