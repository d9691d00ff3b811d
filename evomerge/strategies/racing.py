"""Few items for everybody, more for those that nobody beats yet; around any other strategy.

Candidates are compared on the items that both have answered, the first ones of one order. One
that has answered a rung of items goes on to the next, unless a candidate is better in every
objective with joint confidence. Source: races of Maron and Moore (1994); rungs and asynchronous
promotion of ASHA (Li et al. 2020), here by dominance instead of rank.

Each further rung has the model built again, unless a worker still holds it. A rung that has fewer
items than that costs is passed over: so building costs no more than answering does, but for the
last rung, where no other is left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import special

from evomerge import errors, plugins
from evomerge.genome import Space
from evomerge.plugins import Observation, Proposal, Start

INNER: Mapping[str, Any] = {"name": "nsga2"}
WHERE = "strategy.racing"

Array = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
Answers = Mapping[str, Mapping[str, float]]


def needs(options: Mapping[str, Any]) -> frozenset[str]:
    """Answers, and what the inner strategy can not do without."""
    inner = plugins.inner(options.get("inner", INNER), f"{WHERE}.inner")
    return plugins.strategy_needs(*inner) | Strategy.NEEDS


class Strategy:
    """`inner`: {"name": ..., its options}; it is told a candidate again with every rung.

    `rungs`: items of each bank, rising. `confidence`: how probable it is to be that a candidate
    is beaten by one of the others before it gets no more items; it is shared among them.
    `rebuild`: as how many items of each bank building a model takes; `evomerge plan --probe` says.
    Compared are scores, whatever other signal losses are of. Who lacks with that confidence
    something that has to be kept gets no more items either; one that may lack it does, and beats
    only those that are as likely to.
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
        rebuild: Annotated[float, Field(ge=0)] = 0.0,
    ) -> None:
        self._rungs = [30, 90, 270] if rungs is None else list(rungs)
        if sorted(set(self._rungs)) != self._rungs:
            raise errors.RecipeError(f"{WHERE}.rungs: got {self._rungs}, expected rising numbers")
        self._objectives, self._confidence = list(objectives), confidence
        self._rebuild = rebuild
        where = f"{WHERE}.inner"
        self._inner = plugins.begin(
            *plugins.inner(inner, where), space, objectives, seed=seed, where=where, start=start
        )
        self._points: dict[int, Proposal] = {}
        self._scores = {name: _Scores() for name in self._objectives}
        self._answered: dict[int, int] = {}
        self._keeps: dict[int, float] = {}
        self._wanted: dict[int, int] = {}
        self._beaten: set[int] = set()
        self._promoted: deque[int] = deque()

    def ask(self, n: int) -> list[Proposal]:
        proposals: list[Proposal] = []
        while self._promoted and len(proposals) < n:
            id = self._promoted.popleft()
            proposals.append(replace(self._points[id], items=self._wanted[id]))
        left = n - len(proposals)  # of 0 the answer is empty too, which would say: finished
        for proposal in self._inner.ask(left) if left else ():
            self._points[proposal.id] = proposal
            self._wanted[proposal.id] = first = self._following(0)
            proposals.append(replace(proposal, items=first))
        return proposals

    def tell(self, observations: Sequence[Observation]) -> None:
        # In a replay, one that another version asked for may not be known
        known = [seen for seen in observations if seen.id in self._points]
        self._inner.tell(known)
        for seen in known:
            if seen.point is not None:
                self._points[seen.id] = replace(self._points[seen.id], point=seen.point)
            if seen.failed or seen.answers is None:
                self._answered.pop(seen.id, None)
            else:
                self._keeps[seen.id] = seen.keeps
                self._race(seen.id, seen.answers)

    def promoted(self) -> int:
        return len(self._promoted) + plugins.promoted(self._inner)

    def incumbents(self) -> list[tuple[float, ...]]:
        return self._inner.incumbents()

    def notes(self) -> list[str]:
        return plugins.notes(self._inner)

    def _race(self, id: int, answers: Answers) -> None:
        """Promote a candidate that has answered a further rung, unless it is beaten."""
        # Of the bank of which most was answered: another may have fewer items than a rung
        there = max((len(row) for row in answers.values()), default=0)
        before = self._answered.get(id, 0)
        self._answered[id] = there
        for name in self._objectives:
            self._scores[name].keep(id, answers.get(name, {}))
        if there <= before or there < self._wanted[id]:  # told again, or there are no more items
            return
        if self._is_beaten(id):
            self._beaten.add(id)
            return
        if there < self._rungs[-1]:
            self._wanted[id] = self._following(there)
            self._promoted.append(id)

    def _following(self, there: int) -> int:
        """The next rung after so many items that is worth a build, or the last."""
        worth = (rung for rung in self._rungs if rung > there and rung - there >= self._rebuild)
        return next(worth, self._rungs[-1])

    def _is_beaten(self, id: int) -> bool:
        """Whether it lacks something that has to be kept, or another, no likelier to lack it, is
        better in every objective, with joint confidence."""
        if 1 - self._keeps[id] >= self._confidence:
            return True
        # Of two that surely keep it, it does not matter which is surer
        surely = min(self._keeps[id], self._confidence)
        rivals = [
            other
            for other in self._answered
            if other not in self._beaten and other != id and self._keeps[other] >= surely
        ]
        if not rivals:
            return False
        needed = 1 - (1 - self._confidence) / len(rivals)  # above 0.5, for each objective too
        left = np.array(rivals)
        for scores in self._scores.values():
            left = left[scores.may_be_above(left, id)]
        chances = np.ones(len(left))
        for scores in self._scores.values():
            apart = scores.above(left, id)
            # An objective of one item is a measure of the model or a function: no sample
            single = apart.shape[1] == 1
            chances = chances * (np.all(apart >= 0, axis=1) if single else better(apart))
            left, chances = left[chances >= needed], chances[chances >= needed]
        return bool(len(left))


