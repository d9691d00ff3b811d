"""How several objectives become one number, for strategies that can only lower one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from evomerge import errors
from evomerge.maths import pareto


def weightings(
    weights: Sequence[Sequence[float]] | None, objectives: int, strategy: str
) -> npt.NDArray[np.float64]:
    """Weight vectors (J, M), each summing to 1: those given, or all equal and one leaning to each.

    Raises RecipeError at `strategy`'s option `weights` where they are none.
    """
    if weights is None:
        return pareto.weight_vectors(objectives)
    try:
        rows = np.array(weights, dtype=np.float64)
    except (TypeError, ValueError):
        rows = np.empty(0)
    if (
        rows.ndim != 2
        or rows.shape[1] != objectives
        or not len(rows)
        or not np.isfinite(rows).all()
        or (rows < 0).any()
        or not (rows.sum(axis=1) > 0).all()
    ):
        raise errors.RecipeError(
            f"strategy.{strategy}.weights: got {weights!r}, expected lists of {objectives} numbers"
            " >= 0, not all zero"
        )
    return np.asarray(rows / rows.sum(axis=1, keepdims=True))
