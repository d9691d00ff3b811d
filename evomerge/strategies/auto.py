"""Chooses a strategy by a rule: what the space and the objectives are like.

The rule follows the table of strategies in docs/results.md. The budget is no part of it: a run may
be extended, and must not become another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from evomerge import plugins
from evomerge.genome import Space
from evomerge.plugins import Observation, Proposal, Start


def rule(space: Space, objectives: int) -> tuple[dict[str, Any], str]:
    """The inner strategy after the textbook merges, and why."""
    choices = sum(bool(gene.choices) for gene in space.genes)
    if choices and objectives > 1:
        inner = {"name": "smsemoa", "steady": True}
        return inner, f"{choices} of {len(space)} genes are choices, {objectives} objectives"
    if choices:
        return {"name": "tpe"}, f"{choices} of {len(space)} genes are choices, one objective"
    return {"name": "cma_es"}, f"{len(space)} genes, all of them numbers"


def explain(space: Space, objectives: Sequence[str], options: Mapping[str, Any]) -> str:
    """One line for people: what is chosen and why."""
    inner, reason = rule(space, len(objectives))
    return f"strategy auto: textbook merges, then {inner['name']} ({reason})"


class Strategy:
    """`seeded` with the inner strategy that the rule chooses."""

    NEEDS: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self, space: Space, objectives: Sequence[str], *, seed: int, start: Start = ()
    ) -> None:
        inner, _ = rule(space, len(objectives))
        self._chosen = plugins.begin(
            "seeded", {"inner": inner}, space, objectives,
            seed=seed, where="strategy.auto", start=start,
        )  # fmt: skip

    def ask(self, n: int) -> list[Proposal]:
        return self._chosen.ask(n)

    def tell(self, observations: Sequence[Observation]) -> None:
        self._chosen.tell(observations)

    def incumbents(self) -> list[tuple[float, ...]]:
        return self._chosen.incumbents()

    def notes(self) -> list[str]:
        return plugins.notes(self._chosen)
