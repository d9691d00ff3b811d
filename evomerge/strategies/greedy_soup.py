"""The greedy soup: experts from the best down, each kept if the uniform mean gets no worse.

Source: Wortsman et al. (2022), Model soups, algorithm 1; "better" is a lower mean of the losses,
among those that keep what has to be kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from evomerge import errors
from evomerge.genome import Space
from evomerge.maths import pareto
from evomerge.plugins import Observation, Proposal


class Strategy:
    """Every expert alone, then one soup after another: at most 2 K - 1 candidates, and no more.

    A soup is the genes `weight` at 1 / n for its n members and 0 for others, everything else at
    its default. Raises RecipeError where the ranges of weights leave 0 or 1 out.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset({"expert_weights", "numbers_only"})

    def __init__(self, space: Space, objectives: Sequence[str], *, seed: int) -> None:
        self._space, self._objectives = space, len(objectives)
        self._weights = [gene for gene in space.genes if gene.name == "weight" and gene.expert]
        experts = tuple(dict.fromkeys(gene.expert for gene in self._weights))
        for gene in self._weights:
            if not gene.low <= 0 < 1 <= gene.high:
                raise errors.RecipeError(
                    f"strategy.greedy_soup: {gene.key} is in [{gene.low:g}, {gene.high:g}],"
                    " expected a range that holds 0 and 1"
                )
        self._soups: list[tuple[str, ...]] = [(expert,) for expert in experts]
        self._points: dict[int, tuple[float, ...]] = {}
        self._losses: dict[int, tuple[float, float]] = {}  # what it lacks comes first
        self._asked = 0

    def ask(self, n: int) -> list[Proposal]:
        if self._asked == len(self._soups) == len(self._losses):
            self._soups = self._followed()
        ids = range(self._asked, min(self._asked + n, len(self._soups)))
        self._asked += len(ids)
        return [Proposal(id, self._point(self._soups[id])) for id in ids]

    def tell(self, observations: Sequence[Observation]) -> None:
        for seen in observations:
            losses, found = seen.losses, (math.inf, math.inf)
            if pareto.measured(losses):
                found = (seen.lacks, float(np.mean(losses)))
            self._losses[seen.id] = found

    def incumbents(self) -> list[tuple[float, ...]]:
        return []

    def _followed(self) -> list[tuple[str, ...]]:
        """All soups so far, and the next to try, by what every one of them scored."""
        alone = [soup for soup in self._soups if len(soup) == 1]
        loss = {soup: self._losses[id] for id, soup in enumerate(self._soups)}
        order = sorted(alone, key=lambda soup: loss[soup])
        best: tuple[str, ...] = order[0]
        for expert in order[1:]:
            tried = best + expert
            if tried not in loss:
                return [*self._soups, tried]
            if loss[tried] <= loss[best]:
                best = tried
        return self._soups

    def _point(self, soup: Sequence[str]) -> tuple[float, ...]:
        values = {g.key: 1 / len(soup) if g.expert in soup else 0.0 for g in self._weights}
        return tuple(self._space.canonical(self._space.encode(values)).tolist())
