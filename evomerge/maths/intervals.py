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
    others: Sequence[Sequence[npt.ArrayLike]],
    repeats: int = 10000,
    *,
    seed: int,
    level: float = 0.95,
) -> list[tuple[float, float, float]]:
    """For each of `others`: the difference of a's mean over banks to its own, and its percentile
    interval (low, high).

    a and each other hold one array (items,) per bank, of the same items in the same order. The
    items drawn anew are the same for all.
    """
    mine = [np.asarray(bank, dtype=np.float64) for bank in a]
    theirs = [[np.asarray(bank, dtype=np.float64) for bank in other] for other in others]
    shapes = [bank.shape for bank in mine]
    if not all(len(shape) == 1 and shape[0] for shape in shapes) or any(
        [bank.shape for bank in other] != shapes or not other for other in theirs
    ):
        raise ValueError("expected the same items for all, at least one per bank")
    differences = [np.stack([bank - other[k] for other in theirs]) for k, bank in enumerate(mine)]
    means = resampled_means(differences, repeats, seed).mean(axis=2)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    middle = np.mean([bank.mean(axis=1) for bank in differences], axis=0)
    return [(float(m), float(x), float(y)) for m, x, y in zip(middle, low, high, strict=True)]


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
