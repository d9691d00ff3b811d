"""Few items for everybody, more for those that nobody beats yet; around any other strategy.

Candidates are compared on the items that both have answered, the first ones of one order. One
that has answered a rung of items goes on to the next, unless a candidate is better in every
objective with joint confidence. Source: races of Maron and Moore (1994); rungs and asynchronous
promotion of ASHA (Li et al. 2020), here by dominance instead of rank.

What it costs to build the model again is not weighed: an ask does not know it. It is small beside
30 items for models of any size, as both grow with the number of weights.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field
from scipy import stats

from evomerge import errors, plugins
from evomerge.genome import Space
from evomerge.plugins import Observation, Proposal, Start

INNER: Mapping[str, Any] = {"name": "nsga2"}
WHERE = "strategy.racing"

Answers = Mapping[str, Mapping[str, float]]


def needs(options: Mapping[str, Any]) -> frozenset[str]:
    """Answers, and what the inner strategy can not do without."""
    inner = plugins.inner(options.get("inner", INNER), f"{WHERE}.inner")
    return plugins.strategy_needs(*inner) | Strategy.NEEDS


class Strategy:
    """`inner`: {"name": ..., its options}; it is told a candidate again with every rung.

    `rungs`: items of each bank, rising. `confidence`: how probable it is to be that a candidate
    is beaten by one of the others before it gets no more items; it is shared among them. Compared
    are scores, whatever other signal losses are of.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset({"answers"})

    def __init__(
        self,
        space: Space,
        objectives: Sequence[str],
        *,
        seed: int,
        start: Start = (),
        inner: Mapping[str, Any] = INNER,
        rungs: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)] | None = None,
        confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95,
    ) -> None:
        self._rungs = [30, 90, 270] if rungs is None else list(rungs)
        if sorted(set(self._rungs)) != self._rungs:
            raise errors.RecipeError(f"{WHERE}.rungs: got {self._rungs}, expected rising numbers")
        self._objectives, self._confidence = list(objectives), confidence
        where = f"{WHERE}.inner"
        self._inner = plugins.begin(
            *plugins.inner(inner, where), space, objectives, seed=seed, where=where, start=start
        )
        self._points: dict[int, Proposal] = {}
        self._answers: dict[int, Answers] = {}
        self._wanted: dict[int, int] = {}
        self._beaten: set[int] = set()
        self._promoted: deque[int] = deque()

    def ask(self, n: int) -> list[Proposal]:
        proposals: list[Proposal] = []
        while self._promoted and len(proposals) < n:
            id = self._promoted.popleft()
            proposals.append(replace(self._points[id], items=self._wanted[id]))
        for proposal in self._inner.ask(n - len(proposals)):
            self._points[proposal.id] = proposal
            self._wanted[proposal.id] = self._rungs[0]
            proposals.append(replace(proposal, items=self._rungs[0]))
        return proposals

    def tell(self, observations: Sequence[Observation]) -> None:
        self._inner.tell(observations)
        for seen in observations:
            if seen.point is not None:
                self._points[seen.id] = replace(self._points[seen.id], point=seen.point)
            if seen.failed or seen.answers is None:
                self._answers.pop(seen.id, None)
            else:
                self._race(seen.id, seen.answers)

    def incumbents(self) -> list[tuple[float, ...]]:
        return self._inner.incumbents()

    def _race(self, id: int, answers: Answers) -> None:
        """Promote a candidate that has answered a further rung, unless it is beaten."""
        before, there = self._answered(self._answers.get(id, {})), self._answered(answers)
        self._answers[id] = answers
        if there <= before or there < self._wanted[id]:  # told again, or there are no more items
            return
        rivals = [other for other in self._answers if other not in self._beaten | {id}]
        needed = 1 - (1 - self._confidence) / max(1, len(rivals))
        if any(self._dominance(other, id) >= needed for other in rivals):
            self._beaten.add(id)
            return
        following = [rung for rung in self._rungs if rung > there]
        if following:
            self._wanted[id] = following[0]
            self._promoted.append(id)

    def _answered(self, answers: Answers) -> int:
        """Items of the bank of which most were answered: a bank may have fewer than a rung."""
        return max((len(row) for row in answers.values()), default=0)

    def _dominance(self, one: int, other: int) -> float:
        """How probable it is that `one` is better in every objective, on what both answered."""
        chance = 1.0
        for name in self._objectives:
            mine, its = self._answers[one][name], self._answers[other][name]
            apart = np.array([score - its[i] for i, score in mine.items() if i in its])
            # A single answer is a measure of the model or a function: no sample of anything
            chance *= float(apart[0] >= 0) if len(apart) == 1 else better(apart)
        return chance


def better(differences: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """The probability that the mean of differences (n,) of paired answers is above 0.

    By Student's t under a flat prior; its degrees of freedom count the answers that differ, as
    the others say nothing: with answers of 0 or 1 it is near the sign test.
    """
    differing = int(np.count_nonzero(differences))
    mean = float(differences.mean()) if differing else 0.0
    if differing < 2:
        return 0.5
    # Differences that are nearly equal count as if one more answer had none
    spread = max(float(differences.std(ddof=1)), abs(mean) / np.sqrt(len(differences) + 1), 1e-12)
    return float(stats.t.cdf(mean / spread * np.sqrt(len(differences)), differing - 1))
