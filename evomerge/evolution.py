"""A population under one of pymoo's algorithms, as ask and tell.

Source: the implementation pymoo (Blank and Deb, 2020); spaces with choices in its mixed-variable
form. Asynchronous steady state as in Durillo, Nebro, Luna and Alba (2008), A study of
master-slave approaches to parallelize NSGA-II.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar
from weakref import WeakValueDictionary

import numpy as np
from pydantic import Field
from pymoo.core.evaluator import Evaluator
from pymoo.core.individual import Individual
from pymoo.core.mixed import MixedVariableDuplicateElimination, MixedVariableMating
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.repair import Repair
from pymoo.core.termination import NoTermination
from pymoo.core.variable import Choice, Real
from pymoo.operators.crossover.ux import UX
from pymoo.operators.mutation.rm import ChoiceRandomMutation
from pymoo.problems.static import StaticProblem

from evomerge.genome import Point, Space
from evomerge.maths import pareto, sequences
from evomerge.plugins import FAILED_LOSS, Observation, Proposal, Start

TRIES = 10
"""Times that pymoo mates anew for children which differ: in a small space there may be none."""

LATE = 2**10
"""Points that are kept apart until they are sorted in among the others."""


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


class Evolution(ABC):
    """A strategy that says which `algorithm` it is, with the options that all of them have.

    The first generation holds the `start`, whose losses are known, and Sobol points. A generation
    of `population` candidates is proposed, told when it is complete, and bred; until then nothing
    more is. With `steady`, once the first generation is complete, every child is bred from all
    that is told by then, and no two children are equal; until then more Sobol points are proposed.
    More is learned so with many workers, and another number of them is another search.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        space: Space,
        objectives: Sequence[str],
        *,
        seed: int,
        start: Start = (),
        population: Annotated[int, Field(ge=4)] = 24,
        steady: bool = False,
    ) -> None:
        self._space, self._seed, self._objectives = space, seed, len(objectives)
        self._population, self._steady = population, steady
        self._canonical = Canonical(space)
        self._fresh = self._served = 0
        self._asked = 0
        # by id: one that pymoo has let go of is told nothing any more
        self._individuals: WeakValueDictionary[int, Any] = WeakValueDictionary()
        self._open: dict[int, Any] = {}  # proposed, and not yet known to pymoo
        self._losses: dict[int, tuple[float, ...] | None] = {}  # of those that are open
        self._seen = Seen()
        points, self._known = self._first(start)
        sampling = Population.new(X=[self._canonical.individual(point) for point in points])
        self._problem = _problem(self._canonical, self._objectives)
        algorithm = self.algorithm(self._objectives, population)
        size = {"pop_size": population, "n_offsprings": 1 if steady else population}
        self._algorithm = _begun(algorithm, self._canonical, sampling=sampling, **size)
        self._algorithm.setup(self._problem, seed=seed, termination=NoTermination())
        self._generation = self._algorithm.ask()

    @staticmethod
    @abstractmethod
    def algorithm(objectives: int, population: int) -> Callable[..., Any]:
        """What gives pymoo's algorithm for `pop_size`, `sampling`, `n_offsprings` and so on."""

    def ask(self, n: int) -> list[Proposal]:
        proposals: list[Proposal] = []
        while len(proposals) < n:
            self._learn()
            individual = self._next()
            if individual is None:
                break
            id, self._asked = self._asked, self._asked + 1
            self._individuals[id] = self._open[id] = individual
            point = self._canonical.point(individual.X)
            self._seen.add(point)
            proposals.append(Proposal(id, tuple(point.tolist())))
        return proposals

    def tell(self, observations: Sequence[Observation]) -> None:
        for seen in observations:
            individual = self._individuals.get(seen.id)
            if individual is None:
                continue
            if seen.point is not None:
                individual.X = self._canonical.individual(np.array(seen.point))
            if seen.id in self._open:
                self._losses[seen.id] = seen.losses
            else:  # counts when survivors are next chosen
                individual.F = self._filled(seen.losses)

    def incumbents(self) -> list[tuple[float, ...]]:
        return []

    def _next(self) -> Any:
        """The next individual; None: there is nothing before more is told."""
        if len(self._known) + self._served < len(self._generation):
            self._served += 1
            return self._generation[len(self._known) + self._served - 1]
        if not self._steady:
            return None
        return self._child() if self._algorithm.is_initialized else self._new(1)[0]

    def _learn(self) -> None:
        """Tell pymoo what it has not heard, as soon as it can hear it."""
        if not (self._steady and self._algorithm.is_initialized):
            if len(self._known) + self._served < len(self._generation):
                return
            if not self._generation_told():
                return
            self._hear(self._generation, self._known, list(self._open)[: self._served])
            self._known, self._served, self._generation = [], 0, []
            if not self._steady:
                children = self._bred()
                self._generation = self._new(self._population) if children is None else children
                return
        late = sorted(self._losses)  # by id: the order of arrival does not matter
        if late:
            self._hear(Population.create(*(self._open[id] for id in late)), [], late)

    def _generation_told(self) -> bool:
        first = list(self._open)[: self._served]
        return all(id in self._losses for id in first)

    def _hear(self, infills: Any, known: Sequence[Any], ids: Sequence[int]) -> None:
        losses = [*known, *(self._losses.pop(id) for id in ids)]
        told = StaticProblem(self._problem, F=np.array([self._filled(f) for f in losses]))
        Evaluator().eval(told, infills)
        self._algorithm.tell(infills=infills)
        for id in ids:
            del self._open[id]

    def _bred(self) -> Any:
        """pymoo's children; None if none differs from its parents."""
        children = self._algorithm.ask()
        self._algorithm.termination.force_termination = False
        return children

    def _child(self) -> Any:
        """One child that has not been proposed before, or new blood."""
        for _ in range(TRIES):
            children = self._bred()
            if children is None:
                break
            if self._canonical.point(children[0].X) not in self._seen:
                return children[0]
        return self._new(1)[0]

    def _new(self, count: int) -> Any:
        return Population.create(
            *(Individual(X=self._canonical.individual(point)) for point in self._sobol(count))
        )

    def _filled(self, losses: Sequence[float] | None) -> Any:
        return pareto.filled(losses, self._objectives, FAILED_LOSS)

    def _sobol(self, count: int) -> list[Point]:
        """The next points of a Sobol sequence, canonical."""
        rows = sequences.stretch(len(self._space), self._seed, self._fresh, count)
        self._fresh += count
        return [self._space.canonical(row) for row in rows]

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
        for point in known:
            self._seen.add(np.array(point))
        return [np.array(point) for point in points], list(known.values())


