"""TPE: where good candidates are dense and others are not, one Parzen estimator for each kind.

Source: Bergstra, Bardenet, Bengio and Kegl (2011); several objectives as in Ozaki, Tanigaki,
Watanabe and Onishi (2020), multivariate kernels as in Falkner, Klein and Hutter (2018), both in
the implementation optuna (Akiba et al., 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState
from pydantic import Field

from evomerge import trials
from evomerge.genome import Gene, Point, Space
from evomerge.maths import pareto, sequences
from evomerge.plugins import FAILED_LOSS, Observation, Proposal, Start


class Strategy:
    """Never waits: candidates that are out count as bad ones, so that others are proposed.

    `startup`: Sobol points before the first model, known ones included. Genes whose condition
    does not hold are left out of the model (groups of genes that occur together have one each).
    An ask takes longer the more is told.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        space: Space,
        objectives: Sequence[str],
        *,
        seed: int,
        start: Start = (),
        startup: Annotated[int, Field(ge=1, le=sequences.BLOCK)] = 10,
    ) -> None:
        self._space, self._seed, self._objectives = space, seed, len(objectives)
        self._genes = sorted(space.genes, key=lambda gene: _depth(space, gene))
        self._known = len(start)  # trials are numbered: those known, then candidates by id
        self._points = [space.canonical(point) for point, _ in start]
        self._told: dict[int, Sequence[float] | None] = {
            number: losses for number, (_, losses) in enumerate(start)
        }
        self._sobol = sequences.sobol(len(space), seed, 0)
        self._startup = startup
        self._news: set[int] = set()
        self._study: optuna.Study | None = None

    def ask(self, n: int) -> list[Proposal]:
        study = self._learn()
        return [self._propose(study) for _ in range(n)]

    def tell(self, observations: Sequence[Observation]) -> None:
        for seen in observations:
            number = seen.id + self._known
            if seen.point is not None and seen.point != tuple(self._points[number].tolist()):
                self._points[number] = np.array(seen.point)
                self._study = None
            if number in self._told and number not in self._news:
                self._study = None  # a finished trial can not be changed
            self._told[number] = seen.losses
            self._news.add(number)

    def incumbents(self) -> list[tuple[float, ...]]:
        return []

    def _propose(self, study: optuna.Study) -> Proposal:
        number = len(self._points)
        if number < self._startup:
            point = self._space.canonical(self._sobol[number])
            study.add_trial(self._trial(point, TrialState.RUNNING))
        else:
            point = self._modelled(study, number)
        self._points.append(point)
        return Proposal(number - self._known, tuple(point.tolist()))

    def _modelled(self, study: optuna.Study, number: int) -> Point:
        with trials.quiet():
            study.sampler = optuna.samplers.TPESampler(
                seed=sequences.seed(self._seed, number),
                n_startup_trials=self._startup,
                multivariate=True,
                group=True,
                constant_liar=True,
            )
        trial = study.ask()
        chosen: dict[str, str] = {}
        units: dict[str, float] = {}
        for gene in self._genes:
            if gene.when is not None and chosen.get(gene.when[0]) not in gene.when[1]:
                continue
            if gene.choices:
                chosen[gene.key] = trial.suggest_categorical(gene.key, gene.choices)
                units[gene.key] = gene.encode(chosen[gene.key])
            else:
                units[gene.key] = trial.suggest_float(gene.key, 0.0, 1.0)
        return self._space.canonical([units.get(gene.key, 0.0) for gene in self._space.genes])

    def _learn(self) -> optuna.Study:
        """The study with everything that has been told, in the order of ids."""
        study = self._study
        if study is None:
            study = self._study = trials.study(self._objectives)
            for number, point in enumerate(self._points):
                done = number in self._told
                state = TrialState.COMPLETE if done else TrialState.RUNNING
                study.add_trial(self._trial(point, state, self._told.get(number)))
        else:
            for number in sorted(self._news):
                study.tell(number, self._values(self._told[number]))
        self._news.clear()
        return study

    def _trial(
        self, point: Point, state: TrialState, losses: Sequence[float] | None = None
    ) -> optuna.trial.FrozenTrial:
        """The point (D,) as a trial of its active genes."""
        units = dict(zip((gene.key for gene in self._space.genes), point.tolist(), strict=True))
        active = self._space.decode(point)
        parameters: dict[str, Any] = {}
        distributions: dict[str, BaseDistribution] = {}
        for gene in self._genes:
            if gene.key in active:
                parameters[gene.key] = active[gene.key] if gene.choices else units[gene.key]
                distributions[gene.key] = (
                    CategoricalDistribution(gene.choices)
                    if gene.choices
                    else FloatDistribution(0.0, 1.0)
                )
        return optuna.create_trial(
            state=state, params=parameters, distributions=distributions,
            values=self._values(losses) if state is TrialState.COMPLETE else None,
        )  # fmt: skip

    def _values(self, losses: Sequence[float] | None) -> list[float]:
        return list(pareto.filled(losses, self._objectives, FAILED_LOSS))


def _depth(space: Space, gene: Gene) -> int:
    """How many conditions stand above a gene."""
    genes = {other.key: other for other in space.genes}
    depth = 0
    while gene.when is not None:
        gene, depth = genes[gene.when[0]], depth + 1
    return depth
