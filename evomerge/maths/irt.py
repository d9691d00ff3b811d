"""Item response theory: an ability for each model, a slope and an intercept for each item.

P(y = 1 | theta) = sigma(a theta + b), the intercept form of the two-parameter logistic model
(2PL: Birnbaum 1968); with one slope for all items it is 1PL (Rasch 1960). Difficulty is -b / a.
Answers are 0, 1 or in between: for those in between the log-likelihood is a quasi-likelihood,
right as long as P is the mean (Papke and Wooldridge 1996). Missing cells are nan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit, logit, logsumexp

Array = npt.NDArray[np.float64]

FEW_ROWS = 30
"""Below so many models slopes of their own are noise: all items share one."""
SPREAD_OF_SLOPES, SPREAD_OF_INTERCEPTS, SPREAD_OF_LEVEL = 0.5, 2.0, 1.0
"""Standard deviations of the priors: of log a around its level, of b, and of that level."""
REACH, FINEST, COARSEST = 8.0, 0.02, 0.2
"""Nodes reach to +-8 standard deviations of ability; bounds of the distance between two."""
STEEPEST = 4.0
"""Bound of the typical slope."""
LEAST_DISPERSION = 1e-3
"""Answers that P meets exactly say something of ability, but not everything."""
INFLATION = 1.5
"""How much wider than the endpoints' spread their prior is: merges may leave their range."""


class Prior(NamedTuple):
    """A normal law of ability."""

    mean: float = 0.0
    sd: float = 1.0


POPULATION = Prior()
"""The scale of ability: mean 0 and standard deviation 1 over the models of the fit."""


@dataclass(frozen=True)
class Items:
    """Slopes and intercepts, both (I,); slopes are above 0."""

    slopes: Array
    intercepts: Array

    @property
    def difficulties(self) -> Array:
        """The abilities (I,) at which each item is answered right half of the time."""
        return -self.intercepts / self.slopes

    def probability(self, abilities: npt.ArrayLike) -> Array:
        """P (..., I) at abilities of any shape."""
        theta = np.asarray(abilities, dtype=np.float64)[..., None]
        return np.asarray(expit(theta * self.slopes + self.intercepts))

    def information(self, abilities: npt.ArrayLike) -> Array:
        """Fisher information a^2 P (1 - P) of each item, (..., I): Lord (1980), eq. 5-9."""
        p = self.probability(abilities)
        return np.asarray(self.slopes**2 * p * (1 - p))


@dataclass(frozen=True)
class Fit:
    """Items, and the abilities of the models that they were fitted to.

    `abilities` and `errors` (their standard errors) are (R,), `model` is "1PL" or "2PL".
    `dispersion` is the variance of an answer in units of P (1 - P): 1 for answers that are 0 or
    1, less for probabilities, which vary less. `converged` is the optimiser's word.
    """

    model: str
    items: Items
    abilities: Array
    errors: Array
    dispersion: float
    converged: bool


def fit(answers: npt.ArrayLike, model: str | None = None) -> Fit:
    """Fit the items to answers (R, I) of R models, in [0, 1] or nan.

    The mode of the marginal posterior of all items together (Bock and Aitkin 1981; Mislevy 1986),
    abilities integrated out over N(0, 1) on a fixed grid; no random numbers. Estimating abilities
    along with slopes instead has no finite optimum once abilities are penalised and the slope is
    shared: they shrink as it grows. Priors: log a ~ N(m, 0.5^2), m ~ N(0, 1), b ~ N(0, 2^2), so
    that constant columns and single rows have finite values; an item nobody answered has b = 0
    and the typical slope, which is at most STEEPEST. `model` defaults to 1PL below 30 rows, else
    2PL.
    Raises ValueError for another shape, no cell, or values outside [0, 1].
    """
    table = checked(answers)
    kind = model or ("1PL" if len(table) < FEW_ROWS else "2PL")
    if kind not in ("1PL", "2PL"):
        raise ValueError(f"expected the model 1PL or 2PL, got {kind!r}")
    posterior = _Posterior(table, kind == "2PL")
    found = minimize(
        posterior, posterior.start, jac=True, method="L-BFGS-B",
        bounds=posterior.bounds,
        options={"maxiter": 1000, "maxcor": 20, "ftol": 1e-11, "gtol": 1e-4},
    )  # fmt: skip
    items = posterior.items(found.x)
    phi = _dispersion(items, table)
    theta, errors = ability(items, table, dispersion=phi)
    return Fit(kind, items, theta, errors, phi, bool(found.success))


