"""Another strategy, begun anew from another seed with a larger population when it stagnates.

Source: restarts with a growing population (IPOP) of Auger and Hansen (2005), here by the growth of
the hypervolume, so that it serves several objectives too.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from evomerge import plugins
from evomerge.genome import Space
from evomerge.maths import pareto, sequences
from evomerge.plugins import REFERENCE_POINT, Proposal, Start
from evomerge.relay import Relay, Relayed

INNER: Mapping[str, Any] = {"name": "nsga2"}
WHERE = "strategy.restart.inner"


def needs(options: Mapping[str, Any]) -> frozenset[str]:
    """What the inner strategy can not do without."""
    return plugins.strategy_needs(*plugins.inner(options.get("inner", INNER), WHERE))


class Strategy(Relayed):
    """Every `patience` candidates, once all are told, the hypervolume is looked at.

    Where no more than the share `tolerance` of its growth since the first look came after the
    last one, `inner` begins anew, with the patience and its `population`, or those of strategies
    inside it, multiplied by `growth`, and nothing of what is known: it would end where it did.
    What `auto` chooses keeps its population.
    """

    def __init__(
        self,
        space: Space,
        objectives: Sequence[str],
        *,
        seed: int,
        start: Start = (),
        inner: Mapping[str, Any] = INNER,
        patience: Annotated[int, Field(ge=1)] = 72,
        tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        growth: Annotated[float, Field(ge=1, le=10)] = 2.0,
    ) -> None:
        self._space, self._objectives, self._seed = space, objectives, seed
        self._name, self._options = plugins.inner(inner, WHERE)
        self._patience, self._tolerance, self._growth = patience, tolerance, growth
        self._restarts = 0
        self._best = -np.inf
        self._volumes: list[float] = []
        self._kept: list[tuple[float, ...]] = []
        self._relay = Relay(self._begin(start), start)
        self._left = patience

    def ask(self, n: int) -> list[Proposal]:
        if not (self._left or self._relay.promoted or self._relay.waits):
            self._look()
        before = self._relay.asked
        proposals = self._relay.ask(n, self._left)
        self._left -= self._relay.asked - before
        return proposals

    def incumbents(self) -> list[tuple[float, ...]]:
        """Those of the instance that came furthest so far, and of the current one."""
        return list(dict.fromkeys([*self._kept, *self._relay.current.incumbents()]))

    def _look(self) -> None:
        """Go on, or begin anew."""
        measured = [losses for losses in self._relay.own if pareto.measured(losses)]
        volume = _reached(measured)
        self._volumes.append(volume)
        if self._volumes[0] == -np.inf:  # nothing was seen yet: no gain can be a share of that
            del self._volumes[:-1]
        first, last = self._volumes[0], self._volumes[-2:][0]
        if len(self._volumes) == 1 or volume - last > self._tolerance * (volume - first):
            self._left = self._grown(self._patience)
            return
        if volume > self._best:
            self._best, self._kept = volume, self._relay.current.incumbents()
        self._volumes.clear()
        self._restarts += 1
        self._left = self._grown(self._patience)
        self._relay.hand_over(self._begin(()))

    def _grown(self, number: int) -> int:
        return round(number * self._growth**self._restarts)

    def _begin(self, start: Start) -> plugins.Strategy:
        options, seed = self._options, self._seed
        if self._restarts:
            seed = sequences.seed(seed, self._restarts)
            options = self._larger(self._name, options)
        return plugins.begin(
            self._name, options, self._space, self._objectives,
            seed=seed, where=WHERE, start=start,
        )  # fmt: skip

    def _larger(self, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options with a grown population, given or default, and so for inner strategies."""
        module = plugins.load("strategy", name, WHERE)
        found = dict(options)
        for key, parameter in inspect.signature(module.Strategy.__init__).parameters.items():
            value = options.get(key, parameter.default)
            if key == "population":
                if value is None and hasattr(module, "default_population"):
                    value = module.default_population(self._space)
                if isinstance(value, int):
                    found[key] = self._grown(value)
            elif isinstance(value, Mapping) and "name" in value:
                inner, given = plugins.inner(value, f"{WHERE}.{key}")
                found[key] = {"name": inner, **self._larger(inner, given)}
        return found


def _reached(measured: Sequence[Sequence[float]]) -> float:
    """The hypervolume; where there is none yet, how far the nearest is beyond the reference point,
    below zero."""
    if not measured:
        return -np.inf
    beyond = min(max(losses) for losses in measured) - REFERENCE_POINT
    return pareto.hypervolume(measured, REFERENCE_POINT) or -max(beyond, 0.0)
