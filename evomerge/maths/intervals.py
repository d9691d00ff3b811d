"""How far a measured score can be trusted: intervals for means, differences and fronts.

Items are resampled within their bank, the same ones for all plans, so that what is hard for all
cancels out. Source: Wilson (1927); Efron and Tibshirani (1993); Holm (1979).
"""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

BATCH = 256
"""Resamples drawn at a time: bounds the memory, whatever the number of repeats."""


def wilson(mean: npt.ArrayLike, n: npt.ArrayLike, z: float = 1.96) -> tuple[Array, Array]:
    """The interval (low, high) of a mean of n scores in [0, 1]; (0, 1) where n is 0.

    Made for answers that are right or wrong; wider than needed for scores in between.
    Source: Wilson (1927).
    """
    p, count = np.asarray(mean, dtype=np.float64), np.asarray(n, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all() or not (count >= 0).all():
        raise ValueError("expected means in [0, 1] and counts of at least 0")
    # (n p + z^2/2 +- z sqrt(n p (1-p) + z^2/4)) / (n + z^2): no division by n
    centre = count * p + z * z / 2
    half = z * np.sqrt(count * p * (1 - p) + z * z / 4)
    low, high = (centre - half) / (count + z * z), (centre + half) / (count + z * z)
    return np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0)


def paired_bootstrap(
    a: Sequence[npt.ArrayLike],
    b: Sequence[npt.ArrayLike],
    repeats: int = 10000,
    *,
    seed: int,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """The difference a - b of the means over banks, and its percentile interval (low, high).

    a and b hold one array (items,) per bank, of the same items in the same order.
    """
    pairs = [
        (np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
        for x, y in zip(a, b, strict=True)
    ]
    if not pairs or any(x.shape != y.shape or x.ndim != 1 or not x.size for x, y in pairs):
        raise ValueError("expected the same items for both, at least one per bank")
    differences = [(x - y)[None] for x, y in pairs]
    means = resampled_means(differences, repeats, seed).mean(axis=2)[:, 0]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(np.mean([d.mean() for d in differences])), float(low), float(high)


def resampled_means(scores: Sequence[npt.ArrayLike], repeats: int, seed: int) -> Array:
    """Means (repeats, plans, banks) over items drawn anew, with replacement, within each bank.

    scores holds one array (plans, items) per bank. All plans of a repeat share its items.
    """
    generator = np.random.default_rng(seed)
    banks = [np.asarray(bank, dtype=np.float64) for bank in scores]
    means = np.empty((repeats, len(banks[0]), len(banks)))
    for k, bank in enumerate(banks):
        items = bank.shape[1]
        for first in range(0, repeats, BATCH):
            count = min(BATCH, repeats - first)
            times = generator.multinomial(items, np.full(items, 1 / items), size=count)
            means[first : first + count, :, k] = times @ bank.T / items
    return means


def bootstrap_hypervolume(
    scores: Sequence[npt.ArrayLike],
    zero: npt.ArrayLike,
    unit: npt.ArrayLike,
    reference: float,
    repeats: int = 1000,
    *,
    seed: int,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """The hypervolume of plans, and its interval (low, high) over items drawn anew.

    scores holds one array (plans, items) per bank; losses are (zero - mean) / unit, with zero
    and unit (banks,). The basic interval (twice the value minus the percentiles): the best of
    noisy plans looks too good, a resample repeats that error, and the reflection removes it.
    """
    banks = [np.asarray(bank, dtype=np.float64) for bank in scores]
    measured = np.stack([bank.mean(axis=1) for bank in banks], axis=1)
    anchors = np.asarray(zero, dtype=np.float64), np.asarray(unit, dtype=np.float64)
    value = _volume((anchors[0] - measured) / anchors[1], reference)
    again = [
        _volume((anchors[0] - means) / anchors[1], reference)
        for means in resampled_means(banks, repeats, seed)
    ]
    low, high = np.quantile(again, [(1 - level) / 2, (1 + level) / 2])
    return value, max(0.0, float(2 * value - high)), max(0.0, float(2 * value - low))


def _volume(losses: Array, reference: float) -> float:
    inside = losses[(losses < reference).all(axis=1)]
    if not inside.size:
        return 0.0
    if losses.shape[1] == 1:
        return float(reference - inside.min())
    return float(moocore.hypervolume(inside, ref=np.full(losses.shape[1], reference)))


def bootstrap_nondominated(
    scores: Sequence[npt.ArrayLike], repeats: int = 1000, *, seed: int
) -> Array:
    """Share (plans,) of resamples in which no other plan is better in all banks at once.

    scores holds one array (plans, items) per bank, larger is better.
    """
    total = np.zeros(len(np.asarray(scores[0])))
    for means in resampled_means(scores, repeats, seed):
        if means.shape[1] == 1:
            total += means[:, 0] == means[:, 0].max()
        else:
            total += moocore.is_nondominated(-means, keep_weakly=True)
    return total / repeats


def holm(pvalues: npt.ArrayLike) -> Array:
    """p-values (N,) adjusted for N looks: below 0.05 keeps the family's error below 0.05.

    Source: Holm (1979).
    """
    raw = np.asarray(pvalues, dtype=np.float64)
    order = np.argsort(raw, kind="stable")
    steps = np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1))
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted
