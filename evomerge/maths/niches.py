"""Items as limited resources: what members of a population get of them, and who mates with whom.

Source: Abrantes, Lange and Tang (2025), Competition and Attraction Improve Model Fusion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def shares(answers: Sequence[Mapping[str, float]], alpha: float) -> Array:
    """What each of P members gets of each item (P, I), over the number of items it answered.

    A score is divided by (the sum over all members)^alpha: an item that all solve is worth little
    to each. Where members have answered different items, the sum is P times the mean of those who
    have, and an item not answered is nan and does not count.
    """
    items = sorted(set().union(*answers))
    scores = np.array([[row.get(item, np.nan) for item in items] for row in answers])
    scores = scores.reshape(len(answers), len(items))
    there = ~np.isnan(scores)
    total = len(answers) * np.nansum(scores, axis=0) / np.maximum(there.sum(axis=0), 1)
    worth = np.where(total > 0, total, 1.0) ** alpha
    return np.asarray(scores / worth / np.maximum(there.sum(axis=1, keepdims=True), 1))


def mates(shares: Array, rng: np.random.Generator) -> tuple[int, int]:
    """Two different members by their shares (P, I): one by what it gets, and one that attracts it.

    The second is drawn in proportion to what it gets beyond the first, summed over the items where
    it gets more, of those that both have answered.
    """
    first = _drawn(np.nansum(shares, axis=1), rng)
    attraction = np.nansum(np.maximum(shares - shares[first], 0.0), axis=1)
    others = np.delete(np.arange(len(shares)), first)
    return first, int(others[_drawn(attraction[others], rng)])


def _drawn(weights: Array, rng: np.random.Generator) -> int:
    """An index in proportion to weights; all alike where there is none."""
    total = weights.sum()
    if not total > 0:
        return int(rng.integers(len(weights)))
    return int(rng.choice(len(weights), p=weights / total))
