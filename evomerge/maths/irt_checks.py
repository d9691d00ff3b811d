"""Whether item response theory holds for some answers: held-out error, infit, dependence, faults.

Answers (R, I) are those of models on items, in [0, 1] or nan, as in `irt`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from evomerge.maths import estimates, irt
from evomerge.maths.irt import Array, Fit

Ints = npt.NDArray[np.int_]
Mask = npt.NDArray[np.bool_]

FOLDS, REPEATS = 5, 8
INFIT = (0.7, 1.3)
"""Wright and Linacre (1994): outside, an item is noisier or more predictable than the model."""
DEPENDENT = 0.2
"""Yen (1993): a pair whose residuals correlate by this much more than the average pair's."""
SURE = 3.0
"""Standard errors below 0 at which a discrimination is called negative."""
FEWEST = 10
"""Models that must have answered, both items of a pair too, for a correlation."""
ESTIMATORS = {
    "irt": "IRT", "mean": "mean", "stratified": "stratified mean", "item_mean": "item means",
    "difference": "shifted item means",
}  # fmt: skip
"""Estimators of a held-out model's score, and what they are called."""


@dataclass(frozen=True)
class HeldOut:
    """Mean absolute errors of the mean of a model's unseen answers, from `seen` of its items.

    `errors` by estimator: `irt`, the mean of P at the MAP ability; `mean`, of the answers seen;
    `stratified`, that mean in each of five groups of items by difficulty; `item_mean`, what the
    models of the fit scored on the unseen items, blind to the model at hand; `difference`, the
    same plus what this model scored above it on the items seen (Cochran 1977, section 7.3).
    `gains` and `gain_errors` by estimator: how much larger its error is than that of irt, and
    the standard error of that over splits of models and items.
    """

    seen: int
    errors: Mapping[str, float]
    gains: Mapping[str, float]
    gain_errors: Mapping[str, float]

    @property
    def rival(self) -> str:
        """The best estimator without item response theory."""
        return min((name for name in self.errors if name != "irt"), key=self.errors.__getitem__)

    @property
    def better(self) -> str:
        """`irt`, its rival, or `` where two standard errors do not part them."""
        gain = self.gains[self.rival]
        if abs(gain) <= 2 * self.gain_errors[self.rival]:
            return ""
        return "irt" if gain > 0 else self.rival


