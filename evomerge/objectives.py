"""From scores to losses: anchors are frozen before the search, so that losses stay comparable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from evomerge.answers import Answers, Place, Scores


@dataclass(frozen=True)
class Anchor:
    """Loss 0 is `zero`, the best of base and experts; `unit` lower is loss 1.

    `exact`: scores are measures of the model, not samples. There loss 0 is the ideal, a score of
    1, and loss 1 is the worst of base and experts.
    """

    zero: float
    unit: float
    exact: bool = False

    def loss(self, score: float) -> float:
        return (self.zero - score) / self.unit

    def score(self, loss: float) -> float:
        return self.zero - loss * self.unit


def standard_error(scores: Scores) -> float:
    """Of a mean of scores in [0, 1]; equal ones count as if half an answer stood on each side."""
    n = len(scores)
    p = (float(scores.sum()) + 0.5) / (n + 1)
    variance = float(scores.var()) or p * (1 - p)
    return float(np.sqrt(variance / n))


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

    def of(
        self, answers: Answers, key: str, places: Sequence[Place]
    ) -> tuple[tuple[float, ...], tuple[float, ...], int]:
        """Losses (M,), their standard errors (M,) and the number of items behind them."""
        columns = self._columns(answers, key, places)
        losses = self.of_scores([float(scores.mean()) for scores in columns])
        spread = tuple(
            0.0 if anchor.exact else standard_error(scores) / anchor.unit
            for scores, anchor in zip(columns, self.anchors.values(), strict=True)
        )
        return losses, spread, sum(map(len, columns))

    def seen(self, answers: Answers, key: str, places: Sequence[Place]) -> list[float]:
        """Means (M,) of the signals that the search sees."""
        return [float(scores.mean()) for scores in self._columns(answers, key, places)]

    def _columns(self, answers: Answers, key: str, places: Sequence[Place]) -> list[Scores]:
        return [
            answers.column(key, objective, places, signal)
            for objective, signal in self.signals.items()
        ]

    def of_scores(self, scores: Sequence[float]) -> tuple[float, ...]:
        """Losses of mean scores (M,) on the scale of the anchors."""
        return tuple(
            anchor.loss(score) for anchor, score in zip(self.anchors.values(), scores, strict=True)
        )

    def to_json(self) -> dict[str, Any]:
        return {name: asdict(anchor) for name, anchor in self.anchors.items()}
