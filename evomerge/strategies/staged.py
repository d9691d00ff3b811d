"""One strategy for some candidates, then another, which starts from what they scored.

A global search that ends in a local one, or a cheap design that a model is fitted to. Stages of
stages make three. Source: none needed.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from evomerge import plugins
from evomerge.genome import Space
from evomerge.maths import sequences
from evomerge.plugins import Start
from evomerge.relay import Stages

FIRST: Mapping[str, Any] = {"name": "sobol"}
THEN: Mapping[str, Any] = {"name": "cma_es"}
WHERE = "strategy.staged"


def needs(options: Mapping[str, Any]) -> frozenset[str]:
    """What the two strategies can not do without."""
    first = plugins.inner(options.get("first", FIRST), f"{WHERE}.first")
    then = plugins.inner(options.get("then", THEN), f"{WHERE}.then")
    return plugins.strategy_needs(*first) | plugins.strategy_needs(*then)


class Strategy(Stages):
    """`first` and `then`: {"name": ..., its options}; `candidates`: how many the first proposes.

    Waits until all of these are told, promoted ones as often as they are asked. A first strategy
    that has no more to propose ends earlier.
    """

    def __init__(
        self,
        space: Space,
        objectives: Sequence[str],
        *,
        seed: int,
        start: Start = (),
        first: Mapping[str, Any] = FIRST,
        candidates: Annotated[int, Field(ge=1)] = 32,
        then: Mapping[str, Any] = THEN,
    ) -> None:
        other = sequences.seed(seed, 1)  # else it would begin with points that were asked
        begin, following = (
            functools.partial(
                plugins.begin, *plugins.inner(stage, f"{WHERE}.{key}"), space, objectives,
                seed=own, where=f"{WHERE}.{key}",
            )
            for key, stage, own in (("first", first, seed), ("then", then, other))
        )  # fmt: skip
        super().__init__(begin(start=start), following, start, candidates)
