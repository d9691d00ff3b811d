"""Whether a merge can still write: it has no score if nearly all of its texts are none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from evomerge.answers import Answers
from evomerge.generation import DEGENERATE
from evomerge.plan import Plan
from evomerge.worker import Result

NEARLY_ALL, NORMAL = 0.9, 0.5
"""Share of degenerate texts from which a merge has failed; base and experts have to be below the
second on a bank, or its texts say nothing about a merge."""

LEAST = 8
"""Texts, below which nothing is said."""


class Judge:
    """Compares the texts of a merge with those of base and experts on `search`."""

    def __init__(self, answers: Answers, ends: Mapping[str, Plan]) -> None:
        """`ends` are base and experts by label, whose answers are there.

        Where a scorer says nothing of texts, or they are from before it did, neither does this.
        """
        self.ends = {plan.key for plan in ends.values()}
        self.normal: dict[str, float] = {}
        for name in answers.setup.banks:
            shares = []
            for key in self.ends:
                found = answers.extras(key, name, "search")
                shares.append(sum(extra.get(DEGENERATE, 1.0) for extra in found) / len(found))
            if max(shares) < NORMAL:
                self.normal[name] = max(shares)

    def __call__(self, result: Result) -> Result:
        """The result, or if nearly all of its texts on a bank are degenerate, a failed one."""
        if result.failed is not None or result.key in self.ends:
            return result
        for name, most in self.normal.items():
            found = [a.extra[DEGENERATE] for a in result.answers if a.bank == name]
            if len(found) >= LEAST and sum(found) >= NEARLY_ALL * len(found):
                reason = (
                    f"objective '{name}': degenerate text: {sum(found):.0f} of {len(found)} texts "
                    "are blank or repeat themselves to their end; of base and experts at most "
                    f"{most:.0%} do"
                )
                return replace(result, answers=(), failed=reason)
        return result
