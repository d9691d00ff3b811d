"""What a comparison of experts found: signals by group of tensors, by expert and by pair."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

EXPERT = ("norm", "effective_rank", "rank_95", "alignment")
PAIR = (
    *("cosine", "sign_conflict", "weighted_conflict", "trim_overlap", "trimmed_conflict"),
    *("subspace_overlap", "distance"),
)
CHANCE = ("alignment", "trim_overlap", "subspace_overlap")
"""Signals that come with the level they have by chance, as NAME_chance."""
Numbers = dict[str, float]


@dataclass(frozen=True)
class Group:
    """Signals of the tensors of one depth and role: by expert, by pair, and of all experts."""

    name: str
    entries: int
    experts: Mapping[str, Numbers]
    pairs: Mapping[tuple[str, str], Numbers]
    norm_ratio: float
    cancelled: float

    def mean(self, signal: str) -> float:
        """Mean of a signal over experts or pairs; nan where none has it."""
        rows = self.pairs if signal in PAIR else self.experts
        found = [row[signal] for row in rows.values() if math.isfinite(row[signal])]
        return sum(found) / len(found) if found else math.nan


@dataclass(frozen=True)
class Similarity:
    """What `compare` found: `whole`, and `groups` by depth and role in the model's order.

    Spectral signals are those of the `measured` matrices, whose smaller side has at most
    `largest_matrix` rows; `matrices` is how many there are.
    """

    base: str
    names: tuple[str, ...]
    density: float
    whole: Group
    groups: tuple[Group, ...]
    matrices: int
    measured: int
    largest_matrix: int

    def rows(self) -> Iterator[dict[str, Any]]:
        """A plain row for each group and each expert or pair; None for what is undefined."""
        for group in (self.whole, *self.groups):
            both = [*group.experts.items(), *group.pairs.items()]
            for owner, numbers in both:
                shown = owner if isinstance(owner, str) else " + ".join(owner)
                yield {"group": group.name, "of": shown, **_defined(numbers)}

    def to_pandas(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(list(self.rows()))

    def to_json(self) -> str:
        """Everything as JSON; null for what is undefined."""
        return json.dumps(
            {
                "base": self.base, "experts": list(self.names), "density": self.density,
                "matrices": self.matrices, "matrices_measured": self.measured,
                "largest_matrix": self.largest_matrix,
                "whole": _plain(self.whole), "groups": [_plain(group) for group in self.groups],
            },
            indent=1,
        )  # fmt: skip

    def write(self, file: str | Path) -> Path:
        """Heatmaps in one HTML file that needs nothing else."""
        from evomerge.report import heatmaps

        return heatmaps.write(self, Path(file))

    def __repr__(self) -> str:
        pairs = {" + ".join(pair): row for pair, row in self.whole.pairs.items()}
        keys, rows = (PAIR, pairs) if pairs else (EXPERT, self.whole.experts)  # one has no pair
        lines = [f"{'experts':<32}" + "".join(f"{name:>19}" for name in keys)]
        for name, row in rows.items():
            lines.append(f"{name:<32}" + "".join(f"{row[key]:>19.4f}" for key in keys))
        return "\n".join(lines)


def _defined(numbers: Numbers) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in numbers.items()}


def _plain(group: Group) -> dict[str, Any]:
    return {
        "group": group.name, "entries": group.entries,
        **_defined({"norm_ratio": group.norm_ratio, "cancelled": group.cancelled}),
        "experts": {name: _defined(row) for name, row in group.experts.items()},
        "pairs": [{"experts": pair, **_defined(row)} for pair, row in group.pairs.items()],
    }  # fmt: skip
