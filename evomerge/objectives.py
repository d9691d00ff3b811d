"""From scores to losses: anchors are frozen before the search, so that losses stay comparable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from evomerge.maths.estimates import Estimate, standard_error

if TYPE_CHECKING:
    from evomerge.answers import Answers, Place, Scores


@dataclass(frozen=True)
class Anchor:
    """Loss 0 is `zero`, the best of base and experts; `unit` lower is loss 1.

    `exact`: scores are measures of the model, not samples. There loss 0 is the ideal, a score of
    1, and loss 1 is the worst of base and experts. What is no `skill`, as an exact one is not,
    weighs nothing beside what is.
    """

    zero: float
    unit: float
    exact: bool = False
    skill: bool = True

    def loss(self, score: float) -> float:
        return (self.zero - score) / self.unit

    def score(self, loss: float) -> float:
        return self.zero - loss * self.unit


def anchor(base: Scores, experts: Sequence[Scores]) -> Anchor:
    """Unit: the largest of (best - base), twice the best's standard error, 0.05 of the range."""
    best = max([base, *experts], key=lambda scores: float(scores.mean()))
    zero = float(best.mean())
    gap = zero - float(base.mean())
    return Anchor(zero, max(gap, 2 * standard_error(best), 0.05))


def exact_anchor(base: Scores, experts: Sequence[Scores]) -> Anchor:
    """From 1 to the lowest of base and experts; to 0, if that is 1 too."""
    lowest = min(float(scores.mean()) for scores in [base, *experts])
    return Anchor(1.0, 1.0 - lowest or 1.0, exact=True)


class Losses:
    """Losses of plans, by the signal that each objective's search sees."""

    def __init__(self, anchors: Mapping[str, Anchor], signals: Mapping[str, str]) -> None:
        self.anchors = dict(anchors)
        self.signals = dict(signals)

    def of(self, estimates: Sequence[Estimate]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Losses (M,) of estimated scores (M,), and their standard errors (M,)."""
        pairs = list(zip(estimates, self.anchors.values(), strict=True))
        spread = tuple(0.0 if a.exact else estimate.error / a.unit for estimate, a in pairs)
        return self.of_scores([estimate.score for estimate in estimates]), spread

    def seen(self, answers: Answers, key: str, places: Sequence[Place]) -> list[float]:
        """Means (M,) of the signals that the search sees."""
        return [
            float(answers.column(key, objective, places, signal).mean())
            for objective, signal in self.signals.items()
        ]

    def of_scores(self, scores: Sequence[float]) -> tuple[float, ...]:
        """Losses of mean scores (M,) on the scale of the anchors."""
        return tuple(
            anchor.loss(score) for anchor, score in zip(self.anchors.values(), scores, strict=True)
        )

    def weights(self, prefer: Mapping[str, float]) -> list[float]:
        """What objectives (M,) weigh in the mean by which one point is chosen: as preferred; else
        all the same, and what is no skill, as a measure of the model, nothing beside skills."""
        if prefer:
            return [prefer.get(name, 0.0) for name in self.anchors]
        skills = [float(anchor.skill and not anchor.exact) for anchor in self.anchors.values()]
        return skills if any(skills) else [1.0] * len(skills)

    def to_json(self) -> dict[str, Any]:
        rows = {name: asdict(anchor) for name, anchor in self.anchors.items()}
        for row in rows.values():
            if row["skill"]:  # as nearly all are: only what is none is said
                del row["skill"]
        return rows
