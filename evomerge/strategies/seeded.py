"""Textbook merges first, then any other strategy, which starts from what they scored.

They are the merges that a person would try: all defaults, the recommended values of the papers,
and each expert alone. Source: none needed; the values are those that operators declare as seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from evomerge import errors, plugins
from evomerge.genome import Gene, Space, Value, alone
from evomerge.plugins import Observation, Proposal, Start

INNER: Mapping[str, Any] = {"name": "cma_es"}


def needs(options: Mapping[str, Any]) -> frozenset[str]:
    """What the inner strategy can not do without."""
    name, inner = _inner(options.get("inner", INNER))
    return plugins.strategy_needs(name, inner)


class Strategy:
    """Waits until all textbook merges are told. Option `inner`: {"name": ..., its options}."""

    NEEDS: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        space: Space,
        objectives: Sequence[str],
        *,
        seed: int,
        start: Start = (),
        inner: Mapping[str, Any] = INNER,
    ) -> None:
        self._space, self._objectives, self._seed = space, objectives, seed
        self._name, self._options = _inner(inner)
        self._start = tuple(start)
        self._seeds = textbook(space)
        self._next = 0
        self._known: dict[int, tuple[float, ...] | None] = {}
        self._begin({})  # wrong options of the inner strategy show now, not an hour later
        self._inner: plugins.Strategy | None = None

    def ask(self, n: int) -> list[Proposal]:
        if self._inner is not None:
            offset = len(self._seeds)
            return [replace(p, id=p.id + offset) for p in self._inner.ask(n)]
        ids = range(self._next, min(self._next + n, len(self._seeds)))
        self._next += len(ids)
        return [Proposal(id, self._seeds[id]) for id in ids]

    def tell(self, observations: Sequence[Observation]) -> None:
        offset = len(self._seeds)
        self._known |= {seen.id: seen.losses for seen in observations if seen.id < offset}
        if self._inner is None and len(self._known) == offset:
            self._inner = self._begin(self._known)
        later = [replace(seen, id=seen.id - offset) for seen in observations if seen.id >= offset]
        if self._inner is not None and later:
            self._inner.tell(later)

    def incumbents(self) -> list[tuple[float, ...]]:
        return self._inner.incumbents() if self._inner is not None else []

    def _begin(self, known: Mapping[int, tuple[float, ...] | None]) -> plugins.Strategy:
        """The inner strategy, told what is known."""
        module = plugins.load("strategy", self._name, "strategy.seeded.inner")
        options = dict(self._options)
        if plugins.takes(module.Strategy, "start"):
            seeds = [(self._seeds[id], known[id]) for id in sorted(known)]
            options["start"] = (*self._start, *seeds)
        strategy: plugins.Strategy = module.Strategy(
            self._space, self._objectives, seed=self._seed, **options
        )
        return strategy


def _inner(inner: Any) -> tuple[str, dict[str, Any]]:
    """Name and options of the inner strategy, checked."""
    where = "strategy.seeded.inner"
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        raise errors.RecipeError(f"{where}: got {inner!r}, expected a mapping with a name")
    options = {key: value for key, value in inner.items() if key != "name"}
    plugins.check_options("strategy", inner["name"], options, where)
    return inner["name"], options


def textbook(space: Space) -> list[tuple[float, ...]]:
    """The textbook merges that the space can express, as canonical points, each once."""
    points: dict[frozenset[tuple[str, Value]], tuple[float, ...]] = {}
    for values in ({}, *_recommended(space), *alone(space)):
        try:
            point = space.canonical(space.encode(values))
        except errors.RecipeError:  # a narrowed range leaves this merge out
            continue
        points.setdefault(frozenset(space.decode(point).items()), tuple(point.tolist()))
    return list(points.values())


def _recommended(space: Space) -> Iterator[dict[str, Value]]:
    """For each gene and each value of its seeds: all its copies at that value."""
    families: dict[tuple[str, str], list[Gene]] = {}
    for gene in space.genes:
        families.setdefault((gene.operator, gene.name), []).append(gene)
    for copies in families.values():
        for value in dict.fromkeys(seed for gene in copies for seed in gene.seeds):
            values: dict[str, Value] = {}
            for gene in copies:
                values |= _conditions(space, gene)
            yield values | {gene.key: value for gene in copies}


def _conditions(space: Space, gene: Gene) -> dict[str, Value]:
    """The choices that make a gene act."""
    values: dict[str, Value] = {}
    genes = {other.key: other for other in space.genes}
    while gene.when is not None:
        parent = genes[gene.when[0]]
        if parent.default not in gene.when[1]:
            values[parent.key] = gene.when[1][0]
        gene = parent
    return values
