"""A measure of the merged model itself, which asks it nothing: counted while it is built.

It is exact, and the same on `search`, `validation` and `test`. All are shares from 0 to 1, more is
better:

    sparsity         entries of the task vector that are zero: the merged value is the base's
    weight_sparsity  weights that are zero
    closeness        1 - |W - base| / |base|, at least 0
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from evomerge import errors
from evomerge.files.bank import Bank
from evomerge.files.items import SPLITS, Item
from evomerge.maths.totals import Totals

STRUCTURAL = True
"""Is given totals in place of the model."""
NEEDS_TOKENIZER = False

Measure = Literal["sparsity", "weight_sparsity", "closeness"]
MEASURES: Mapping[str, Callable[[Totals], float]] = {
    "sparsity": lambda found: 1 - found.changed / max(found.entries, 1),
    "weight_sparsity": lambda found: 1 - found.nonzero / max(found.entries, 1),
    "closeness": lambda found: max(0.0, 1 - _length(found.difference, found.base)),
}


def bank(name: str, measure: str) -> Bank:
    """The bank of one item a split that stands for a measure."""
    items = tuple(Item(f"{name}:{split}", name, (), "", split) for split in SPLITS)
    return Bank(
        name=name, version=1, scorer="structural", options={"measure": find(measure)}, items=items,
        licence="", sha256=f"structural:{measure}", path=Path(), description="",
    )  # fmt: skip


def find(measure: str) -> str:
    """The measure itself; RecipeError where there is none of this name."""
    if measure not in MEASURES:
        raise errors.RecipeError(errors.unknown("measure", "measure", measure, MEASURES))
    return measure


def check(item: Item) -> None:
    """No bank of questions can be scored by it."""
    raise ValueError(
        "a measure of the model asks nothing: name it as the `measure` of a recipe's objective"
    )


def prepare(tokenizer: Any, items: Sequence[Item], *, measure: Measure) -> tuple[str, int]:
    return measure, len(items)


def score(totals: Totals, batch: tuple[str, int]) -> dict[str, list[float]]:
    measure, items = batch
    return {"score": [MEASURES[measure](totals)] * items}


def _length(squares: float, base: float) -> float:
    """Root of a ratio of sums of squares; infinite against nothing."""
    if not squares:
        return 0.0
    return math.sqrt(squares / base) if base else math.inf
