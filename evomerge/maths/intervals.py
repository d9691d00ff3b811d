"""How far a measured score can be trusted: intervals for means, differences and fronts.

Items are resampled within their bank, the same ones for all plans, so that what is hard for all
cancels out. Source: Wilson (1927); Efron and Tibshirani (1993); Holm (1979).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evomerge.maths import pareto

Array = npt.NDArray[np.float64]

LEAST = 20
"""Items of a bank, with fewer of which nothing is said of its sampling error: beside a bank of 200
items, intervals cover the truth in 95 % of all cases with 20, in 86 to 90 % with 10, in 81 % with
5. One item alone is an exact measure, such as a function's."""

BATCH = 256
"""Resamples drawn at a time: bounds the memory, whatever the number of repeats."""


def wilson(mean: npt.ArrayLike, n: npt.ArrayLike, z: float = 1.96) -> tuple[Array, Array]:
    """The interval (low, high) of a mean of n scores in [0, 1]; (0, 1) where n is 0.

    Made for answers that are right or wrong. Source: Wilson (1927).
    """
    p, count = np.asarray(mean, dtype=np.float64), np.asarray(n, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all() or not (count >= 0).all():
        raise ValueError("expected means in [0, 1] and counts of at least 0")
    # (n p + z^2/2 +- z sqrt(n p (1-p) + z^2/4)) / (n + z^2): no division by n
    centre = count * p + z * z / 2
    half = z * np.sqrt(count * p * (1 - p) + z * z / 4)
    low, high = (centre - half) / (count + z * z), (centre + half) / (count + z * z)
    return np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0)


def of_mean(scores: npt.ArrayLike, z: float = 1.96) -> tuple[float, float]:
    """The interval (low, high) of the mean of scores (items,) in [0, 1], by default of 95 %.

    Wilson's, for as many right or wrong answers as would vary as much; that many they are where
    all are 0 or 1. One more item of that kind is reckoned with, as few scores may happen to be
    alike. Source: the effective sample size of Korn and Graubard (1998).
    """
    found = np.asarray(scores, dtype=np.float64)
    n, mean = len(found), float(found.mean())
    of_coins = mean * (1 - mean)
    variance = (n * float(found.var()) + of_coins) / (n + 1)
    low, high = wilson(mean, n * of_coins / variance if variance > 0 else n, z)
    return float(low), float(high)


class Difference(NamedTuple):
    """How much better one plan is than another, with its 95 % interval and two-sided p-value."""

    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Resampled:
    """What plans score on items drawn anew, the same ones for all.

    `measured` (plans, banks) are the means over the items themselves, `means` (repeats, plans,
    banks) those of each repeat, `items` how many each bank has.
    """

    measured: Array
    means: Array
    items: Sequence[int]

    def difference(
        self, plan: int, other: int, level: float = 0.95, *, weights: Sequence[float] | None = None
    ) -> Difference:
        """Of the means over banks, weighted by `weights` (banks,) if given: percentile interval,
        and the p-value that inverts it.

        Needs ten items on which the two differ: with 5 the interval covers the truth in 91 % of
        all cases instead of 95, with 3 in 87 %.
        All are nan where a bank that counts has fewer than LEAST items, or each has one.
        Source: Efron and Tibshirani (1993), sections 13.3 and 15.4.
        """
        one, two = (np.average(self.measured[p], weights=weights) for p in (plan, other))
        mine, theirs = (
            np.average(self.means[:, p], axis=1, weights=weights) for p in (plan, other)
        )
        middle, gains = float(one - two), (mine - theirs).round(12)
        counted = [True] * len(self.items) if weights is None else np.asarray(weights) > 0
        if not enough(np.compress(counted, self.items)):
            return Difference(middle, *3 * [float("nan")])
        low, high = np.quantile(gains, [(1 - level) / 2, (1 + level) / 2])
        tail = int(min(np.count_nonzero(gains <= 0), np.count_nonzero(gains >= 0)))
        p = min(1.0, 2 * (1 + tail) / (1 + len(gains)))
        return Difference(middle, float(low), float(high), p)

    def nondominated(self) -> Array:
        """The share (plans,) of repeats in which no other plan is at least as good on every bank
        and better on one: how probable it is that a plan is nondominated on all such items.

        Source: probabilities of dominance, Hughes (2001), on items instead of a noise model.
        """
        kept = []
        banks = np.ascontiguousarray(self.means.transpose(2, 0, 1))
        for plan in range(banks.shape[2]):
            mine = banks[:, :, plan, None]
            better = np.all(banks >= mine, axis=0) & np.any(banks > mine, axis=0)
            kept.append(1 - better.any(axis=1).mean())
        return np.array(kept)


