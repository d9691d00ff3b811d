"""What a merge must not lose: scores that it has to keep on further banks.

In the search a candidate that lacks some of it counts as worse than any that does not, by how much
it lacks (feasibility first; Deb 2000). What is confirmed keeps it with confidence: the one-sided
lower bound, paired where the limit is another model's score.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from evomerge import errors
from evomerge.answers import Answers, Place
from evomerge.estimation import Estimation
from evomerge.maths.estimates import Estimate, standard_error
from evomerge.plan import Plan
from evomerge.plugins import REFERENCE_POINT
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

    def losses(
        self,
        losses: tuple[float, ...],
        found: Sequence[Estimate],
        estimation: Estimation,
        places: Sequence[Place],
    ) -> tuple[float, ...]:
        """The losses (M,), or beyond the reference point where an estimated score lacks
        something; `found` are the estimates of what is to be kept."""
        lack = max([0.0, *self._lacks(found, estimation, places)])
        return tuple(REFERENCE_POINT * (1 + lack) for _ in losses) if lack > 0 else losses

    def _lacks(
        self, found: Sequence[Estimate], estimation: Estimation, places: Sequence[Place]
    ) -> Iterable[float]:
        for mine, (name, one) in zip(found, self.keep.items(), strict=True):
            limit = one.at_least or 0.0
            if one.within is not None:
                theirs, _ = estimation.one(self.others[name].key, name, places)
                limit = theirs.score - one.within
            yield limit - mine.score

    def margins(self, key: str, split: str) -> dict[str, Margin]:
        """Of a plan that has answered the whole split."""
        return {name: self._margin(name, one, key, split) for name, one in self.keep.items()}

    def _margin(self, name: str, one: Keep, key: str, split: str) -> Margin:
        places = self.answers.places(split)
        scores = self.answers.column(key, name, places)
        z = NormalDist().inv_cdf(one.confidence)
        if one.within is None:
            mean, error = float(scores.mean()) - (one.at_least or 0.0), standard_error(scores)
        else:
            apart = scores - self.answers.column(self.others[name].key, name, places)
            mean = float(apart.mean()) + one.within
            error = float(np.sqrt(apart.var() / len(apart)))
        return Margin(mean, mean - z * error)

    def kept(self, shortlist: Mapping[str, Plan], split: str) -> dict[str, dict[str, Margin]]:
        """Margins of those who keep everything, by label.

        Raises Unconfirmed if none does, naming the closest.
        """
        found = {label: self.margins(plan.key, split) for label, plan in shortlist.items()}
        least = {
            label: min((m.low for m in row.values()), default=0.0) for label, row in found.items()
        }
        if found and max(least.values()) < 0:
            closest = max(least, key=lambda label: least[label])
            raise errors.Unconfirmed(
                f"no candidate keeps what it must on {split}; the closest is {closest}: "
                + ", ".join(self._said(name, m) for name, m in found[closest].items())
                + ". Search longer, give the bank more items, or ask for less"
            )
        return {label: row for label, row in found.items() if least[label] >= 0}

    def _said(self, name: str, margin: Margin) -> str:
        where = f"{margin.mean:+.3f} from what is wanted, lower bound {margin.low:+.3f}"
        return f"'{name}' {where} ({self.keep[name].wanted()})"
