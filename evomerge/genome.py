"""Genes, and the space they span: typed values for people, the unit cube for strategies."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from evomerge import errors

Value = float | str
Point = npt.NDArray[np.float64]
Measure = Callable[[Sequence["Gene"]], npt.NDArray[np.float64]]
_Placed = list[tuple[int, "Gene"]]
_Table = tuple[Point, _Placed, _Placed, _Placed]


@dataclass(frozen=True)
class Gene:
    """One parameter of a merge: a number (range, step) or a choice.

    An operator declares it by `name`; a Space places one copy per expert (`per_expert`) and per
    group of tensors (`level="group"`), or one for the whole model (`level="model"`).
    `when=(name, values)`: active only while that choice gene has one of these values.
    `searched=False`: held at `default` unless a recipe asks for it to be searched.
    `seeds`: values of the textbook merges, tried first by the strategy `seeded`.
    """

    name: str
    low: float = 0.0
    high: float = 1.0
    default: Value = 0.0
    step: float = 0.0
    choices: tuple[str, ...] = ()
    per_expert: bool = False
    level: str = "group"
    when: tuple[str, tuple[str, ...]] | None = None
    searched: bool = True
    seeds: tuple[float, ...] = ()
    operator: str = field(default="", kw_only=True)
    expert: str = field(default="", kw_only=True)
    group: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        if self.choices:
            return
        if not -math.inf < self.low <= self.high < math.inf or self.step < 0:
            raise errors.RecipeError(
                f"{self.key}: [{self.low}, {self.high}] step {self.step} is not a range"
            )
        if self.step and self._last() < self._first():
            raise errors.RecipeError(
                f"{self.key}: no multiple of {self.step:g} in [{self.low:g}, {self.high:g}]"
            )

    @property
    def key(self) -> str:
        """Unique name inside a space, such as `ties.weight[code]@2/mlp`."""
        owner = f"{self.operator}." if self.operator else ""
        expert = f"[{self.expert}]" if self.expert else ""
        group = f"@{self.group}" if self.group else ""
        return f"{owner}{self.name}{expert}{group}"

    @property
    def cells(self) -> int:
        """How many values the gene can take; 0 when it is continuous."""
        if self.choices:
            return len(self.choices)
        return self._last() - self._first() + 1 if self.step else 0

    def _first(self) -> int:
        return math.ceil(self.low / self.step - 1e-9)

    def _last(self) -> int:
        return math.floor(self.high / self.step + 1e-9)

    def decode(self, unit: float) -> Value:
        """The value at `unit` in [0, 1]; cells of a grid or a choice have equal shares."""
        cells = self.cells
        if not cells:
            value = round(self.low + float(unit) * (self.high - self.low), 6)
            # + 0.0 turns -0.0 into 0.0: equal models must be equal text
            return float(min(max(value, self.low), self.high)) + 0.0
        cell = min(int(float(unit) * cells), cells - 1)
        return self.choices[cell] if self.choices else float((self._first() + cell) * self.step)

    def encode(self, value: Value) -> float:
        """The point of [0, 1] that decodes to `value`: the middle of its cell."""
        self.check(value, self.key)
        cells = self.cells
        if self.choices:
            return (self.choices.index(str(value)) + 0.5) / cells
        if cells:
            cell = round(float(value) / self.step) - self._first()
            return (min(max(cell, 0), cells - 1) + 0.5) / cells
        return self.placed(value)

    def placed(self, value: Value) -> float:
        """Where a value stands in the range of a continuous gene, from 0 to 1."""
        width = self.high - self.low
        return min(max((float(value) - self.low) / width, 0.0), 1.0) if width else 0.5

    def check(self, value: object, where: str) -> None:
        """Raise RecipeError unless `value` is one that this gene can take."""
        if self.choices:
            if value not in self.choices:
                raise errors.RecipeError(errors.unknown(where, "choice", str(value), self.choices))
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise errors.RecipeError(f"{where}: expected a number, got {value!r}")
        elif not self.low - 1e-9 <= float(value) <= self.high + 1e-9:
            raise errors.RecipeError(
                f"{where}: {value} is outside the range [{self.low:g}, {self.high:g}]"
            )


COMPAT = Gene(
    "compat", default="paper", choices=("paper", "mergekit"), level="model", searched=False
)
"""For operators that mergekit has with other results: the paper's, or those."""

SPHERE_OF = Gene(
    "of", default="weights", choices=("weights", "task_vectors"), level="model", searched=False
)
"""What operators on a sphere take as vectors."""

MATRICES = (
    Gene(
        "vectors", default="mean", choices=("mean", "sum", "base"), level="model", searched=False
    ),
    Gene("embeddings", default="no", choices=("no", "yes"), level="model", searched=False),
)
"""What operators for matrices do to other tensors, and whether embedding and head are matrices."""


