"""Which point of a front suits someone with preferences; by `validation`, as the choice is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
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
        for name, weight in self.weights.items():
            if not 0 <= weight < float("inf"):
                raise errors.RecipeError(f"prefer: '{name}' weighs {weight}, expected 0 or more")
        if self.weights and not any(self.weights.values()):
            raise errors.RecipeError("prefer: all weights are 0")

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


def parsed(option: str, text: str) -> dict[str, float]:
    """`math=2,code=1` as numbers by objective; RecipeError says what is wrong."""
    found = {}
    for part in filter(None, text.split(",")):
        name, sign, value = part.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            sign = ""
        if not sign or not name.strip():
            raise errors.RecipeError(
                f"{option}: expected objective=number, with commas between, got '{part}'"
            )
    return found