class _Scores:
    """Scores of candidates on the items of one objective, and which there are.

    Rows are candidates by id, columns items in the order in which they came.
    """

    def __init__(self) -> None:
        self._columns: dict[str, int] = {}
        self._scores = np.zeros((0, 0))
        self._known = np.zeros((0, 0))

    def keep(self, id: int, scores: Mapping[str, float]) -> None:
        columns = [self._columns.setdefault(item, len(self._columns)) for item in scores]
        rows, width = self._known.shape
        if id >= rows or len(self._columns) > width:
            shape = (max(2 * id + 2, rows), max(len(self._columns), width))
            self._scores, self._known = _grown(self._scores, shape), _grown(self._known, shape)
        self._scores[id, columns] = list(scores.values())
        self._known[id, columns] = 1.0

    def may_be_above(self, others: Ids, id: int) -> npt.NDArray[np.bool_]:
        """Of others (R,), who does not score less than one in sum: only they can be better.

        Two products with all rows, which are contiguous, cost less than a look at each item.
        """
        last = int(others.max(initial=-1)) + 1
        sums = self._scores[:last] @ self._known[id] - self._known[:last] @ self._scores[id]
        return np.asarray(sums[others] >= -1e-6)  # by however much a product may be rounded

    def above(self, others: Ids, id: int) -> Array:
        """How much each of the others scores above one, item by item (R, I); nan: not known."""
        both = self._known[others] * self._known[id]
        return np.where(both > 0, self._scores[others] - self._scores[id], np.nan)


def _grown(table: Array, shape: tuple[int, int]) -> Array:
    """The table with further rows and columns of zeros."""
    grown = np.zeros(shape)
    grown[: table.shape[0], : table.shape[1]] = table
    return grown


def better(differences: Array) -> Array:
    """The probability (R,) that the mean of differences (R, I) of answers is above 0; nan: none.

    By Student's t under a flat prior; its degrees of freedom count the answers that differ, as
    the others say nothing: with answers of 0 or 1 it is near the sign test.
    """
    known = np.isfinite(differences)
    filled, n = np.where(known, differences, 0.0), np.maximum(known.sum(axis=1), 1)
    differing = np.count_nonzero(filled, axis=1)
    mean = filled.sum(axis=1) / n
    squares = np.where(known, (filled - mean[:, None]) ** 2, 0.0).sum(axis=1)
    # Differences that are nearly equal count as if one more answer had none
    spread = np.maximum(np.sqrt(squares / np.maximum(n - 1, 1)), np.abs(mean) / np.sqrt(n + 1))
    t = mean / np.maximum(spread, 1e-12) * np.sqrt(n)
    return np.where(differing < 2, 0.5, special.stdtr(np.maximum(differing - 1, 1), t))
