"""Singular values of matrices, by the eigenvalues of the smaller Gram matrix, in float64.

A float32 matrix has about seven digits, its Gram matrix in float64 fifteen: singular values down
to `CUTOFF` of the largest are found, and what is below is the rounding of the inputs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

CUTOFF = 1e-5


class Factors(NamedTuple):
    """left (m, k), values (k,) descending, right (n, k): left diag(values) right^T."""

    left: torch.Tensor
    values: torch.Tensor
    right: torch.Tensor

    def product(self, values: torch.Tensor | None = None) -> torch.Tensor:
        return (self.left * (self.values if values is None else values)) @ self.right.mT

    def first(self, k: int) -> Factors:
        return Factors(self.left[:, :k], self.values[:k], self.right[:, :k])


def svd(matrix: torch.Tensor) -> Factors:
    """All min(m, n) singular triples of (m, n), in float64; those below `CUTOFF` are zero."""
    wide = matrix.shape[0] < matrix.shape[1]
    tall = (matrix.mT if wide else matrix).double()
    values, right = _spectrum(tall)
    there = values > 0
    right = right * there
    left = tall @ (right / torch.where(there, values, 1.0))
    return Factors(right, values, left) if wide else Factors(left, values, right)


def polar(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest matrix with orthonormal columns (or rows), A (A^T A)^(-1/2), float64.

    Directions that `matrix` does not have stay zero.
    """
    factors = svd(matrix)
    return factors.left @ factors.right.mT


def isotropic(matrix: torch.Tensor, share: float) -> torch.Tensor:
    """A matrix (m, n), its singular values `flattened` by `share`; float64.

    The matrix times a function of its smaller Gram matrix: vectors of one side are enough.
    """
    wide = matrix.shape[0] < matrix.shape[1]
    tall = (matrix.mT if wide else matrix).double()
    values, vectors = _spectrum(tall)
    gains = flattened(values, share) / torch.where(values > 0, values, 1.0)
    changed = tall @ ((vectors * gains) @ vectors.mT)
    return changed.mT if wide else changed


def _spectrum(tall: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Singular values (n,), descending, and right vectors (n, n) of (m, n) in float64."""
    squares, right = torch.linalg.eigh(tall.mT @ tall)
    values = squares.flip(0).clamp(min=0.0).sqrt()
    return values * (values > values[:1] * CUTOFF), right.flip(1)


def spectral_concat(
    task_vectors: torch.Tensor,
    k_common: int,
    k_task: int,
    *,
    orthogonalise: bool = True,
    flatten: float = 0.0,
) -> torch.Tensor:
    """One matrix (m, n), float64, from the leading singular directions of (K, m, n).

    The `k_common` first triples of the sum, and the `k_task` first triples of each task vector
    after the common left directions are taken out of it. Both sides of all triples together are
    made orthonormal if asked for; values s become (1 - flatten) s + flatten mean(s), the mean
    over those that are not zero. (r, 0) with flatten 1 is Iso-C, (0, r / K) with flatten 0
    TSV-M, both counts with flatten 1 Iso-CTS; (r, 0) with flatten 0 is the sum.
    """
    parts = []
    if k_common:
        parts.append(svd(task_vectors.double().sum(0)).first(k_common))
    for one in task_vectors.double() if k_task else ():
        rest = one - parts[0].left @ (parts[0].left.mT @ one) if k_common else one
        parts.append(svd(rest).first(k_task))
    joined = orthonormal(parts) if orthogonalise else join(parts)
    return joined.product(flattened(joined.values, flatten))


def join(parts: list[Factors]) -> Factors:
    """Triples side by side, in their order; of more than min(m, n) the largest ones."""
    left, values, right = (torch.cat(each, dim=-1) for each in zip(*parts, strict=True))
    kept = largest(values, min(len(left), len(right)))
    return Factors(left[:, kept], values[kept], right[:, kept])


def orthonormal(parts: list[Factors]) -> Factors:
    """Triples side by side, their vectors replaced by the nearest orthonormal ones."""
    joined = join(parts)
    if len(parts) == 1:
        return joined
    return Factors(polar(joined.left), joined.values, polar(joined.right))


def largest(values: torch.Tensor, count: int) -> torch.Tensor:
    """Indices, ascending, of the `count` largest of `values` (k,); the earlier of equal ones."""
    return values.argsort(descending=True, stable=True)[:count].sort().values


def flattened(values: torch.Tensor, share: float) -> torch.Tensor:
    """Values (k,) moved by `share` of the way to their mean; those that are zero stay zero."""
    there = values > 0
    mean = values.sum() / there.sum().clamp(min=1)
    return (values + share * (mean - values)) * there


def rank_of_mass(values: torch.Tensor, share: float) -> int:
    """How many of `values` (k,), descending, reach `share` of their sum: at least 1."""
    reached = values.double().cumsum(0) < share * values.double().sum() * (1 - 1e-9)
    return min(int(reached.sum()) + 1, len(values))
