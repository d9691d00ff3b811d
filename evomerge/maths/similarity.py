"""How alike the task vectors of experts are, from sums that add up over tiles and tensors.

Sources: sign conflicts and trimming, Yadav et al. 2023 (TIES-Merging, sections 3 and 4); subspace
alignment, Marczak et al. 2025 (No Task Left Behind, section 3); effective rank, Roy and Vetterli
2007 (The effective rank, section 2). What is undefined, such as the cosine of a zero vector, is
nan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

SHARE = 0.95
"""Share of a matrix's norm that its leading singular vectors hold, for ranks and subspaces."""

Sums = Mapping[str, torch.Tensor]


def sums(base: torch.Tensor, task_vectors: torch.Tensor, kept: torch.Tensor) -> Sums:
    """What a tile adds, in float64: base (n,), task vectors (K, n), trimming mask (K, n).

    `gram`, and for each pair the counts `both` (not zero), `conflict` (of other sign), `kept` and
    `kept_conflict` of trimmed entries, the magnitudes `net` of the pair's sum and `gross` of its
    parts: (K, K) each. `all_net`, `all_gross` of all experts, `base` (squared norm), `size`: ().
    """
    wide, sign = task_vectors.double(), task_vectors.sign()
    trimmed, size = sign * kept, task_vectors.shape[1]
    magnitude = wide.abs().sum(1)
    both, kept_both = _products(sign.abs()), _products(trimmed.abs())
    net = torch.stack([(wide + row).abs().sum(1) for row in wide])
    return {
        "gram": wide @ wide.T,
        "both": both,
        "conflict": (both - _products(sign)) / 2,
        "kept": kept_both,
        "kept_conflict": (kept_both - _products(trimmed)) / 2,
        "net": net,
        "gross": magnitude[:, None] + magnitude,
        "all_net": wide.sum(0).abs().sum(),
        "all_gross": magnitude.sum(),
        "base": base.double().square().sum(),
        "size": wide.new_tensor(float(size)),
    }


def _products(rows: torch.Tensor) -> torch.Tensor:
    """Scalar products of rows of -1, 0 and 1; float32 counts no further than 2^24."""
    return rows.double() @ rows.double().T


def pairs(found: Sums) -> dict[str, torch.Tensor]:
    """Signals of each pair of experts, (K, K), from pooled `sums`.

    cosine in [-1, 1]; distance, relative to the base's norm; sign_conflict, the share of entries
    of other sign among those that neither leaves alone; weighted_conflict, the share of magnitude
    that cancels in the pair's sum; trim_overlap, the Jaccard index of the largest entries, with
    its chance level; trimmed_conflict, the share of other signs among those in both.
    """
    gram, kept = found["gram"], found["kept"]
    squares, counts = gram.diag(), kept.diag()
    apart = (squares[:, None] + squares - 2 * gram).clamp(min=0)
    # two sets drawn at random from `size` entries; rho / (2 - rho) where both keep a share rho
    by_chance = counts[:, None] * counts / found["size"]
    return {
        "cosine": (gram / (squares[:, None] * squares).sqrt()).clamp(-1, 1),
        "distance": (apart / found["base"]).sqrt(),
        "sign_conflict": found["conflict"] / found["both"],
        "weighted_conflict": 1 - found["net"] / found["gross"],
        "trim_overlap": kept / (counts[:, None] + counts - kept),
        "trim_overlap_chance": by_chance / (counts[:, None] + counts - by_chance),
        "trimmed_conflict": found["kept_conflict"] / kept,
    }


def norms(found: Sums) -> torch.Tensor:
    """Norms of the task vectors relative to the base's, (K,)."""
    return (found["gram"].diag() / found["base"]).sqrt()


def norm_ratio(found: Sums) -> float:
    """The largest norm over the smallest; infinite where an expert is the base."""
    squares = found["gram"].diag()
    return math.sqrt(float(squares.max() / squares.min()))


def cancelled(found: Sums) -> float:
    """Share of all experts' magnitude that cancels in their sum: 0 (none) to 1 (all)."""
    return 1 - float(found["all_net"] / found["all_gross"])


class Spectrum:
    """Singular values and leading vectors of a matrix, from its Gram matrix (p, p) in float64.

    p is the smaller side: the Gram matrix of rows has the left singular vectors, that of columns
    the right ones. Values below 1e-8 of the largest are lost in the squares.
    """

    def __init__(self, gram: torch.Tensor) -> None:
        squares, vectors = torch.linalg.eigh(gram)
        self.gram = gram
        self.values = squares.flip(0).clamp(min=0).sqrt()
        share = self.values.square().cumsum(0) / self.values.square().sum()
        # nan, of a zero matrix, is never above the share: rank 0
        self.rank = int((share <= SHARE**2).sum()) + 1 if bool(share[-1] > 0) else 0
        self.leading = vectors.flip(1)[:, : self.rank]

    @property
    def effective_rank(self) -> float:
        """exp of the entropy of the singular values as shares of their sum: 1 to p."""
        shares = self.values / self.values.sum()
        return float(torch.special.entr(shares).sum().exp())


def alignment(subspace: Spectrum, matrix: Spectrum) -> tuple[float, float]:
    """How much of the norm of `matrix` lies in the leading subspace of `subspace`, in [0, 1].

    Then the level of a random subspace of as many dimensions k: sqrt(k / p).
    """
    inside = (subspace.leading.T @ matrix.gram @ subspace.leading).trace()
    share = (inside / matrix.gram.trace()).clamp(min=0).sqrt()
    return float(share), math.sqrt(subspace.rank / len(matrix.gram))


def overlap(one: Spectrum, other: Spectrum) -> tuple[float, float]:
    """|U_s^T U_t|^2 / min(k_s, k_t) of two leading subspaces, in [0, 1], and its chance level.

    1: the smaller lies in the larger. Random subspaces: max(k_s, k_t) / p.
    """
    least = min(one.rank, other.rank)
    if not least:
        return math.nan, math.nan
    common = float((one.leading.T @ other.leading).square().sum())
    return common / least, max(one.rank, other.rank) / len(one.gram)
