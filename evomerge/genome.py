"""Genes, and the space they span: typed values for people, the unit cube for strategies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from evomerge import errors

Value = float | str
Point = npt.NDArray[np.float64]


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
        return int(np.ceil(self.low / self.step - 1e-9))

    def _last(self) -> int:
        return int(np.floor(self.high / self.step + 1e-9))

    def decode(self, unit: float) -> Value:
        """The value at `unit` in [0, 1]; cells of a grid or a choice have equal shares."""
        if not self.cells:
            return round(self.low + float(unit) * (self.high - self.low), 6)
        cell = min(int(float(unit) * self.cells), self.cells - 1)
        return self.choices[cell] if self.choices else (self._first() + cell) * self.step

    def encode(self, value: Value) -> float:
        """The point of [0, 1] that decodes to `value`: the middle of its cell."""
        self.check(value, self.key)
        if self.choices:
            return (self.choices.index(str(value)) + 0.5) / self.cells
        if self.cells:
            return (round(float(value) / self.step) - self._first() + 0.5) / self.cells
        width = self.high - self.low
        return (float(value) - self.low) / width if width else 0.5

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


class Space:
    """The genes that a search varies, in a fixed order; `len` is the dimension D."""

    def __init__(self, genes: Sequence[Gene]) -> None:
        keys = [gene.key for gene in genes]
        if len(set(keys)) != len(keys):
            raise errors.RecipeError(f"space: a gene stands twice: {sorted(keys)}")
        self.genes = tuple(genes)
        self._by_key = dict(zip(keys, self.genes, strict=True))

    def __len__(self) -> int:
        return len(self.genes)

    def decode(self, point: npt.ArrayLike) -> dict[str, Value]:
        """Typed values of the active genes at `point` (D,) of the unit cube, on their grids."""
        units = np.clip(np.asarray(point, dtype=np.float64), 0.0, 1.0)
        if units.shape != (len(self),) or not np.isfinite(units).all():
            raise ValueError(f"expected {len(self)} finite numbers, got shape {units.shape}")
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
        """The one point that stands for all points which decode to the same values."""
        return self.encode(self.decode(point))

    def _active(self, key: str, values: Mapping[str, Value]) -> bool:
        """Whether all conditions above a gene hold: its own, and those of the gene it hangs on."""
        when = self._by_key[key].when
        return when is None or (values[when[0]] in when[1] and self._active(when[0], values))
