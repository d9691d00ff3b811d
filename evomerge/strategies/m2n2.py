"""M2N2: an archive whose members compete for items, and merges at evolving split points.

Source: Abrantes, Lange and Tang (2025), Competition and Attraction Improve Model Fusion (Model
Merging of Natural Niches). There a member is a whole model; here it is the coefficients of the
experts in every group, in which each line of linear and spherical merges collapses exactly.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from evomerge.genome import Gene, Point, Space
from evomerge.lineage import Lineage, beginnings, canonical
from evomerge.maths import combine, niches
from evomerge.plugins import Observation, Start

LINEAR_ABOVE = 1 - 5e-13
"""Cosine above which a merge is linear: there the sine of the angle is below 1e-6."""

Array = npt.NDArray[np.float64]


class Told(NamedTuple):
    """A member: where it is, its answers, how much it lacks of what has to be kept."""

    point: Point
    answers: Mapping[str, Mapping[str, float]]
    lacks: float


class Strategy(Lineage[Told]):
    """The merge at the defaults and each expert alone first, then one child after another.

    Child number i is bred from what candidates up to i - `ahead` have shown: 1 is the paper's own
    order. A child of a and b goes w of the way from a to b in the groups before a split point,
    1 - w behind it; groups stand in order of depth. Merges are `spherical`, on the sphere of task
    vectors whose inner products the space knows (unknown: at right angles and of one length), or
    `linear`. Genes that are no expert's weight are always merged linearly. Scores are expected in
    [0, 1].

    Where something has to be kept, who lacks most of it leaves the archive first, whatever it
    solves; until there is somebody better it stays, and is a parent: experts often lack some.

    Further options: `archive`, its size; `alpha`, how much items are shared (0: not at all);
    `mutation`, the deviation of normal noise on each gene, in parts of its range, which the paper
    has only where it begins with untrained models.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset({"numbers_only", "answers"})

    def __init__(
        self,
        space: Space,
        objectives: Sequence[str],
        *,
        seed: int,
        start: Start = (),
        archive: Annotated[int, Field(ge=2)] = 20,
        alpha: Annotated[float, Field(ge=0)] = 1.0,
        ahead: Annotated[int, Field(ge=1)] = 8,
        merge: Literal["spherical", "linear"] = "spherical",
        mutation: Annotated[float, Field(ge=0, le=1)] = 0.0,
    ) -> None:
        first = beginnings(space, start, archive)
        super().__init__(space, first, seed=seed, size=archive, ahead=ahead)
        self._objectives, self._alpha = tuple(objectives), alpha
        self._spherical, self._mutation = merge == "spherical", mutation
        self._segments = segments(space)

    def read(self, seen: Observation) -> Told | None:
        """None without answers: told again without them, those that are known count."""
        if seen.point is None or seen.answers is None:
            return None
        return Told(np.array(seen.point), dict(seen.answers), seen.lacks)

    def _shares(self, members: Sequence[Told]) -> Array:
        """What each member of the archive (P,) gets of each item, all objectives alike."""
        parts = [
            niches.shares([told.answers.get(name, {}) for told in members], self._alpha)
            for name in self._objectives
        ]
        return np.concatenate(parts, axis=1)

    def worst(self, members: Sequence[Told]) -> int:
        lacks = np.array([told.lacks for told in members])
        gain = np.nansum(self._shares(members), axis=1)
        return int(np.lexsort((gain, -lacks))[0])

    def bred(
        self, members: Sequence[Told], number: int, rng: np.random.Generator
    ) -> Iterator[tuple[float, ...]]:
        shares = self._shares(members)
        while True:
            a, b = niches.mates(shares, rng)
            yield self._merged(members[a].point, members[b].point, rng)

    def _merged(self, a: Point, b: Point, rng: np.random.Generator) -> tuple[float, ...]:
        split, w = int(rng.integers(self._segments.max() + 1)), float(rng.random())
        t = np.where(self._segments < split, w, 1 - w)
        products = self._products() if self._spherical else None
        values = crossed(_values(self._space, a), _values(self._space, b), t, products)
        genes = self._space.genes
        noise = self._mutation * rng.standard_normal(len(genes))
        units = [
            gene.encode(min(max(value + step * (gene.high - gene.low), gene.low), gene.high))
            for gene, value, step in zip(genes, values.tolist(), noise.tolist(), strict=True)
        ]
        return canonical(self._space, units)

    def _products(self) -> Array:
        known = self._space.products
        weights = [_is_weight(gene) for gene in self._space.genes]
        return np.diag(np.array(weights, dtype=np.float64)) if known is None else known


def crossed(a: Array, b: Array, t: Array, products: Array | None) -> Array:
    """Gene values (D,) of the merge at `t` (D,) of the way from a to b, both (D,).

    `products` (D, D) are inner products of what the genes multiply, rows of zeros for those that
    multiply nothing; they give the angle between the parents as whole vectors. None: linear.
    """
    linear = (1 - t) * a + t * b
    if products is None:
        return linear
    both = np.stack([a, b])
    inner = torch.from_numpy(both @ products @ both.T)
    merged = linear.copy()
    for part in np.unique(t):
        here = (t == part) & products.any(axis=1)
        shares = combine.slerp(inner, float(part), LINEAR_ABOVE).numpy()
        merged[here] = (shares @ both)[here]
    return merged


def segments(space: Space) -> npt.NDArray[np.int64]:
    """The place (D,) of each gene's group among all groups, in order of depth; then of role."""
    keys = [_depth(gene.group) for gene in space.genes]
    order = {key: place for place, key in enumerate(sorted(set(keys)))}
    return np.array([order[key] for key in keys], dtype=np.int64)


def _depth(group: str) -> tuple[int, int, str]:
    """Embedding, tower and projector stand before all blocks, the head behind them."""
    block = re.match(r"\d+", group)
    if block:
        return (1, int(block[0]), group)
    return (2 if group == "head" else 0, 0, group)


def _is_weight(gene: Gene) -> bool:
    return gene.name == "weight" and bool(gene.expert)


def _values(space: Space, point: Point) -> Array:
    genes = zip(space.genes, point.tolist(), strict=True)
    return np.array([float(gene.decode(unit)) for gene, unit in genes])
