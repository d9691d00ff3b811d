"""What is better when several losses are traded off; every loss is minimised.

Dominance and hypervolume are those of moocore (Fonseca, Paquete and Lopez-Ibanez, 2006; where
that takes too long, Deng and Zhang, 2019).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeGuard

import moocore
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

EXACT = 6, 40
"""Objectives and rows up to which either makes a hypervolume exact: with ten objectives a hundred
rows take half a minute, and each twenty more five times as long."""
SAMPLES, METHOD = 2**13, "DZ2019-HW"
"""Directions in which it is estimated beyond, the same each time; within two hundredths."""


def comparable(asked: Mapping[int, int | None]) -> set[int]:
    """Which to compare, by how many items were asked of each (None: no number): those of whom
    most were, and those without a number, as points are that a run begins with. Fewer items are
    noisier, so that the best on them are those that were lucky."""
    most = max((items for items in asked.values() if items is not None), default=None)
    return {id for id, items in asked.items() if items is None or items == most}


def nondominated(losses: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """True (N,) for the rows of losses (N, M) that no other row dominates.

    Equal rows are kept all; a row with a number that is not finite is never kept.
    """
    rows = np.atleast_2d(np.asarray(losses, dtype=np.float64))
    keep = np.asarray(np.isfinite(rows).all(axis=1))
    if keep.any():
        if rows.shape[1] == 1:
            keep &= rows[:, 0] == rows[keep, 0].min()
        else:
            keep[keep] = moocore.is_nondominated(rows[keep], keep_weakly=True)
    return keep


def hypervolume(losses: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """The volume that losses (N, M) dominate below the reference, a number or (M,); of many
    losses in many objectives an estimate.

    Rows that are not finite or not below the reference in every objective count for nothing,
    and never reach the library: infinities make such code hang or crash.
    """
    rows = np.atleast_2d(np.asarray(losses, dtype=np.float64))
    corner = np.broadcast_to(np.asarray(reference, dtype=np.float64), rows.shape[1:])
    inside = rows[np.isfinite(rows).all(axis=1) & (rows < corner).all(axis=1)]
    if not inside.size:
        return 0.0
    if rows.shape[1] == 1:
        return float(corner[0] - inside.min())
    if rows.shape[1] > EXACT[0] and len(inside) > EXACT[1]:
        return float(moocore.hv_approx(inside, ref=corner, nsamples=SAMPLES, method=METHOD))
    return float(moocore.hypervolume(inside, ref=corner))


def knee(losses: npt.ArrayLike) -> int:
    """The row of losses (N, M) that bulges furthest below the plane through the extremes.

    The front is scaled to its own range; extremes are the best rows of each objective. With one
    objective it is the best row. Raises ValueError without a finite row.
    Source: Das (1999), On characterizing the "knee" of the Pareto curve.
    """
    rows = np.atleast_2d(np.asarray(losses, dtype=np.float64))
    front = np.flatnonzero(nondominated(rows))
    if not len(front):
        raise ValueError("no finite row")
    low, high = rows[front].min(axis=0), rows[front].max(axis=0)
    scaled = (rows[front] - low) / np.where(high > low, high - low, 1.0)
    normal = _plane(scaled[scaled.argmin(axis=0)])
    return int(front[np.argmin(scaled @ normal)])


def _plane(extremes: Array) -> Array:
    """The direction (M,) across the plane through M points; all ones where there is no such."""
    ones = np.ones(len(extremes))
    if np.linalg.matrix_rank(extremes) < len(extremes):
        return ones
    normal = np.asarray(np.linalg.solve(extremes, ones))
    return normal if (normal > 0).all() else ones


def scalarise(losses: npt.ArrayLike, weights: npt.ArrayLike, rho: float = 0.05) -> Array:
    """One loss (N,) per row of losses (N, M): max(weights * losses) + rho * sum(losses).

    The optimum is nondominated for any weights, and any nondominated row above zero is the
    optimum for some, also where the front is not convex.
    Source: augmented weighted Tchebycheff, Steuer and Choo (1983).
    """
    rows = np.asarray(losses, dtype=np.float64)
    weighted = (rows * np.asarray(weights, dtype=np.float64)).max(axis=-1)
    return np.asarray(weighted + rho * rows.sum(axis=-1))


def weight_vectors(objectives: int) -> Array:
    """Weights (J, M) that sum to 1: all equal, then one half way towards each objective."""
    equal = np.full((1, objectives), 1.0 / objectives)
    if objectives == 1:
        return equal
    return np.concatenate([equal, (equal + np.eye(objectives)) / 2])


def measured(losses: Sequence[float] | None) -> TypeGuard[Sequence[float]]:
    """There are losses, and all are finite; anything else is a failed candidate."""
    return losses is not None and bool(np.isfinite(losses).all())


def filled(losses: Sequence[float] | None, objectives: int, otherwise: float) -> Array:
    """The losses (M,), or `otherwise` everywhere if the candidate has failed."""
    if not measured(losses):
        return np.full(objectives, otherwise)
    return np.asarray(losses, dtype=np.float64)
