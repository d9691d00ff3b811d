"""Which point of a front suits someone with preferences; by `validation`, as the choice is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from evomerge import errors
from evomerge.maths import pareto

if TYPE_CHECKING:
    from evomerge.front import Point
    from evomerge.run import Run


@dataclass(frozen=True)
class Preference:
    """By objective: `weights` of a weighted mean of scores (0 for those not named), scores of
    `at_least`, a wished-for score to come `near` to. All may be given; `near` goes before
    `weights`, and without either objectives weigh what they do in the choice of the run.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    at_least: Mapping[str, float] = field(default_factory=dict)
    near: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for option in ("weights", "at_least", "near"):
            given = getattr(self, option)
            numbers = isinstance(given, Mapping) and all(
                isinstance(value, Real) for value in given.values()
            )
            if not numbers:
                raise errors.RecipeError(f"{option}: expected {{objective: number}}, got {given}")
        for name, weight in self.weights.items():
            if not 0 <= weight < float("inf"):
                raise errors.RecipeError(f"prefer: '{name}' weighs {weight}, expected 0 or more")
        if self.weights and not 0 < sum(self.weights.values()) < float("inf"):
            raise errors.RecipeError("prefer: all weights are 0, or too large to be added up")
        for option in ("at_least", "near"):
            for name, score in getattr(self, option).items():
                if not math.isfinite(score):
                    raise errors.RecipeError(f"{option}: '{name}' is {score}, expected a number")

    def pick(self, run: Run) -> Point:
        """The point of the run's front that suits best.

        Raises RecipeError for an unknown objective, or where no point has the scores of
        `at_least`; it then names the closest.
        """
        for option in ("weights", "at_least", "near"):
            for name in getattr(self, option):
                if name not in run.objectives:
                    place = "prefer" if option == "weights" else option
                    raise errors.RecipeError(
                        errors.unknown(place, "objective", name, run.objectives)
                    )
        points = self._allowed(run)
        worth = self._nearness(run, points) if self.near else self._mean(run, points)
        return points[int(np.argmax(worth))]

    def is_exceeded(self, run: Run) -> bool:
        """Whether each point of the front is better than wished for in every objective."""
        wishes = [(run.objectives.index(name), score) for name, score in self.near.items()]
        return bool(wishes) and all(
            point.means("validation")[i] > score for point in run.front for i, score in wishes
        )

    def _allowed(self, run: Run) -> list[Point]:
        bounds = {run.objectives.index(name): low for name, low in self.at_least.items()}
        lacks = [
            max([0.0, *(low - point.means("validation")[i] for i, low in bounds.items())])
            for point in run.front
        ]
        allowed = [point for point, lack in zip(run.front, lacks, strict=True) if lack <= 0]
        if not allowed:
            closest = run.front[int(np.argmin(lacks))]
            means = closest.means("validation")
            has = ", ".join(f"{run.objectives[i]} {means[i]:.3f}" for i in bounds)
            wanted = ", ".join(f"{name} {low:g}" for name, low in self.at_least.items())
            raise errors.RecipeError(
                f"{run.folder}: no point of the front has at least {wanted} on validation; the "
                f"closest is {closest.label} with {has}"
            )
        return allowed

    def _mean(self, run: Run, points: Iterable[Point]) -> list[float]:
        named = [self.weights.get(name, 0.0) for name in run.objectives]
        weights = named if self.weights else run.weights
        return [float(np.average(run.seen(point), weights=weights)) for point in points]

    def _nearness(self, run: Run, points: Iterable[Point]) -> list[float]:
        """Minus Wierzbicki's (1980) achievement function, over the objectives that are named: the
        largest shortfall in units of loss, and a little of them all."""
        named = [run.objectives.index(name) for name in self.near]
        units = np.array([run.losses.anchors[name].unit for name in self.near])
        target = np.array(list(self.near.values()))
        rows = np.array([np.array(point.means("validation"))[named] for point in points])
        return [-float(x) for x in pareto.scalarise((target - rows) / units, np.ones(len(named)))]


def parsed(option: str, text: str | None) -> dict[str, float]:
    """`math=2,code=1` as numbers by objective; RecipeError says what is wrong.

    None is an option that was not given; a text that names nothing is wrong too.
    """
    found: dict[str, float] = {}
    parts = [] if text is None else list(filter(None, text.split(","))) or [text]
    for part in parts:
        name, sign, value = (piece.strip() for piece in part.partition("="))
        try:
            number = float(value)
        except ValueError:
            sign = ""
        if not sign or not name:
            raise errors.RecipeError(
                f"{option}: expected objective=number, with commas between, got '{part}'"
            )
        if name in found:
            raise errors.RecipeError(f"{option}: '{name}' stands twice")
        found[name] = number
    return found
