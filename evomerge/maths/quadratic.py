"""Quadratic surrogates: full polynomials of degree two, by least squares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def n_terms(dimension: int) -> int:
    """Coefficients of a full quadratic in D variables: (D + 1)(D + 2) / 2."""
    return (dimension + 1) * (dimension + 2) // 2


@dataclass(frozen=True)
class Quadratic:
    """`coefficients` (P, M) of M quadratics, and what each explains of points left out.

    `explained` (M,): 1 minus the squared errors of predicting every point from all others, as a
    share of those of predicting it by the mean of all others; 1 where there is nothing to explain.
    """

    coefficients: Array
    explained: Array

    def __call__(self, points: npt.ArrayLike) -> Array:
        """Values (N, M) at points (N, D)."""
        return np.asarray(terms(points) @ self.coefficients)


def terms(points: npt.ArrayLike) -> Array:
    """1, x_i, and x_i x_j with i <= j (N, P) of points (N, D)."""
    x = np.atleast_2d(np.asarray(points, dtype=np.float64))
    i, j = np.triu_indices(x.shape[1])
    return np.hstack([np.ones((len(x), 1)), x, x[:, i] * x[:, j]])


def fit(points: npt.ArrayLike, values: npt.ArrayLike) -> Quadratic:
    """Least squares on points (N, D) and values (N, M).

    Raises ValueError unless there are more points than coefficients, in general position.
    Source: errors of points left out by the hat matrix, Allen (1974), PRESS.
    """
    x, y = terms(points), np.asarray(values, dtype=np.float64)
    if len(x) <= x.shape[1] or np.linalg.matrix_rank(x) < x.shape[1]:
        raise ValueError(f"{len(x)} points do not determine {x.shape[1]} coefficients")
    q, r = np.linalg.qr(x)
    coefficients = np.linalg.solve(r, q.T @ y)
    leverage = np.minimum((q**2).sum(axis=1, keepdims=True), 1 - 1e-9)
    left_out = (((y - x @ coefficients) / (1 - leverage)) ** 2).sum(axis=0)
    spread = ((y - y.mean(axis=0)) ** 2).sum(axis=0) * (len(y) / (len(y) - 1)) ** 2
    nothing = spread <= 1e-24 * len(y)
    share = left_out / np.where(nothing, 1.0, spread)
    return Quadratic(coefficients, np.where(nothing, 1.0, 1.0 - share))
