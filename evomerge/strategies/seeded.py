"""Textbook merges first, then any other strategy, which starts from what they scored.

They are the merges that a person would try: all defaults, the recommended values of the papers,
and each expert alone. Source: none needed; the values are those that operators declare as seeds.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evomerge import errors, plugins
from evomerge.genome import Gene, Space, Value, alone
from evomerge.plugins import Start
from evomerge.relay import Listed, Stages

INNER: Mapping[str, Any] = {"name": "cma_es"}
WHERE = "strategy.seeded.inner"


def needs(options: Mapping[str, Any]) -> frozenset[str]:
    """What the inner strategy can not do without."""
    return plugins.strategy_needs(*plugins.inner(options.get("inner", INNER), WHERE))


class Strategy(Stages):
    """Waits until all textbook merges are told. Option `inner`: {"name": ..., its options}."""

    def __init__(
        self,
        space: Space,
        objectives: Sequence[str],
        *,
        seed: int,
        start: Start = (),
        inner: Mapping[str, Any] = INNER,
    ) -> None:
        begin = functools.partial(
            plugins.begin, *plugins.inner(inner, WHERE), space, objectives, seed=seed, where=WHERE
        )
        super().__init__(Listed(textbook(space)), begin, start)


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