class Space:
    """The genes that a search varies, in a fixed order; `len` is the dimension D.

    `measure` gives, for genes, the inner products of what they multiply; see `products`.
    """

    def __init__(self, genes: Sequence[Gene], measure: Measure | None = None) -> None:
        keys = [gene.key for gene in genes]
        if len(set(keys)) != len(keys):
            raise errors.RecipeError(f"space: a gene stands twice: {sorted(keys)}")
        self.genes = tuple(genes)
        self.measure = measure
        self._conditions = {gene.key: gene.when for gene in genes}
        for gene in genes:
            self._check_conditions(gene)

    def __len__(self) -> int:
        return len(self.genes)

    def decode(self, point: npt.ArrayLike) -> dict[str, Value]:
        """Typed values of the active genes at `point` (D,) of the unit cube, on their grids."""
        units = self._units(point)
        values = {
            gene.key: gene.decode(unit) for gene, unit in zip(self.genes, units, strict=True)
        }
        return {key: value for key, value in values.items() if self._active(key, values)}

    def encode(self, values: Mapping[str, Value]) -> Point:
        """A point (D,) that decodes to `values`; genes not named stand at their default."""
        stray = sorted(set(values) - {gene.key for gene in self.genes})
        if stray:
            known = [gene.key for gene in self.genes]
            raise errors.RecipeError(errors.unknown("space", "gene", stray[0], known))
        return np.array([gene.encode(values.get(gene.key, gene.default)) for gene in self.genes])

    def canonical(self, point: npt.ArrayLike) -> Point:
        """The one point that stands for all points which decode to the same values: that which
        these encode to, found without a look at each gene's value."""
        units = self._units(point)
        cells, continuous, dependent, parents = self._table
        found = (np.minimum(np.floor(units * cells), cells - 1) + 0.5) / np.maximum(cells, 1)
        for place, gene in continuous:
            found[place] = gene.placed(gene.decode(units[place]))
        if dependent:
            values = {gene.key: gene.decode(units[place]) for place, gene in parents}
            for place, gene in dependent:
                if not self._active(gene.key, values):
                    found[place] = gene.encode(gene.default)
        return found

    def narrowed(self, key: str, **changes: Any) -> Space:
        """The same space with one gene changed; a default left outside moves to the new range."""
        if key not in self._conditions:
            raise errors.RecipeError(errors.unknown("space", "gene", key, self._conditions))
        genes = [_narrowed(g, changes) if g.key == key else g for g in self.genes]
        return Space(genes, self.measure)

    @cached_property
    def products(self) -> npt.NDArray[np.float64] | None:
        """Inner products (D, D) of the task vectors that genes multiply; None if not known.

        Models are read when it is first asked for.
        """
        return None if self.measure is None else self.measure(self.genes)

    def _units(self, point: npt.ArrayLike) -> Point:
        units = np.clip(np.asarray(point, dtype=np.float64), 0.0, 1.0)
        if units.shape != (len(self),) or not np.isfinite(units).all():
            raise ValueError(f"expected {len(self)} finite numbers, got shape {units.shape}")
        return units

    @cached_property
    def _table(self) -> _Table:
        """What `canonical` needs of the genes, whatever the point."""
        places = list(enumerate(self.genes))
        wanted = {gene.when[0] for gene in self.genes if gene.when is not None}
        return (
            np.array([gene.cells for gene in self.genes], dtype=np.float64),
            [(place, gene) for place, gene in places if not gene.cells],
            [(place, gene) for place, gene in places if gene.when is not None],
            [(place, gene) for place, gene in places if gene.key in wanted],
        )

    def _active(self, key: str, values: Mapping[str, Value]) -> bool:
        """A gene acts while its condition holds and the gene it depends on acts itself."""
        condition = self._conditions[key]
        if condition is None:
            return True
        return values[condition[0]] in condition[1] and self._active(condition[0], values)

    def _check_conditions(self, gene: Gene) -> None:
        seen, condition = {gene.key}, gene.when
        while condition is not None:
            if condition[0] not in self._conditions or condition[0] in seen:
                raise errors.RecipeError(
                    f"{gene.key}: depends on '{condition[0]}', which is not in the space"
                    " or depends on it in turn"
                )
            seen.add(condition[0])
            condition = self._conditions[condition[0]]


def _narrowed(gene: Gene, changes: Mapping[str, Any]) -> Gene:
    changed = replace(gene, **changes)
    if "default" in changes:
        return changed
    if changed.choices:
        kept = gene.default in changed.choices
        return changed if kept else replace(changed, default=changed.choices[0])
    return replace(changed, default=min(max(float(gene.default), changed.low), changed.high))


def alone(space: Space) -> Iterator[dict[str, Value]]:
    """For each expert: its weights at 1, or as near as they get, and all others at 0."""
    weights = [gene for gene in space.genes if gene.name == "weight" and gene.expert]
    for expert in dict.fromkeys(gene.expert for gene in weights):
        yield {gene.key: min(1.0, gene.high) if gene.expert == expert else 0.0 for gene in weights}