class Seen:
    """Points (D,), eight bytes each, so that a hundred thousand of them take little memory.

    Two that differ are one with a probability of 2^-64.
    """

    def __init__(self) -> None:
        self._sorted = np.empty(0, dtype=np.uint64)
        self._late: set[int] = set()

    def add(self, point: Point) -> None:
        self._late.add(_digest(point))
        if len(self._late) == LATE:
            late = np.fromiter(self._late, dtype=np.uint64)
            self._sorted = np.union1d(self._sorted, late)
            self._late.clear()

    def __contains__(self, point: Point) -> bool:
        digest = np.uint64(_digest(point))
        at = np.searchsorted(self._sorted, digest)
        return int(digest) in self._late or digest in self._sorted[at : at + 1]


def _digest(point: Point) -> int:
    normal = (point + 0.0).tobytes()  # -0.0 is 0.0
    return int.from_bytes(hashlib.blake2b(normal, digest_size=8).digest(), "big")


def _problem(canonical: Canonical, objectives: int) -> Problem:
    genes = canonical.space.genes
    if not canonical.mixed:
        return Problem(n_var=len(genes), n_obj=objectives, xl=0.0, xu=1.0)
    variables = {
        gene.key: Choice(options=list(gene.choices)) if gene.choices else Real(bounds=(0.0, 1.0))
        for gene in genes
    }
    return Problem(vars=variables, n_obj=objectives)


def _begun(algorithm: Callable[..., Any], canonical: Canonical, **common: Any) -> Any:
    """The algorithm for this space; where there are choices, with its own operators on numbers."""
    if not canonical.mixed:
        begun = algorithm(repair=canonical, **common)
        begun.mating.n_max_iterations = TRIES
        return begun
    begun = algorithm(eliminate_duplicates=MixedVariableDuplicateElimination(), **common)
    rate = 1 / len(canonical.space)
    begun.mating = MixedVariableMating(
        selection=begun.mating.selection,
        # pymoo would draw every second choice anew: it sees each choice as a problem of its own
        mutation={Real: begun.mating.mutation, Choice: ChoiceRandomMutation(prob_var=rate)},
        crossover={Real: begun.mating.crossover, Choice: UX()},
        repair=canonical,
        eliminate_duplicates=MixedVariableDuplicateElimination(),
        n_max_iterations=TRIES,
    )
    return begun
