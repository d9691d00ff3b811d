"""Sparsity-aware evolution: an archive whose members are pruned, merged and pruned again.

Source: Zhang, Zhang, Wisniewski, Tomeh and Liu (2026), arXiv 2602.08218. There a member is a whole
model and its sparsity part of one score. Here a member is the coefficients of the experts and the
density of every group, which an operator such as `prune` holds a merge to: noise on coefficients
leaves zeros what they are, and sparsity is an objective of its own (`measure: sparsity`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field
from pymoo.operators.survival.rank_and_crowding.metrics import calc_crowding_distance
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from evomerge import errors
from evomerge.genome import Gene, Point, Space
from evomerge.lineage import Lineage, beginnings, canonical
from evomerge.maths import niches, sequences
from evomerge.plugins import Observation, Start

SPREAD = 0.1
"""Deviation of the logarithm by which a child's share of the pruning changes in each group."""

Array = npt.NDArray[np.float64]
Told = tuple[Point, Array]


class Strategy(Lineage[Told]):
    """The defaults, each expert alone and Sobol points first, then one child after another.

    Parents are drawn by their ranks in the objectives: one by their sum, one by how far it is
    ahead where the first is behind. In each group a child is a convex combination of both, with
    normal noise on numbers (`mutation`, in parts of a gene's range); a choice is one parent's, or
    a new one. How much is pruned follows a schedule, from `least` to `most` of the entries over a
    cycle of `cycle` times `population` children, and from the start again over one that is
    `growth` times as long; where it is pruned, group by group, is inherited. The archive keeps
    `population` members by dominance and crowding. `ahead` children can be open at a time.
    """

    def __init__(
        self,
        space: Space,
        objectives: Sequence[str],
        *,
        seed: int,
        start: Start = (),
        population: Annotated[int, Field(ge=4)] = 24,
        ahead: Annotated[int, Field(ge=1)] = 8,
        least: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        most: Annotated[float, Field(ge=0, lt=1)] = 0.6,
        cycle: Annotated[int, Field(ge=1)] = 5,
        growth: Annotated[int, Field(ge=1)] = 2,
        mutation: Annotated[float, Field(ge=0, le=1)] = 0.05,
    ) -> None:
        if least > most:
            raise errors.RecipeError(
                f"strategy.sae: least is {least:g}, expected at most what is pruned at `most`"
                f" ({most:g})"
            )
        first = _first(space, start, population, seed)
        super().__init__(space, first, seed=seed, size=population, ahead=ahead)
        self._mutation = mutation
        self._range, self._cycle, self._growth = (least, most), cycle * population, growth
        self._groups = _places([gene.group for gene in space.genes])
        self._pruned = np.array([is_density(gene) for gene in space.genes], dtype=bool)

    def read(self, seen: Observation) -> Told | None:
        if seen.point is None or seen.losses is None:
            return None
        return np.array(seen.point), np.array(seen.losses, dtype=np.float64)

    def worst(self, members: Sequence[Told]) -> int:
        return _crowded(members)

    def bred(
        self, members: Sequence[Told], number: int, rng: np.random.Generator
    ) -> Iterator[tuple[float, ...]]:
        standing = ranks(np.array([losses for _, losses in members]))
        level = scheduled(number, self._cycle, self._growth, *self._range)
        while True:
            a, b = niches.mates(standing, rng)
            yield self._crossed(members[a][0], members[b][0], level, rng)

    def _crossed(
        self, a: Point, b: Point, level: float, rng: np.random.Generator
    ) -> tuple[float, ...]:
        genes = self._space.genes
        t = rng.random(int(self._groups.max()) + 1)[self._groups]
        noise = self._mutation * rng.standard_normal(len(genes))
        coins, anew = rng.random((2, len(genes)))
        choices = np.array([bool(gene.choices) for gene in genes])
        units = np.clip((1 - t) * a + t * b + noise, 0.0, 1.0)
        fresh = np.where(anew < 1 / len(genes), rng.random(len(genes)), np.where(t < coins, a, b))
        units = np.where(choices, fresh, units)
        if self._pruned.any():
            units[self._pruned] = self._densities(a, b, t, level, rng)
        return canonical(self._space, units)

    def _densities(
        self, a: Point, b: Point, t: Array, level: float, rng: np.random.Generator
    ) -> list[float]:
        """Positions of the density genes: the schedule's level, spread as the parents spread
        theirs."""
        here = [gene for gene, one in zip(self._space.genes, self._pruned, strict=True) if one]
        parents = [
            shares(
                np.array([float(g.decode(u)) for g, u in zip(here, p[self._pruned], strict=True)])
            )
            for p in (a, b)
        ]
        mixed = (1 - t[self._pruned]) * parents[0] + t[self._pruned] * parents[1]
        moved = mixed * np.exp(SPREAD * rng.standard_normal(len(here)))
        densities = 1 - level * moved / moved.mean()
        return [
            gene.encode(min(max(float(density), gene.low), gene.high))
            for gene, density in zip(here, densities, strict=True)
        ]


def scheduled(number: int, cycle: int, growth: int, least: float, most: float) -> float:
    """The share that is pruned at child `number`: half a cosine from `least` to `most`, again
    over cycles that grow (Loshchilov and Hutter 2017, eq. 5, upside down)."""
    while number >= cycle:
        number, cycle = number - cycle, cycle * growth
    return least + (most - least) * 0.5 * (1 - math.cos(math.pi * number / cycle))


def shares(densities: Array) -> Array:
    """What each group's pruned share is in parts of their mean; 1 where nothing is pruned."""
    pruned = 1 - densities
    return pruned / pruned.mean() if pruned.any() else np.ones(len(densities))


def ranks(losses: Array) -> Array:
    """For each member and objective (P, M), the share of members that are worse there."""
    worse = (losses[:, None, :] < losses[None, :, :]).sum(axis=1)
    return np.asarray(worse / max(len(losses) - 1, 1), dtype=np.float64)


def is_density(gene: Gene) -> bool:
    return gene.name == "density" and not gene.choices


def explain(space: Space, objectives: Sequence[str], options: Mapping[str, Any]) -> str:
    """That nothing is pruned, where that is so."""
    if any(is_density(gene) for gene in space.genes):
        return ""
    return "sae: no gene is a density, so nothing is pruned; the operator `prune` has one"


def _crowded(members: Sequence[Told]) -> int:
    """Who is left out: of the last front by dominance, the one with the nearest neighbours; of
    equals the youngest."""
    losses = np.array([losses for _, losses in members])
    last = np.sort(NonDominatedSorting().do(losses)[-1])
    crowding = calc_crowding_distance(losses[last])
    return int(last[np.flatnonzero(crowding == crowding.min())[-1]])


def _places(groups: Sequence[str]) -> npt.NDArray[np.int64]:
    order = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    return np.array([order[group] for group in groups], dtype=np.int64)


def _first(space: Space, start: Start, population: int, seed: int) -> list[tuple[float, ...]]:
    """What is known, the defaults and each expert alone, then Sobol points for a population."""
    known = beginnings(space, start, population)
    fresh = sequences.stretch(len(space), seed, 0, max(population - len(known), 0))
    return list(dict.fromkeys([*known, *(canonical(space, point) for point in fresh)]))
