"""The score on all items of a bank, from a model's answers to some of them.

Answers (I,) are those of one model, in [0, 1], nan where an item was not asked. An error is the
standard error of the estimate of the mean of all I answers: 0 once all are there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evomerge.maths import irt
from evomerge.maths.irt import Array, Items, Prior

Ints = npt.NDArray[np.int_]

STRATA = 5
"""Groups of items by difficulty, of equal size, in the stratified mean."""

NO_SPREAD = 1e-12
"""A variance of equal scores: their mean is rounded."""


class Estimate(NamedTuple):
    """A score in [0, 1] and its standard error."""

    score: float
    error: float


def standard_error(scores: Array) -> float:
    """Of a mean of scores in [0, 1]; equal ones count as if half an answer stood on each side."""
    n = len(scores)
    p = (float(scores.sum()) + 0.5) / (n + 1)
    return float(np.sqrt(_spread(float(scores.var()), p * (1 - p)) / n))


def _spread(variance: float, otherwise: float) -> float:
    return variance if variance > NO_SPREAD else otherwise


def strata(item_means: Array) -> Ints:
    """Groups (I,) of equal size by how hard items are, the hardest 0."""
    return np.argsort(np.argsort(item_means, kind="stable")) * STRATA // len(item_means)


def stratified(answers: Array, groups: Ints) -> Estimate:
    """Means within groups (I,), weighted by their sizes; a group not asked has the whole mean.

    Source: Cochran (1977), eq. 5.1 and 5.7, with one variance pooled over the groups, as some
    have a single answer. Raises ValueError where there is no answer.
    """
    known = np.isfinite(answers)
    seen, where = answers[known], groups[known]
    if not len(seen):
        raise ValueError("no answers to estimate a score from")
    asked = np.bincount(where, minlength=groups.max() + 1)
    sizes = np.bincount(groups, minlength=len(asked))
    sums = np.bincount(where, weights=seen, minlength=len(asked))
    means = np.where(asked > 0, sums / np.maximum(asked, 1), seen.mean())
    weights = sizes / sizes.sum()
    n, filled = len(seen), int((asked > 0).sum())
    squares = float(((seen - means[where]) ** 2).sum())
    p = (float(seen.sum()) + 0.5) / (n + 1)
    within = squares / (n - filled) if n > filled else float(seen.var())
    variance = _spread(within, p * (1 - p))
    behind = np.where(asked > 0, asked, n)
    parts = weights**2 * variance / behind * (1 - np.minimum(asked / np.maximum(sizes, 1), 1))
    return Estimate(float(weights @ means), float(np.sqrt(parts.sum())))


def p_irt(
    answers: Array, items: Items, prior: Prior, dispersion: float = 1.0, misfit: float = 0.0
) -> Estimate:
    """The mean of what was answered, and of P at the MAP ability on what was not.

    Source: p-IRT, Polo et al. (2024), eq. 4. The error is that of the delta method: of the
    ability, through the mean slope of P; of the answers around P, in units of `dispersion`; and
    `misfit`, the mean absolute error of P's mean on held-out models.
    """
    known = np.isfinite(answers)
    rest = ~known
    if not rest.any():
        return Estimate(float(answers.mean()), 0.0)
    (theta,), (error,) = irt.ability(items, answers[None], prior, dispersion)
    p = items.probability(theta)
    share = float(rest.mean())
    total = float(answers[known].sum()) + float(p[rest].sum())
    noise = p * (1 - p)
    slope = float((noise * items.slopes)[rest].mean())
    scatter = dispersion * float(noise[rest].sum()) / int(rest.sum()) ** 2
    variance = (slope * float(error)) ** 2 + scatter + misfit**2
    return Estimate(total / len(answers), share * float(np.sqrt(variance)))


def equated(
    answers: Array, items: Items, prior: Prior, item_means: Array, misfit: float = 0.0
) -> Estimate:
    """The mean of what was answered, and on the rest what a line through the known models gives:
    their mean there, and how far the answers are from their means, times the ratio of slopes.

    The ratio is that of the mean slopes of P at the prior's mean, so that items chosen because
    they tell models apart do not exaggerate how far apart these are. Beside `p_irt`, items are
    not weighed by the theory that chose them. Source: linear equating by item response theory
    (Kolen and Brennan 2014, ch. 6). The error is that of the answers around their means, through
    the ratio and on the rest, and `misfit`. Raises ValueError where there is no answer.
    """
    known = np.isfinite(answers)
    rest = ~known
    if not known.any():
        raise ValueError("no answers to estimate a score from")
    if not rest.any():
        return Estimate(float(answers.mean()), 0.0)
    p = items.probability(prior.mean)
    slopes = p * (1 - p) * items.slopes
    ratio = float(slopes[rest].mean() / slopes[known].mean())
    apart = answers[known] - item_means[known]
    predicted = float(item_means[rest].mean()) + ratio * float(apart.mean())
    share = float(rest.mean())
    total = (1 - share) * float(answers[known].mean()) + share * min(max(predicted, 0.0), 1.0)
    scatter = _spread(float(apart.var()), float((p * (1 - p)).mean()))
    variance = scatter * (ratio**2 / int(known.sum()) + 1 / int(rest.sum())) + misfit**2
    return Estimate(total, share * float(np.sqrt(variance)))
