"""Which questions to ask, and what to make of the answers: the methods that fitness.py compares.

All of them are fixed here before anything is measured: 5 strata; 70 % of informative questions by
information and 30 % drawn within strata; the priors of `evomerge.maths.irt`; for the peer's
methods the constants of its publications. There is no other choice to tune.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.cluster.vq import kmeans2

from evomerge.maths import estimates as ours
from evomerge.maths import irt
from evomerge.maths.irt import Items

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int_]
Chosen = tuple[Ints, Array]
"""Questions by number (n,), and their weights (n,), which sum to 1."""

STRATA = 5
BY_INFORMATION = 0.7
MOST = 100
"""Questions that the greedy choice puts in order."""
FREE = irt.Prior(0.0, 20.0)
"""A prior so wide that the mode is the maximum of the likelihood wherever that is finite."""


@dataclass(frozen=True)
class Known:
    """What the models of the calibration tell about a bank's questions, in one signal.

    `rows` (R, I) are their answers; `misfit` is the mean absolute error of a held-out model's
    mean as the model predicts it, nan for soft answers, which the peer's methods do not take;
    `front` the abilities of the nondominated ones.
    """

    rows: Array
    items: Items
    dispersion: float
    prior: irt.Prior
    front: Array
    misfit: float
    covariance: Array

    def of(self, pool: Ints) -> Known:
        """The same with some of the questions only."""
        if len(pool) == self.rows.shape[1]:
            return self
        items = Items(self.items.slopes[pool], self.items.intercepts[pool])
        cov = self.covariance[np.ix_(pool, pool)]
        return Known(
            self.rows[:, pool], items, self.dispersion, self.prior, self.front, self.misfit, cov
        )

    @cached_property
    def means(self) -> Array:
        return np.asarray(self.rows.mean(axis=0))

    @cached_property
    def strata(self) -> Ints:
        """Groups of equal size by how hard the questions are (I,)."""
        order = np.argsort(np.argsort(self.means, kind="stable"), kind="stable")
        return order * STRATA // len(order)

    @cached_property
    def greedy(self) -> Ints:
        """One after the other, the question after which the bank's mean is known best: for a
        normal law with the covariance that the calibration shows (n,)."""
        c, chosen = self.covariance.copy(), list[int]()
        for _ in range(min(MOST, len(c))):
            own = np.diag(c).copy()
            own[chosen] = np.inf
            chosen.append(int(np.argmax(c.mean(axis=1) ** 2 / own)))
            column = c[:, chosen[-1]].copy()
            c -= np.outer(column, column / column[chosen[-1]])
        return np.array(chosen)


def shrunk_covariance(rows: Array) -> Array:
    """Covariance of columns, shrunk to a multiple of the identity: Ledoit and Wolf (2004)."""
    x = rows - rows.mean(axis=0)
    n, size = x.shape
    sample = x.T @ x / n
    level = np.trace(sample) / size
    distance = ((sample - level * np.eye(size)) ** 2).sum()
    noise = ((x**2).sum(axis=1) ** 2).sum() / n**2 - (sample**2).sum() / n
    share = min(1.0, noise / distance) if distance > 0 else 1.0
    return (1 - share) * sample + share * max(level, 1e-9) * np.eye(size)


def random(known: Known, n: int, rng: np.random.Generator) -> Chosen:
    return _equal(rng.choice(known.rows.shape[1], n, replace=False))


def stratified(known: Known, n: int, rng: np.random.Generator) -> Chosen:
    return _equal(_in_turn(known.strata, np.arange(known.rows.shape[1]), n, rng))


def informative(known: Known, n: int, rng: np.random.Generator) -> Chosen:
    """Most Fisher information summed over the front; the rest drawn within strata."""
    order = np.argsort(-known.items.information(known.front).sum(axis=0), kind="stable")
    best = order[: round(BY_INFORMATION * n)]
    return _equal(np.append(best, _in_turn(known.strata, order[len(best) :], n - len(best), rng)))


def anchors(known: Known, n: int, rng: np.random.Generator) -> Chosen:
    """Of each of n clusters of (slope, intercept) the nearest question, weighted by the cluster's
    size (Polo et al. 2024, section 3)."""
    points = np.stack([known.items.slopes, known.items.intercepts], axis=1)
    start = points[rng.choice(len(points), n, replace=False)]
    with warnings.catch_warnings():  # questions with equal parameters leave a cluster empty
        warnings.filterwarnings("ignore", "One of the clusters is empty")
        centres, label = kmeans2(points, start, minit="matrix", missing="warn")
    filled = np.unique(label)
    distance = ((points[:, None] - centres[filled]) ** 2).sum(axis=2)
    distance[label[:, None] != filled] = np.inf
    weights = np.bincount(label)[filled] / len(points)
    return distance.argmin(axis=0), weights


def covariance(known: Known, n: int, rng: np.random.Generator) -> Chosen:
    return _equal(known.greedy[:n])


def _equal(chosen: Ints) -> Chosen:
    return chosen, np.full(len(chosen), 1 / len(chosen))


def _in_turn(strata: Ints, among: Ints, n: int, rng: np.random.Generator) -> Ints:
    """n of some questions, as equally from every stratum as there are."""
    shuffled = rng.permutation(among)
    place = np.zeros(len(shuffled), dtype=int)
    for stratum in range(STRATA):
        mine = strata[shuffled] == stratum
        place[mine] = np.arange(mine.sum())
    turn = np.lexsort((rng.random(len(shuffled)), place))
    return np.asarray(shuffled[turn[:n]])


CHOICES: dict[str, Callable[[Known, int, np.random.Generator], Chosen]] = {
    "random": random, "stratified": stratified, "informative": informative,
    "anchors": anchors, "covariance": covariance,
}  # fmt: skip


def estimates(known: Known, seen: Array, chosen: Chosen) -> dict[str, Array]:
    """The mean over all questions of each model (M,), from its answers (M, n), by estimator."""
    items, weights = chosen
    mean = seen @ weights
    asked = Items(known.items.slopes[items], known.items.intercepts[items])
    mode, _ = irt.ability(asked, seen, known.prior, known.dispersion)
    found = {
        "mean": mean,
        "stratified mean": _stratified_mean(known, seen, items),
        "difference": known.means.mean() + seen.mean(axis=1) - known.means[items].mean(),
        "p-IRT": completed(known, mode, seen.mean(axis=1), items),
        "equated": _equated(known, seen, items),
        "regression": _regression(known, seen, items),
    }
    return found if np.isnan(known.misfit) else found | peers(known, seen, chosen)


def peers(known: Known, seen: Array, chosen: Chosen) -> dict[str, Array]:
    """gp-IRT of tinyBenchmarks; mp-IRT and gmp-IRT of MERGE^3, whose code mixes by halves.

    MERGE^3 writes a merge's ability as a sum of its endpoints' abilities times free weights, which
    it fits by maximum likelihood. With one ability a model that sum is any number, so that mp-IRT
    is p-IRT at the maximum of the likelihood (tests/test_fitness.py fits the weights).
    """
    items, weights = chosen
    mean = seen @ weights
    asked = Items(known.items.slopes[items], known.items.intercepts[items])
    mp = completed(known, irt.ability(asked, seen, FREE)[0], mean, items)
    gp = mixed(gp_share(known, len(items)), mean, mp)
    return {"gp-IRT": gp, "mp-IRT": mp, "gmp-IRT": mixed(0.5, mean, mp)}


def completed(known: Known, abilities: Array, mean: Array, items: Ints) -> Array:
    """p-IRT: the mean of what was answered, and of P on what was not (Polo et al. 2024, eq. 4)."""
    p = known.items.probability(abilities)
    rest = np.setdiff1d(np.arange(p.shape[1]), items)
    share = len(items) / p.shape[1]
    return share * mean + (1 - share) * (p[:, rest].mean(axis=1) if len(rest) else 0.0)


def gp_share(known: Known, n: int) -> float:
    """Weight of the plain mean in gp-IRT, b^2 / (b^2 + v / 4n): Polo et al. (2024), section 4."""
    squared = known.misfit**2
    variance = float(known.rows.var(axis=1).mean())
    return squared / (squared + variance / (4 * n))


def mixed(share: float, mean: Array, modelled: Array) -> Array:
    return share * mean + (1 - share) * modelled


def _stratified_mean(known: Known, seen: Array, items: Ints) -> Array:
    """Means within strata times their sizes; a stratum without answers has the whole mean."""
    found = np.zeros(len(seen))
    for stratum in range(STRATA):
        mine = known.strata[items] == stratum
        part = seen[:, mine] if mine.any() else seen
        found += (known.strata == stratum).mean() * part.mean(axis=1)
    return found


def _equated(known: Known, seen: Array, items: Ints) -> Array:
    rows = np.full((len(seen), known.rows.shape[1]), np.nan)
    rows[:, items] = seen
    found = [ours.equated(row, known.items, known.prior, known.means) for row in rows]
    return np.array([estimate.score for estimate in found])


def _regression(known: Known, seen: Array, items: Ints) -> Array:
    """The best linear predictor of the mean under the covariance that the calibration shows."""
    inside = known.covariance[np.ix_(items, items)]
    slopes = np.linalg.solve(inside, known.covariance[items].mean(axis=1))
    return np.asarray(known.means.mean() + (seen - known.means[items]) @ slopes)
