"""CMA-ES, one instance for each weighting of the objectives; they share what they find.

Source: Hansen and Ostermeier (2001), in the implementation pycma; restarts with a doubled
population (IPOP) of Auger and Hansen (2005); a separable covariance in high dimension of Ros and
Hansen (2008); points from outside as in Hansen (2011), Injecting external solutions.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import cma
import numpy as np
import numpy.typing as npt

from evomerge import errors
from evomerge.genome import Point, Space
from evomerge.maths import pareto
from evomerge.plugins import FAILED_LOSS, Observation, Proposal, Start
from evomerge.weightings import weightings

SEPARABLE_ABOVE = 400
"""Genes: above, a full covariance costs more evaluations to learn than a search has."""


def default_population(space: Space) -> int:
    """Of an instance, by default: 4 + 3 ln D."""
    return 4 + int(3 * math.log(max(len(space), 1)))


class Distribution:
    """One CMA-ES through all its restarts: minimises one number on the unit cube."""

    def __init__(
        self, space: Space, start: Point, key: Sequence[int], sigma0: float, population: int
    ) -> None:
        self._space = space
        self._key = tuple(key)
        self._sigma0 = sigma0
        self._population = population
        self._restarts = -1
        self._asked: dict[int, Point] = {}
        self._told: dict[int, tuple[Point, float]] = {}
        self._waiting: list[Point] = []
        self.last = -1
        self.restart(start)

    def restart(self, start: Point) -> None:
        """Begin anew at `start`, with twice the population after the first time."""
        self._restarts += 1
        # pycma knows no search in one dimension: a second one, without effect, stands beside it
        padding = 2 - len(start) if len(start) < 2 else 0
        generator = np.random.default_rng([*self._key, self._restarts])
        self._es = _quietly(
            cma.CMAEvolutionStrategy,
            np.append(start, np.full(padding, 0.5)),
            self._sigma0,
            {
                "bounds": [0.0, 1.0],
                "BoundaryHandler": "BoundTransform",
                "popsize": self._population * 2**self._restarts,
                "CMA_diagonal": len(start) > SEPARABLE_ABOVE,
                "randn": lambda *shape: generator.standard_normal(shape),
                "seed": math.nan,  # any number would seed numpy's global generator
                "signals_filename": "",  # pycma would look for a file of orders
                "verbose": -9,
                "verb_log": 0,
                "verb_disp": 0,
            },
        )

    @property
    def open(self) -> bool:
        """A generation is out, and not all of it has been told."""
        return not self._waiting and len(self._told) < len(self._asked)

    @property
    def between(self) -> bool:
        """The last generation is told, the next one not yet drawn."""
        return not self._waiting and not self._asked

    def draw(self, guest: Point | None) -> None:
        """Sample the next generation; `guest`, found by somebody else, pulls one sample."""
        if guest is not None:
            self._es.inject([self._genotype(guest)])
        samples = _quietly(self._es.ask)
        self._waiting = [x[: len(self._space)] for x in samples]

    def _genotype(self, point: Point) -> Any:
        padded = np.append(point, np.full(self._es.N - len(point), 0.5))
        return self._es.gp.geno(padded, from_bounds=self._es.boundary_handler.inverse)

    def serve(self, id: int) -> Point:
        self._asked[id] = self._space.canonical(self._waiting.pop(0))
        self.last = id
        return self._asked[id]

    def hear(self, id: int, point: Point | None, loss: float) -> bool:
        """Note one loss; True if it completed a generation and the distribution moved."""
        if id not in self._asked:
            return False
        self._told[id] = (self._asked[id] if point is None else point, loss)
        if self._waiting or len(self._told) < len(self._asked):
            return False
        # in the order of ids, so that the order of arrival does not matter
        generation = [self._told[id] for id in sorted(self._told)]
        self._asked, self._told = {}, {}
        padding = np.full(self._es.N - len(self._space), 0.5)
        points = [np.append(point, padding) for point, _ in generation]
        _quietly(self._es.tell, points, [loss for _, loss in generation])
        return True

    @property
    def exhausted(self) -> bool:
        return bool(_quietly(self._es.stop))

    @property
    def mean(self) -> Point:
        return self._space.canonical(self._es.result.xfavorite[: len(self._space)])


class Strategy:
    """Proposal number i belongs to instance i modulo J, one per weight vector (J, M).

    A generation is told when it is complete; until then its instance waits. Options: `sigma0`,
    the first step size in the unit cube; `population` per instance (default 4 + 3 ln D);
    `weights` (default: all equal, then one vector leaning to each objective); `scalar`, "sum" or
    "tchebycheff". On synthetic landscapes the sum covered more volume at 24 genes and wherever
    losses were convex, by up to 15 %: it has no ridge. At 8 genes with saturating losses the
    two were within 7 % of each other, mostly in favour of "tchebycheff".
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset({"numbers_only"})

    def __init__(
        self,
        space: Space,
        objectives: Sequence[str],
        *,
        seed: int,
        start: Start = (),
        sigma0: float = 1 / 6,
        population: int | None = None,
        weights: Sequence[Sequence[float]] | None = None,
        scalar: str = "sum",
    ) -> None:
        self._objectives = len(objectives)
        _check(sigma0, population, scalar)
        self._weights = weightings(weights, len(objectives), "cma_es")
        self._sum = scalar == "sum"
        self._next = 0
        self._start = [(np.array(p), np.array(f)) for p, f in start if pareto.measured(f)]
        self._points: dict[int, Point] = {}
        # by id, so that all are looked at in one step; NaN where nothing is known
        self._losses = np.full((64, self._objectives), np.nan)
        size = population or default_population(space)
        self._default = space.encode({})
        self._instances = [
            Distribution(space, self._best(j, -1, [])[0], (seed, j), sigma0, size)
            for j in range(len(self._weights))
        ]

    def ask(self, n: int) -> list[Proposal]:
        proposals: list[Proposal] = []
        while len(proposals) < n:
            j = self._next % len(self._instances)
            instance = self._instances[j]
            if instance.open:
                break
            if instance.between:
                instance.draw(self._guest(j))
            point = instance.serve(self._next)
            proposals.append(Proposal(self._next, tuple(point.tolist())))
            self._next += 1
        return proposals

    def tell(self, observations: Sequence[Observation]) -> None:
        for seen in observations:
            j = seen.id % len(self._instances)
            point = None if seen.point is None else np.array(seen.point)
            losses = pareto.filled(seen.losses, self._objectives, FAILED_LOSS)
            if seen.id >= len(self._losses):
                more = np.full((len(self._losses) + seen.id, self._objectives), np.nan)
                self._losses = np.concatenate([self._losses, more])
            self._losses[seen.id] = np.nan
            if point is not None and pareto.measured(seen.losses):
                self._points[seen.id], self._losses[seen.id] = point, losses
            moved = self._instances[j].hear(seen.id, point, float(self._scalar(losses, j)))
            if moved and self._instances[j].exhausted:
                self._instances[j].restart(self._best(j, self._instances[j].last, [j])[0])

    def incumbents(self) -> list[tuple[float, ...]]:
        """The means of the distributions, one per weight vector."""
        return [tuple(instance.mean.tolist()) for instance in self._instances]

    def _scalar(self, losses: npt.NDArray[np.float64], j: int) -> npt.NDArray[np.float64]:
        if self._sum:
            return np.asarray(losses @ self._weights[j])
        return pareto.scalarise(losses, self._weights[j])

    def _best(self, j: int, until: int, instances: Sequence[int]) -> tuple[Point, float]:
        """The best point for weights j: of the start, and of what `instances` found by id `until`.

        Later ids do not count: how many of them are known depends on how asks are cut up.
        """
        best, least = self._default, math.inf
        for point, losses in self._start:
            loss = float(self._scalar(losses, j))
            if loss < least:
                best, least = point, loss
        ids = np.arange(min(until + 1, len(self._losses)))
        ids = ids[np.isin(ids % len(self._weights), instances)]
        if len(ids):
            values = np.nan_to_num(self._scalar(self._losses[ids], j), nan=math.inf)
            first = int(values.argmin())
            if values[first] < least:
                best, least = self._points[int(ids[first])], float(values[first])
        return best, least

    def _guest(self, j: int) -> Point | None:
        """The best point for weights j, if another instance has found it."""
        last = self._instances[j].last
        own = self._best(j, last, [j])[1]
        others = [k for k in range(len(self._instances)) if k != j]
        point, loss = self._best(j, last, others)
        return point if loss < own else None


def _quietly(call: Any, *arguments: Any) -> Any:
    """pycma's remarks (flat losses, injected points told back rounded) are no news here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*arguments)


def _check(sigma0: float, population: int | None, scalar: str) -> None:
    if not isinstance(sigma0, int | float) or not 0 < sigma0 <= 1:
        raise errors.RecipeError(
            f"strategy.cma_es.sigma0: got {sigma0!r}, expected a number in (0, 1]"
        )
    if population is not None and (not isinstance(population, int) or population < 4):
        raise errors.RecipeError(
            f"strategy.cma_es.population: got {population!r}, expected a whole number >= 4"
        )
    if scalar not in ("tchebycheff", "sum"):
        raise errors.RecipeError(
            errors.unknown("strategy.cma_es.scalar", "value", str(scalar), ("tchebycheff", "sum"))
        )