def checked(answers: npt.ArrayLike) -> Array:
    """Answers as a float matrix (R, I); ValueError for what is none."""
    table = np.asarray(answers, dtype=np.float64)
    if table.ndim != 2 or not table.size:
        raise ValueError(f"expected answers as a matrix (models, items), got {table.shape}")
    if not (np.isnan(table) | ((table >= 0) & (table <= 1))).all():
        raise ValueError("expected answers in [0, 1], or nan where one is missing")
    return table


class _Posterior:
    """Minus the log posterior of (level, b (I,), z (I,)), log a = level + 0.5 z, and its gradient.

    Without z in 1PL. With r_mq the posterior weight of node t_q for model m, the gradient in b is
    sum over q of (sum over m of r_mq (y_mi - P_iq)); in log a it is that with a t_q inside.
    """

    def __init__(self, table: Array, own_slopes: bool) -> None:
        known = ~np.isnan(table)
        self.right = np.where(known, table, 0.0)
        self.wrong = known - self.right
        self.own_slopes = own_slopes
        step = float(np.clip(1 / np.sqrt(table.shape[1]), FINEST, COARSEST))
        self.nodes = np.linspace(-REACH, REACH, 2 * round(REACH / step) + 1)
        self.log_weights = -(self.nodes**2) / 2
        self.log_weights -= logsumexp(self.log_weights)
        rate = (self.right.sum(axis=0) + 0.5) / (known.sum(axis=0) + 1)
        free = np.zeros(table.shape[1] if own_slopes else 0)
        self.start = np.concatenate([[0.0], logit(rate), free])
        # Beyond it a posterior falls between two nodes, and slopes would cost nothing
        self.bounds = [(None, np.log(STEEPEST)), *[(None, None)] * (len(self.start) - 1)]

    def _parts(self, x: Array) -> tuple[float, Array, Array]:
        n = self.right.shape[1]
        z = x[1 + n :] if self.own_slopes else np.zeros(n)
        return float(x[0]), x[1 : 1 + n], z

    def items(self, x: Array) -> Items:
        level, b, z = self._parts(x)
        return Items(np.exp(level + SPREAD_OF_SLOPES * z), b.copy())

    def __call__(self, x: Array) -> tuple[float, Array]:
        level, b, z = self._parts(x)
        slopes = np.exp(level + SPREAD_OF_SLOPES * z)
        logits = np.outer(slopes, self.nodes) + b[:, None]
        log_p = -np.logaddexp(0.0, -logits)
        joint = self.right @ log_p + self.wrong @ (log_p - logits) + self.log_weights
        marginal = logsumexp(joint, axis=1, keepdims=True)
        weights = np.exp(joint - marginal)
        p = np.exp(log_p)
        residuals = (self.right.T @ weights) * (1 - p) - (self.wrong.T @ weights) * p
        of_log_a = slopes * (residuals @ self.nodes)
        value = -marginal.sum() + (z @ z + (b @ b) / SPREAD_OF_INTERCEPTS**2) / 2
        value += (level / SPREAD_OF_LEVEL) ** 2 / 2
        gradient = [
            np.array([-of_log_a.sum() + level / SPREAD_OF_LEVEL**2]),
            -residuals.sum(axis=1) + b / SPREAD_OF_INTERCEPTS**2,
            -SPREAD_OF_SLOPES * of_log_a + z,
        ]
        return float(value), np.concatenate(gradient[: 2 + self.own_slopes])


