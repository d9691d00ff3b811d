"""What is counted of a merged model while it is built: addable over tiles and tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Totals:
    """Of the entries of merged tensors, as they are stored: how many there are, how many differ
    from the base and how many are not zero; sums of squares of difference and base."""

    entries: int = 0
    changed: int = 0
    nonzero: int = 0
    difference: float = 0.0
    base: float = 0.0

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.entries + other.entries, self.changed + other.changed,
            self.nonzero + other.nonzero, self.difference + other.difference,
            self.base + other.base,
        )  # fmt: skip


def of(stored: torch.Tensor, base: torch.Tensor) -> Totals:
    """Totals of a tile (n,) as it is stored; the base (n,) is rounded to the same dtype."""
    before = base.to(stored.device, stored.dtype)
    changed = int((stored != before).count_nonzero())
    return Totals(
        stored.numel(), changed, int(stored.count_nonzero()),
        _squares(stored.double() - before.double()) if changed else 0.0,
        _squares(before.double()),
    )  # fmt: skip


def _squares(values: torch.Tensor) -> float:
    return float(values.square().sum())
