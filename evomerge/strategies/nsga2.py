"""NSGA-II: a population, sorted by dominance and kept apart by crowding distance.

Source: Deb, Pratap, Agarwal and Meyarivan (2002), in the implementation pymoo (Blank and Deb,
2020); spaces with choices in its mixed-variable form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2, binary_tournament
from pymoo.core.evaluator import Evaluator
from pymoo.core.mixed import MixedVariableDuplicateElimination, MixedVariableMating
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.repair import Repair
from pymoo.core.termination import NoTermination
from pymoo.core.variable import Choice, Real
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.crossover.ux import UX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.mutation.rm import ChoiceRandomMutation
from pymoo.operators.selection.tournament import TournamentSelection
from pymoo.problems.static import StaticProblem

from evomerge import errors
from evomerge.genome import Point, Space
from evomerge.maths import pareto, sequences
from evomerge.plugins import FAILED_LOSS, Observation, Proposal, Start

TRIES = 10
"""Times that pymoo mates anew for children which differ: in a small space there may be none."""


class Canonical(Repair):  # type: ignore[misc]
    """Makes children canonical before pymoo looks for duplicates: equal merges are equal points.

    Numbers are positions in the unit cube; in a space with choices an individual is a mapping
    from key to position or choice.
    """

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space
        self.mixed = any(gene.choices for gene in space.genes)

    def _do(self, problem: Any, X: Any, **kwargs: Any) -> Any:
        points = [self.space.canonical(self.point(x)) for x in X]
        return np.array([self.individual(point) for point in points])

    def point(self, x: Any) -> Point:
        """The point (D,) of an individual."""
        if not self.mixed:
            return np.asarray(x, dtype=np.float64)
        return np.array(
            [
                gene.encode(str(x[gene.key])) if gene.choices else float(x[gene.key])
                for gene in self.space.genes
            ]
        )

    def individual(self, point: Point) -> Any:
        """The individual at a point (D,)."""
        if not self.mixed:
            return point
        return {
            gene.key: gene.decode(unit) if gene.choices else float(unit)
            for gene, unit in zip(self.space.genes, point, strict=True)
        }


class Strategy:
    """A generation is proposed, told when it is complete, and bred; until then it waits.

    The first one holds the `start`, whose losses are known, and Sobol points. Option
    `population`: candidates per generation.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        space: Space,
        objectives: Sequence[str],
        *,
        seed: int,
        start: Start = (),
        population: int = 24,
    ) -> None:
        if not isinstance(population, int) or population < 4:
            raise errors.RecipeError(
                f"strategy.nsga2.population: got {population!r}, expected a whole number >= 4"
            )
        self._space, self._seed, self._objectives = space, seed, len(objectives)
        self._population = population
        self._canonical = Canonical(space)
        self._next = self._fresh = 0
        self._individuals: dict[int, Any] = {}
        self._losses: dict[int, tuple[float, ...] | None] = {}
        self._ids: dict[int, int] = {}
        points, self._known = self._first(start)
        sampling = Population.new(X=[self._canonical.individual(point) for point in points])
        self._problem = _problem(self._canonical, self._objectives)
        self._algorithm = _algorithm(self._canonical, sampling, population)
        self._algorithm.setup(self._problem, seed=seed, termination=NoTermination())
        self._generation = self._algorithm.ask()

    def ask(self, n: int) -> list[Proposal]:
        proposals: list[Proposal] = []
        while len(proposals) < n:
            place = len(self._known) + len(self._ids)
            if place >= len(self._generation):
                if len(self._losses) < len(self._ids):
                    break
                self._breed()
                continue
            individual = self._generation[place]
            self._ids[self._next] = place
            self._individuals[self._next] = individual
            point = self._canonical.point(individual.X)
            proposals.append(Proposal(self._next, tuple(point.tolist())))
            self._next += 1
        return proposals

    def tell(self, observations: Sequence[Observation]) -> None:
        for seen in observations:
            if seen.point is not None:
                x = self._canonical.individual(np.array(seen.point))
                self._individuals[seen.id].X = x
            if seen.id in self._ids:
                self._losses[seen.id] = seen.losses
            else:  # counts when survivors are next chosen
                self._individuals[seen.id].F = self._filled(seen.losses)

    def incumbents(self) -> list[tuple[float, ...]]:
        return []

    def _filled(self, losses: Sequence[float] | None) -> Any:
        return pareto.filled(losses, self._objectives, FAILED_LOSS)

    def _breed(self) -> None:
        """Tell the complete generation to pymoo, and take the next one."""
        losses = [*self._known, *(self._losses[id] for id in self._ids)]
        known = StaticProblem(self._problem, F=np.array([self._filled(f) for f in losses]))
        Evaluator().eval(known, self._generation)
        self._algorithm.tell(infills=self._generation)
        self._known, self._ids, self._losses = [], {}, {}
        self._generation = self._algorithm.ask()
        if self._generation is None:  # no child differs from its parents: bring in new blood
            self._algorithm.termination.force_termination = False
            points = self._sobol(self._population)
            self._generation = Population.new(
                X=[self._canonical.individual(point) for point in points]
            )

    def _sobol(self, count: int) -> list[Point]:
        """The next points of a Sobol sequence, canonical."""
        points: list[Point] = []
        for index in range(self._fresh, self._fresh + count):
            block, row = divmod(index, sequences.BLOCK)
            if row == 0 or not points:
                rows = sequences.sobol(len(self._space), self._seed, block)
            points.append(self._space.canonical(rows[row]))
        self._fresh += count
        return points

    def _first(self, start: Start) -> tuple[list[Point], list[tuple[float, ...]]]:
        """Points of the first generation, each once, and the losses of those that have them."""
        known = {
            tuple(self._space.canonical(point).tolist()): tuple(losses)
            for point, losses in start
            if pareto.measured(losses)
        }
        # at least half of it is new, or a search that starts from many points has no variety
        count = max(self._population - len(known), self._population // 2)
        fresh = [tuple(point.tolist()) for point in self._sobol(count)]
        points = dict.fromkeys([*known, *fresh])
        return [np.array(point) for point in points], list(known.values())


def _problem(canonical: Canonical, objectives: int) -> Problem:
    genes = canonical.space.genes
    if not canonical.mixed:
        return Problem(n_var=len(genes), n_obj=objectives, xl=0.0, xu=1.0)
    variables = {
        gene.key: Choice(options=list(gene.choices)) if gene.choices else Real(bounds=(0.0, 1.0))
        for gene in genes
    }
    return Problem(vars=variables, n_obj=objectives)


def _algorithm(canonical: Canonical, sampling: Population, population: int) -> NSGA2:
    if not canonical.mixed:
        algorithm = NSGA2(pop_size=population, sampling=sampling, repair=canonical)
        algorithm.mating.n_max_iterations = TRIES
        return algorithm
    rate = 1 / len(canonical.space)
    mating = MixedVariableMating(
        selection=TournamentSelection(func_comp=binary_tournament),
        # pymoo would draw every second choice anew: it sees each choice as a problem of its own
        mutation={Real: PM(eta=20), Choice: ChoiceRandomMutation(prob_var=rate)},
        crossover={Real: SBX(eta=15, prob=0.9), Choice: UX()},
        repair=canonical,
        eliminate_duplicates=MixedVariableDuplicateElimination(),
        n_max_iterations=TRIES,
    )
    return NSGA2(
        pop_size=population,
        sampling=sampling,
        mating=mating,
        eliminate_duplicates=MixedVariableDuplicateElimination(),
    )