def resample(scores: Sequence[npt.ArrayLike], repeats: int = 10000, *, seed: int) -> Resampled:
    """Draw items anew, with replacement, within each bank; scores: (plans, items) a bank.

    Raises ValueError where the plans of a bank do not have the same items, at least one.
    """
    try:
        banks = [np.asarray(bank, dtype=np.float64) for bank in scores]
    except ValueError:  # ragged rows
        banks = []
    if not banks or not all(
        bank.ndim == 2 and bank.size and len(bank) == len(banks[0]) for bank in banks
    ):
        raise ValueError("expected the same items for all, at least one per bank")
    measured = np.stack([bank.mean(axis=1) for bank in banks], axis=1)
    items = [bank.shape[1] for bank in banks]
    return Resampled(measured, resampled_means(banks, repeats, seed), items)


def paired_bootstrap(
    a: Sequence[npt.ArrayLike],
    others: Sequence[Sequence[npt.ArrayLike]],
    repeats: int = 10000,
    *,
    seed: int,
) -> list[Difference]:
    """For each of `others`: by how much the mean of a over banks is above its own.

    a and each other hold one array (items,) per bank, of the same items in the same order. The
    items drawn anew are the same for all; raises ValueError where they can not be.
    """
    if any(len(other) != len(a) for other in others):
        raise ValueError("expected the same items for all, at least one per bank")
    rows: list[Any] = [[a[k], *(other[k] for other in others)] for k in range(len(a))]
    found = resample(rows, repeats, seed=seed)
    return [found.difference(0, i) for i in range(1, len(others) + 1)]


def holm(p: npt.ArrayLike) -> Array:
    """p-values (n,) adjusted for their number: the chance that any of the true hypotheses among
    them is rejected stays below the level, however they depend on each other.

    Stepping down from the smallest: the k-th of n is multiplied by n - k + 1, at least as large
    as the one before, at most 1. Source: Holm (1979).
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def resampled_means(scores: Sequence[npt.ArrayLike], repeats: int, seed: int) -> Array:
    """Means (repeats, plans, banks) over items drawn anew, with replacement, within each bank.

    scores holds one array (plans, items) per bank. All plans of a repeat share its items.
    Rounded to 12 digits: what scores the same on every item has the same means, in whatever order
    they were summed.
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
    return means.round(12)


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
    and unit (banks,). The interval reaches over two: the percentiles, which are too high where the
    best of many noisy plans looks too good, and these reflected about the value, which removes
    that, but is too low where few plans are within the reference.
    It is nan where a bank has fewer than LEAST items, or each has one.
    Source: percentile and basic interval of Davison and Hinkley (1997), chapter 5.
    """
    banks = [np.asarray(bank, dtype=np.float64) for bank in scores]
    measured = np.stack([bank.mean(axis=1) for bank in banks], axis=1)
    anchors = np.asarray(zero, dtype=np.float64), np.asarray(unit, dtype=np.float64)
    value = pareto.hypervolume((anchors[0] - measured) / anchors[1], reference)
    if not enough([bank.shape[1] for bank in banks]):
        return value, float("nan"), float("nan")
    again = [
        pareto.hypervolume((anchors[0] - means) / anchors[1], reference)
        for means in resampled_means(banks, repeats, seed)
    ]
    low, high = map(float, np.quantile(again, [(1 - level) / 2, (1 + level) / 2]))
    return value, max(0.0, min(low, 2 * value - high)), max(high, 2 * value - low)


def enough(items: Iterable[int]) -> bool:
    """Whether items drawn anew tell how means of banks of so many items vary."""
    several = [n for n in items if n > 1]
    return bool(several) and min(several) >= LEAST
