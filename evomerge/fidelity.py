"""Which items are asked next; how many is the strategy's word, else the recipe's."""

from __future__ import annotations

from evomerge.answers import Answers, Place
from evomerge.recipe import Fidelity


def wanted(fidelity: Fidelity, answers: Answers, items: int | None) -> list[Place]:
    """Blocks of the `search` split for a candidate: the first `items` of each bank.

    Every bank has one fixed order, so that the answers of all candidates pair up; `items` is
    rounded up to whole blocks.
    """
    return answers.places("search", fidelity.items if items is None else items)
