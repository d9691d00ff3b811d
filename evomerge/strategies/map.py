"""MAP: quadratic surrogates of every loss, and the front of the surrogates, again and again.

Source: Li et al. (2024), MAP: low-compute model merging with amortized Pareto fronts, equation 4
with the identity as link; NSGA-II (Deb et al., 2002) on the surrogates, here within the box that
was sampled, in the implementation pymoo.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem
from pymoo.optimize import minimize

from evomerge import plugins
from evomerge.genome import Space
from evomerge.maths import pareto, quadratic, sequences
from evomerge.plugins import Proposal, Start
from evomerge.relay import Listed, Relay, Relayed

OTHERWISE: Mapping[str, Any] = {"name": "nsga2"}
WHERE = "strategy.map.otherwise"
TRIES = 3
"""Times that pymoo mates anew for children which differ: a front may be a single point."""

VAIN = 1024
"""Sobol points after one another that are known, after which no more are drawn."""


def needs(options: Mapping[str, Any]) -> frozenset[str]:
    """A quadratic has (D + 1)(D + 2) / 2 coefficients; and what the other strategy needs."""
    other = plugins.inner(options.get("otherwise", OTHERWISE), WHERE)
    return plugins.strategy_needs(*other) | {"numbers_only", "few_genes"}


class Strategy(Relayed):
    """Twice as many Sobol points as a quadratic has coefficients, then rounds of front points.

    Each round waits for the one before and is fitted to everything known. Where a surrogate
    explains less than `least_fit` of a loss, points left out being predicted from the others,
    its front is not trusted: the strategy `otherwise` goes on from what is known. A front of few
    points is filled up with Sobol points to half a round. What is known is not proposed again, and
    counts once: a point left out would be predicted from itself.
    `population`: candidates per round; `generations`: of NSGA-II on the surrogates.
    """

    def __init__(
        self,
        space: Space,
        objectives: Sequence[str],
        *,
        seed: int,
        start: Start = (),
        population: Annotated[int, Field(ge=4)] = 24,
        generations: Annotated[int, Field(ge=1)] = 40,
        least_fit: Annotated[float, Field(ge=0, le=1)] = 0.8,
        otherwise: Mapping[str, Any] = OTHERWISE,
    ) -> None:
        self._space, self._objectives, self._seed = space, tuple(objectives), seed
        self._population, self._generations = population, generations
        self._least_fit = least_fit
        self._otherwise = functools.partial(
            plugins.begin, *plugins.inner(otherwise, WHERE), space, objectives,
            seed=sequences.seed(seed, 0), where=WHERE,  # else its first points were asked here
        )  # fmt: skip
        self._otherwise()  # wrong options show now, not an hour later
        self._fresh = self._rounds = 0
        self._notes: list[str] = []
        self._gave_up = False
        self._seen = {self._canonical(point) for point, _ in start}
        measured = {self._canonical(point) for point, f in start if pareto.measured(f)}
        design = max(2 * quadratic.n_terms(len(space)) - len(measured), 1)
        self._relay = Relay(Listed(self._sobol(design)), start)

    def ask(self, n: int) -> list[Proposal]:
        proposals = self._relay.ask(n)
        if proposals or self._relay.waits or self._gave_up:
            return proposals
        self._relay.hand_over(self._following())
        return self._relay.ask(n)

    def notes(self) -> list[str]:
        """How well the surrogates fit, the last time, and what followed from it."""
        return [*self._notes, *super().notes()]

    def _following(self) -> plugins.Strategy:
        """The next round, or the other strategy where surrogates do not fit."""
        told = ((self._canonical(p), f) for p, f in self._relay.known if pareto.measured(f))
        known = dict(told)  # the last time that a point was told counts
        points = np.array(list(known))
        try:
            surrogate = quadratic.fit(points, list(known.values()))
        except (ValueError, IndexError):
            return self._give_up(f"{len(known)} candidates that did not fail are too few to fit")
        self._notes = [f"map: {self._fits(surrogate)}, by {len(known)} candidates"]
        if surrogate.explained.min() < self._least_fit:
            return self._give_up(f"a surrogate explains less than {self._least_fit:g}")
        self._rounds += 1
        found = self._front(surrogate, points[pareto.nondominated(list(known.values()))])
        new = dict.fromkeys(self._canonical(x) for x in found)
        unseen = [point for point in new if point not in known]
        self._seen.update(unseen)
        # a front that is a few points, or is known by now, leaves room for what is not
        return Listed([*unseen, *self._sobol(max(self._population // 2 - len(unseen), 0))])

    def _fits(self, surrogate: quadratic.Quadratic) -> str:
        shares = zip(self._objectives, surrogate.explained, strict=True)
        return "surrogates explain " + ", ".join(f"{s:.2f} of {name}" for name, s in shares)

    def _give_up(self, reason: str) -> plugins.Strategy:
        self._notes = [*self._notes, f"map: {reason}: another strategy goes on"]
        self._gave_up = True
        return self._otherwise(start=self._relay.known)

    def _front(self, surrogate: quadratic.Quadratic, first: npt.NDArray[np.float64]) -> Any:
        """Points (J, D) of the surrogates' front."""
        seed = sequences.seed(self._seed, self._rounds)
        fresh = np.random.default_rng(seed).random((self._population, len(self._space)))
        algorithm = NSGA2(
            pop_size=self._population, sampling=np.vstack([first, fresh])[: self._population]
        )
        algorithm.mating.n_max_iterations = TRIES
        problem = Surrogates(surrogate, len(self._space), len(self._objectives))
        done = minimize(problem, algorithm, ("n_gen", self._generations), seed=seed)
        return done.opt.get("X")

    def _sobol(self, count: int) -> list[tuple[float, ...]]:
        """The next `count` points of a Sobol sequence that are not known, canonical; fewer where
        a small space seems to have no more."""
        found: list[tuple[float, ...]] = []
        vain = 0
        while len(found) < count and vain < VAIN:
            rows = sequences.stretch(len(self._space), self._seed, self._fresh, count - len(found))
            self._fresh += len(rows)
            drawn = dict.fromkeys(self._canonical(row) for row in rows)
            fresh = [point for point in drawn if point not in self._seen]
            found += fresh
            self._seen.update(fresh)
            vain = 0 if fresh else vain + len(rows)
        return found

    def _canonical(self, point: npt.ArrayLike) -> tuple[float, ...]:
        return tuple(self._space.canonical(np.asarray(point)).tolist())


class Surrogates(Problem):  # type: ignore[misc]
    """The surrogates as a problem of pymoo on the unit cube."""

    def __init__(self, surrogate: quadratic.Quadratic, genes: int, objectives: int) -> None:
        super().__init__(n_var=genes, n_obj=objectives, xl=0.0, xu=1.0)
        self._surrogate = surrogate

    def _evaluate(self, x: Any, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        out["F"] = self._surrogate(x)
