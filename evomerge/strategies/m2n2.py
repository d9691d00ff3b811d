"""M2N2: an archive whose members compete for items, and merges at evolving split points.

Source: Abrantes, Lange and Tang (2025), Competition and Attraction Improve Model Fusion (Model
Merging of Natural Niches). There a member is a whole model; here it is the coefficients of the
experts in every group, in which each line of linear and spherical merges collapses exactly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from evomerge.genome import Gene, Point, Space, alone
from evomerge.maths import combine, niches, pareto, sequences
from evomerge.plugins import Observation, Proposal, Start

TRIES = 10
"""Times that a child is bred anew when it has been proposed before; then a new point comes in."""

LINEAR_ABOVE = 1 - 5e-13
"""Cosine above which a merge is linear: there the sine of the angle is below 1e-6."""

Array = npt.NDArray[np.float64]
Told = tuple[Point, dict[str, Mapping[str, float]]]


class Strategy:
    """The merge at the defaults and each expert alone first, then one child after another.

    Child number i is bred from what candidates up to i - `ahead` have shown, in the order of their
    ids: so many can be open, none waits for a generation, and 1 is the paper's own order. A child
    of a and b goes w of the way from a to b in the groups before a split point, 1 - w behind it;
    groups stand in order of depth. Merges are `spherical`, on the sphere of task vectors whose
    inner products the space knows (unknown: at right angles and of one length), or `linear`. Genes
    that are no expert's weight are always merged linearly. Scores are expected in [0, 1].

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
        self._space, self._objectives, self._seed = space, tuple(objectives), seed
        self._size, self._alpha, self._ahead = archive, alpha, ahead
        self._spherical, self._mutation = merge == "spherical", mutation
        self._segments = segments(space)
        self._first = _first(space, start, archive)
        self._next = self._heard = self._fresh = 0
        self._asked: set[tuple[float, ...]] = set()
        self._told: dict[int, Told | None] = {}
        self._archive: list[int] = []

    def ask(self, n: int) -> list[Proposal]:
        proposals: list[Proposal] = []
        while len(proposals) < n:
            id, begun = self._next, len(self._first)
            if id >= begun and not self._hear(max(id - self._ahead, begun - 1)):
                break
            point = self._first[id] if id < begun else self._child(id)
            self._asked.add(point)
            proposals.append(Proposal(id, point))
            self._next += 1
        return proposals

    def tell(self, observations: Sequence[Observation]) -> None:
        for seen in observations:
            known = pareto.measured(seen.losses) and seen.point is not None
            # told again without answers, those that are known count
            if known and seen.answers is not None:
                self._told[seen.id] = (np.array(seen.point), dict(seen.answers))
            elif not known or self._told.get(seen.id) is None:
                self._told[seen.id] = None
                self._archive = [id for id in self._archive if id != seen.id]

    def incumbents(self) -> list[tuple[float, ...]]:
        return []

    def _hear(self, last: int) -> bool:
        """Let candidates up to id `last` into the archive, in order; False: one is not told."""
        while self._heard <= last:
            if self._heard not in self._told:
                return False
            if self._told[self._heard] is not None:
                self._archive.append(self._heard)
            self._heard += 1
            if len(self._archive) > self._size:
                self._archive.pop(int(self._shares().sum(axis=1).argmin()))
        return True

    def _members(self) -> list[Told]:
        return [told for id in self._archive if (told := self._told[id]) is not None]

    def _shares(self) -> Array:
        """What each member of the archive (P,) gets of each item, all objectives alike."""
        members = self._members()
        parts = [
            niches.shares([answers.get(name, {}) for _, answers in members], self._alpha)
            for name in self._objectives
        ]
        return np.concatenate(parts, axis=1)

    def _child(self, id: int) -> tuple[float, ...]:
        """A merge that nobody has proposed yet, or a point of a Sobol sequence."""
        members = self._members()
        rng = np.random.default_rng([self._seed, id])
        if len(members) > 1:
            shares = self._shares()
            for _ in range(TRIES):
                a, b = niches.mates(shares, rng)
                point = self._merged(members[a][0], members[b][0], rng)
                if point not in self._asked:
                    return point
        block, row = divmod(self._fresh, sequences.BLOCK)
        self._fresh += 1
        points = sequences.sobol(len(self._space), self._seed, block)
        return _canonical(self._space, points[row])

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
        return _canonical(self._space, units)

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


def _canonical(space: Space, point: npt.ArrayLike) -> tuple[float, ...]:
    return tuple(space.canonical(point).tolist())


def _first(space: Space, start: Start, archive: int) -> list[tuple[float, ...]]:
    """The best of what is known, whose answers are not; the defaults; each expert alone.

    Asking a known point again costs no items, as its plan has been answered.
    """
    known: list[tuple[Any, Any]] = [(p, f) for p, f in start if pareto.measured(f)]
    known.sort(key=lambda pair: sum(pair[1]))
    points = [point for point, _ in known[: archive // 2]]
    genes = {gene.key: gene for gene in space.genes}
    for values in ({}, *alone(space)):
        near = {k: min(max(float(v), genes[k].low), genes[k].high) for k, v in values.items()}
        points.append(space.encode(near))
    return list(dict.fromkeys(_canonical(space, point) for point in points))