def held_out(answers: npt.ArrayLike, *, seen: int = 30, seed: int = 0) -> HeldOut:
    """Fit on four fifths of the models, predict the others from `seen` items of theirs.

    Every fifth model is held out in turn, eight times with other items shown, drawn by `seed`.
    `seen` is at most half of what the median model answered, and at least 1; models that
    answered no more than that are left out. Raises ValueError for fewer models than folds, and
    where none answered two items.
    """
    table = irt.checked(answers)
    if len(table) < FOLDS:
        raise ValueError(f"expected {FOLDS} models at least, got {len(table)}")
    shown = min(seen, max(1, int(np.median(np.isfinite(table).sum(axis=1))) // 2))
    generator = np.random.default_rng(seed)
    units: list[Array] = []
    for fold in range(FOLDS):
        out = np.arange(len(table)) % FOLDS == fold
        units += _fold(table[~out], table[out], shown, generator)
    if not units:
        raise ValueError(f"no model answered more than {shown} items: nothing to predict")
    errors = np.stack(units)
    gains = errors - errors[:, :1]
    # The draws share models and fits: Nadeau and Bengio (2003), section 3
    spread = gains.std(axis=0, ddof=1) * np.sqrt(1 / len(gains) + 1 / (FOLDS - 1))
    columns = (errors.mean(axis=0), gains.mean(axis=0), spread)
    return HeldOut(shown, *(dict(zip(ESTIMATORS, c.tolist(), strict=True)) for c in columns))


def _fold(known: Array, new: Array, shown: int, generator: np.random.Generator) -> Iterator[Array]:
    """Errors (estimators,) of each draw of the items shown, averaged over the new models."""
    found = irt.fit(known)
    totals = np.isfinite(known).sum(axis=0)
    whole = np.nansum(known) / totals.sum()
    item_means = np.where(totals, np.nansum(known, axis=0) / np.maximum(totals, 1), whole)
    strata = estimates.strata(item_means)
    for _ in range(REPEATS):
        order = generator.permutation(known.shape[1])
        place = np.cumsum(np.isfinite(new[:, order]), axis=1)[:, np.argsort(order)]
        seen = np.isfinite(new) & (place <= shown)
        unseen = np.isfinite(new) & ~seen
        able = unseen.any(axis=1)
        if not able.any():
            continue
        rows, seen, unseen = new[able], seen[able], unseen[able]
        truth = _means(rows, unseen)
        partly = np.where(seen, rows, np.nan)
        theta, _ = irt.ability(found.items, partly, dispersion=found.dispersion)
        guesses = [
            _means(found.items.probability(theta), unseen),
            _means(rows, seen),
            _means(_stratified(rows, seen, strata), unseen),
            blind := _means(np.broadcast_to(item_means, rows.shape), unseen),
            blind + _means(rows - item_means, seen),
        ]
        yield np.array([np.abs(guess - truth).mean() for guess in guesses])


def _means(values: Array, chosen: Mask) -> Array:
    return np.asarray(np.where(chosen, values, 0.0).sum(axis=1) / chosen.sum(axis=1))


def _stratified(rows: Array, seen: Mask, strata: Ints) -> Array:
    """For each item the mean seen in its stratum; where nothing was seen there, the whole mean."""
    guess = np.repeat(_means(rows, seen)[:, None], rows.shape[1], axis=1)
    for stratum in range(estimates.STRATA):
        mine = strata == stratum
        some = (seen & mine).any(axis=1)
        guess[np.ix_(some, mine)] = _means(rows[some], (seen & mine)[some])[:, None]
    return guess


def infit(answers: npt.ArrayLike, fit: Fit) -> Array:
    """Information-weighted mean square of each item's residuals (I,); nan without answers.

    sum (y - P)^2 / sum P (1 - P) over models, in units of the fit's dispersion; 1 is expected.
    Source: Wright and Masters (1982), eq. 5.3.10.
    """
    table = irt.checked(answers)
    known = np.isfinite(table)
    p = fit.items.probability(fit.abilities)
    squares = np.where(known, (table - p) ** 2, 0.0).sum(axis=0)
    expected = fit.dispersion * np.where(known, p * (1 - p), 0.0).sum(axis=0)
    found = np.full(len(expected), np.nan)
    np.divide(squares, expected, out=found, where=expected > 0)
    return found


@dataclass(frozen=True)
class Dependence:
    """Dependent pairs of items (first, second, excess), strongest first.

    Of `examined` pairs, whose Q3 is `average`.
    """

    pairs: tuple[tuple[int, int, float], ...]
    examined: int
    average: float


def dependence(answers: npt.ArrayLike, fit: Fit) -> Dependence:
    """Pairs of items whose residuals correlate: paraphrases, or what another ability explains.

    Q3 is the correlation of residuals (Yen 1984), judged by its excess over the average pair's
    (Christensen, Makransky and Horton 2017); a pair is listed from 0.2 on, or from what chance
    gives once in twenty sets of so many pairs, if that is more. Constant items have no pairs.
    """
    table = irt.checked(answers)
    q3, counts = _correlations(table - fit.items.probability(fit.abilities), varying(table))
    first, second = np.nonzero(np.triu(np.isfinite(q3), 1))
    if not len(first):
        return Dependence((), 0, float("nan"))
    values = q3[first, second]
    average = float(values.mean())
    by_chance = -ndtri(0.025 / len(first)) / np.sqrt(counts[first, second] - 1)
    excess = values - average
    found = np.flatnonzero(np.abs(excess) >= np.maximum(DEPENDENT, by_chance))
    found = found[np.argsort(-np.abs(excess[found]), kind="stable")]
    pairs = tuple((int(first[k]), int(second[k]), float(excess[k])) for k in found)
    return Dependence(pairs, len(first), average)


def varying(table: Array) -> Mask:
    """Items (I,) that at least ten models answered, and not all alike."""
    known = np.isfinite(table)
    high = np.where(known, table, -np.inf).max(axis=0)
    low = np.where(known, table, np.inf).min(axis=0)
    return np.asarray((known.sum(axis=0) >= FEWEST) & (high - low > 1e-9))


def _correlations(residuals: Array, kept: Mask) -> tuple[Array, Array]:
    """Correlations (I, I) over the models that answered both, and their number; nan where few."""
    known = (np.isfinite(residuals) & kept).astype(np.float64)
    x = np.where(known > 0, residuals, 0.0)
    n = known.T @ known
    safe = np.maximum(n, 1)
    mean = (x.T @ known) / safe  # of the first item, where the second was answered too
    covariance = (x.T @ x) / safe - mean * mean.T
    variance = (x**2).T @ known / safe - mean**2
    scale = np.sqrt(np.maximum(variance * variance.T, 0.0))
    usable = (n >= FEWEST) & (scale > 1e-15)
    return np.divide(covariance, scale, out=np.full(n.shape, np.nan), where=usable), n


def faults(answers: npt.ArrayLike, fit: Fit) -> dict[int, str]:
    """Items by number that tell models apart wrongly or not at all, and why.

    An item nobody answered; one on which all answers are alike; one whose answers get worse with
    the ability that the other items show, by three standard errors: its answer in the bank may be
    wrong, or it asks for what the abler models lose.
    """
    table = irt.checked(answers)
    found: dict[int, str] = {}
    usable, others = varying(table), _without_each(table, fit)
    for i, column in enumerate(table.T):
        mine = np.isfinite(column)
        seen = column[mine]
        if not len(seen):
            found[i] = "answered by no model"
        elif np.ptp(seen) <= 1e-9:
            words = {0.0: "all wrong", 1.0: "all right"}
            found[i] = words.get(float(seen[0]), f"all answers are {seen[0]:.3f}")
        elif usable[i] and np.ptp(others[mine, i]) > 1e-9:
            r = float(np.corrcoef(seen, others[mine, i])[0, 1])
            if np.arctanh(max(r, -1 + 1e-12)) * np.sqrt(max(len(seen) - 3, 1)) < -SURE:
                found[i] = f"negative discrimination: answers and ability correlate by {r:.2f}"
    return found


def _without_each(table: Array, fit: Fit) -> Array:
    """Abilities (R, I) without each item, by one Newton step: an item goes with its own answer."""
    p = fit.items.probability(fit.abilities)
    score = fit.items.slopes * np.where(np.isfinite(table), table - p, 0.0) / fit.dispersion
    own = fit.items.information(fit.abilities) / fit.dispersion
    rest = fit.errors[:, None] ** -2 - np.where(np.isfinite(table), own, 0.0)
    return np.asarray(fit.abilities[:, None] - score / rest)


def constant_models(answers: npt.ArrayLike) -> dict[int, str]:
    """Models by number that answered everything right, or everything wrong: the prior alone
    bounds their ability."""
    table = irt.checked(answers)
    found = {}
    for m, row in enumerate(table):
        seen = row[np.isfinite(row)]
        for value, words in ((0.0, "all wrong"), (1.0, "all right")):
            if len(seen) and (seen == value).all():
                found[m] = words
    return found