def _dispersion(items: Items, table: Array) -> float:
    """sum (y - P)^2 / sum P (1 - P), from 0.001 to 1: McCullagh and Nelder (1989), section 9.2."""
    known = ~np.isnan(table)
    if np.isin(table[known], (0.0, 1.0)).all():
        return 1.0
    p = items.probability(ability(items, table)[0])
    spread = np.where(known, (table - p) ** 2, 0.0).sum()
    return float(np.clip(spread / (p * (1 - p))[known].sum(), LEAST_DISPERSION, 1.0))


def ability(
    items: Items, answers: npt.ArrayLike, prior: Prior = POPULATION, dispersion: float = 1.0
) -> tuple[Array, Array]:
    """Abilities (R,) and their standard errors (R,) from answers (R, I), the items held fixed.

    The mode of the posterior (MAP: Samejima 1969; Mislevy 1986), concave in theta, by Newton's
    method; the error is 1 / sqrt(I(theta) / dispersion + 1 / sd^2). A model that answered nothing
    has the prior's; patterns all right or all wrong are finite.
    """
    table = checked(answers)
    known = ~np.isnan(table)
    filled = np.where(known, table, 0.0)
    theta = np.full(len(table), prior.mean)
    before, most = np.zeros(len(table)), np.full(len(table), 0.5)
    precision = np.full(len(table), prior.sd**-2)
    for _ in range(200):
        p = items.probability(theta)
        score = np.where(known, filled - p, 0.0) @ items.slopes / dispersion
        score -= (theta - prior.mean) / prior.sd**2
        information = np.where(known, p * (1 - p), 0.0) @ items.slopes**2
        precision = information / dispersion + prior.sd**-2
        # A Newton step may overshoot where the logistic curve is flat; where it has, half as far
        most = np.where(score * before < 0, most / 2, most)
        step, before = np.clip(score / precision, -most, most), score
        theta = theta + step
        if np.abs(step).max() < 1e-12 * max(1.0, np.abs(theta).max()):
            break
    return theta, 1 / np.sqrt(precision)


def anchored(fit: Fit, abilities: npt.ArrayLike, answers: npt.ArrayLike) -> Items:
    """Further items on the scale of a fit, from models (K,) with known abilities: answers (K, J).

    Abilities are held fixed (Stocking 1988, method A), each item gets the mode of b under
    N(0, 2^2) by Newton's method, and all have the slope that is typical of the fit.
    """
    table = checked(answers)
    known = ~np.isnan(table)
    slope = float(np.exp(np.log(fit.items.slopes).mean()))
    lean = slope * np.asarray(abilities, dtype=np.float64)[:, None]
    b = np.zeros(table.shape[1])
    for _ in range(200):
        p = expit(lean + b)
        score = np.where(known, np.nan_to_num(table) - p, 0.0).sum(axis=0)
        score -= b / SPREAD_OF_INTERCEPTS**2
        precision = np.where(known, p * (1 - p), 0.0).sum(axis=0) + SPREAD_OF_INTERCEPTS**-2
        step = np.clip(score / precision, -0.5, 0.5)
        b = b + step
        if np.abs(step).max() < 1e-12:
            break
    return Items(np.full(len(b), slope), b)


def endpoint_prior(abilities: npt.ArrayLike) -> Prior:
    """The prior of merges from the abilities (K,) of what is merged.

    Their mean; and 1.5 times the root of ((K - 1) s^2 + 1) / K: the population's variance of 1
    counts as one observation more, so that one endpoint, or equal ones, leave room.
    """
    theta = np.asarray(abilities, dtype=np.float64)
    if not theta.size:
        return POPULATION
    variance = (((theta - theta.mean()) ** 2).sum() + 1) / len(theta)
    return Prior(float(theta.mean()), float(INFLATION * np.sqrt(variance)))
