"""The blocks in which items are answered: the same for every candidate, whatever else is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evomerge.files.bank import Bank
from evomerge.files.items import Item

Place = tuple[str, str, int | tuple[str, ...]]
"""A block of an objective's items on a split: its number in the fixed order, or item ids."""


def block(bank: Bank, split: str, number: int | tuple[str, ...], batch: int) -> Sequence[Item]:
    """Items of one block: the same for every candidate, whatever else is asked."""
    if isinstance(number, tuple):
        named = {item.id: item for item in bank.split(split)}
        return [named[id] for id in number]
    return bank.split(split)[number * batch : (number + 1) * batch]


def n_blocks(bank: Bank, split: str, batch: int, items: int | None = None) -> int:
    """Blocks that hold the first `items` items of a split (None: all of them)."""
    total = len(bank.split(split))
    return -(-min(total, total if items is None else items) // batch)


def places(
    banks: Mapping[str, Bank], split: str, batch: int, items: int | None = None
) -> list[Place]:
    """The blocks that hold the first `items` items of every bank (None: all)."""
    return [
        (objective, split, number)
        for objective, bank in banks.items()
        for number in range(n_blocks(bank, split, batch, items))
    ]
