"""What a merge must not lose: scores that it has to keep on further banks.

In the search a candidate that lacks some of it counts as worse than any that does not and is no
worse than the worst of base and experts, by how much it lacks (feasibility first; Deb 2000). What
is confirmed keeps it with confidence: the one-sided lower bound, paired where the limit is another
model's score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from evomerge import errors
from evomerge.answers import Answers, Place, Scores
from evomerge.estimation import Estimation
from evomerge.maths import intervals
from evomerge.maths.estimates import Estimate
from evomerge.plan import Plan
from evomerge.schema import Keep


@dataclass(frozen=True)
class Margin:
    """How far a score is above what is to be kept, and the lower bound of that."""

    mean: float
    low: float


class Constraints:
    """Those of a recipe, by name; `ends` are the plans of base and experts, by label."""

    def __init__(
        self, keep: Mapping[str, Keep], answers: Answers, ends: Mapping[str, Plan]
    ) -> None:
        self.keep, self.answers = dict(keep), answers
        self.others = {
            name: ends[one.of if one.of in ends else f"expert {one.of}"]
            for name, one in keep.items()
            if one.within is not None
        }

    def lacking(
        self,
        key: str,
        found: Sequence[Estimate],
        estimation: Estimation,
        places: Sequence[Place],
    ) -> tuple[float, float]:
        """How much is lacking where a plan lacks most (0: nothing), and the probability that it
        keeps what it keeps least surely; `found` are the estimates of what is to be kept."""
        lacks, keeps = 0.0, 1.0
        for mine, (name, one) in zip(found, self.keep.items(), strict=True):
            lack, error = (one.at_least or 0.0) - mine.score, mine.error
            if one.within is not None:
                theirs, _ = estimation.one(self.others[name].key, name, places)
                lack = theirs.score - one.within - mine.score
                if estimation.paired:  # else the other's score is that on all items
                    error = _error(self._apart(name, key, places))
            lacks = max(lacks, lack)
            keeps = min(keeps, NormalDist(lack, error).cdf(0.0) if error else float(lack <= 0))
        return lacks, keeps

    def _apart(self, name: str, key: str, places: Sequence[Place]) -> Scores:
        """How much better than the other model a plan answered each item."""
        mine, theirs = (self.answers.column(k, name, places) for k in (key, self.others[name].key))
        return np.asarray(mine - theirs)

    def margins(self, key: str, split: str) -> dict[str, Margin]:
        """Of a plan that has answered the whole split."""
        return {name: self._margin(name, one, key, split) for name, one in self.keep.items()}

    def _margin(self, name: str, one: Keep, key: str, split: str) -> Margin:
        places = self.answers.places(split)
        if one.within is not None:
            return margin_within(self._apart(name, key, places), one.within, one.confidence)
        scores = self.answers.column(key, name, places)
        return margin_over(scores, one.at_least or 0.0, one.confidence)

    def kept(self, shortlist: Mapping[str, Plan], split: str) -> dict[str, dict[str, Margin]]:
        """Margins of those who keep everything, by label.

        Raises Unconfirmed if none does, naming the closest, or who could not be compared with.
        """
        for name, other in self.others.items():
            if self.answers.split(other.key, split, [name]) is None:
                raise errors.Unconfirmed(
                    f"'{name}' can not be compared with {self.keep[name].of} on {split}: "
                    f"{self.answers.failures[other.key]}"
                )
        found = {label: self.margins(plan.key, split) for label, plan in shortlist.items()}
        least = {
            label: min((m.low for m in row.values()), default=0.0) for label, row in found.items()
        }
        if found and max(least.values()) < 0:
            closest = max(least, key=lambda label: least[label])
            raise errors.Unconfirmed(
                f"none of {len(found)} that were tried keeps what it must on {split}; the closest "
                f"is {closest}: "
                + ", ".join(self._said(name, m) for name, m in found[closest].items())
                + ". Search longer, give the bank more items, or ask for less"
            )
        return {label: row for label, row in found.items() if least[label] >= 0}

    def _said(self, name: str, margin: Margin) -> str:
        where = f"{margin.mean:+.3f} from what is wanted, lower bound {margin.low:+.3f}"
        return f"'{name}' {where} ({self.keep[name].wanted()})"


def margin_within(apart: Scores, within: float, confidence: float) -> Margin:
    """Of differences to another model's scores (I,), of which the mean may be `within` below 0.

    At the limit so many answers are lost at least: no error is smaller than that says, as in the
    score test (Tango 1998).
    """
    mean, least = float(apart.mean()) + within, math.sqrt(within * (1 - within) / len(apart))
    return Margin(mean, mean - NormalDist().inv_cdf(confidence) * max(_error(apart), least))


def margin_over(scores: Scores, least: float, confidence: float) -> Margin:
    """Of scores (I,) in [0, 1], of which the mean may not be below `least`; Wilson's bound."""
    low, _ = intervals.of_mean(scores, NormalDist().inv_cdf(confidence))
    return Margin(float(scores.mean()) - least, round(low - least, 12))  # 0 exactly at the least


def penalised(losses: tuple[float, ...], lacks: float, worst: float) -> tuple[float, ...]:
    """The losses (M,), or beyond `worst` in all objectives where something is lacking."""
    return tuple(worst * (1 + lacks) for _ in losses) if lacks > 0 else losses


def _error(apart: Scores) -> float:
    """The standard error of the mean of differences, as if of two more items one were won for one
    lost by halves: few items that agree prove little (Agresti and Min 2005)."""
    n = len(apart) + 2
    variance = ((apart**2).sum() + 1) / n - (apart.sum() / n) ** 2
    return math.sqrt(float(variance) / n)
