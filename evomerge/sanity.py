"""Whether what base and experts score on a bank can be right, or its prompt is likely wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evomerge import plugins
from evomerge.answers import Answers, Place
from evomerge.files.bank import Bank
from evomerge.maths.intervals import wilson
from evomerge.plan import Plan

WRONG = "prompt or template are likely wrong"
FEW = "prompt or template may be wrong, or these questions are too few to tell"


def of(answers: Answers, plans: Mapping[str, Plan], places: Sequence[Place]) -> dict[str, Any]:
    """By bank: `questions` asked, how many there are, mean scores by label, and `remarks`.

    `plans` are base and experts by label, which have answered all `places` of `search`.
    """
    found = {}
    for name, bank in answers.setup.banks.items():
        columns = {label: answers.column(p.key, name, places) for label, p in plans.items()}
        means = {label: float(column.mean()) for label, column in columns.items()}
        n = len(columns["base"])
        found[name] = {
            "questions": n, "of": len(bank.split("search")),
            "scores": {label: round(mean, 4) for label, mean in means.items()},
            "remarks": remarks(name, bank, means, n),
        }  # fmt: skip
    return found


def remarks(name: str, bank: Bank, means: Mapping[str, float], n: int) -> list[str]:
    """What is odd about mean scores on n items of a bank: the best of them within what guessing
    may score (Wilson's 95 % interval), or the expert of the bank's name not above the base."""
    advice = WRONG if n == len(bank.split("search")) else FEW
    scorer = plugins.load("scorer", bank.scorer)
    asked = "1 question" if n == 1 else f"{n} questions"
    found, best, mine = [], max(means.values()), means.get(f"expert {name}")
    if hasattr(scorer, "chance"):
        chance = scorer.chance(bank.split("search"))
        if wilson(best, n)[0] <= chance:
            found.append(
                f"'{name}': base and experts score at most {best:.3f} on {asked}, which is "
                f"not clearly above what guessing scores ({chance:.3f}): {advice}"
            )
    if mine is not None and mine <= means["base"] and best > 0:
        found.append(
            f"expert '{name}' scores {mine:.3f} on '{name}' ({asked}), the base "
            f"{means['base']:.3f}: {advice}"
        )
    return found
