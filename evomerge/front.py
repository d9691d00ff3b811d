"""Points with their scores on all splits, how they compare, and the table that they make."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from evomerge.console import count, score
from evomerge.maths import intervals

if TYPE_CHECKING:
    import pandas as pd

    from evomerge.answers import Scores


@dataclass(frozen=True)
class Point:
    """One merged model or baseline: its scores per objective and split, item by item; and what
    objectives weigh in their mean (nothing given: all the same)."""

    label: str
    key: str
    scores: Mapping[str, Sequence[Scores]] = field(compare=False)  # arrays have no one truth
    chosen: bool = False
    weights: Sequence[float] | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        means = ", ".join(map(score, self.means("test")))
        return f"Point({self.label!r}, test=[{means}]{', chosen' if self.chosen else ''})"

    def mean(self, split: str) -> float:
        """Weighted mean over objectives of the mean scores on a split."""
        return float(np.average(self.means(split), weights=self.weights))

    def means(self, split: str) -> list[float]:
        """Mean score per objective on a split; nan where nothing was asked."""
        return [float(s.mean()) if len(s) else float("nan") for s in self.scores[split]]

    def counted(self, split: str, kind: str = "") -> str:
        """For people: how many items its mean is of; objectives that weigh nothing have none."""
        n = sum(map(len, self.counting(split)))
        return count(n, f"{kind}item")

    def counting(self, split: str) -> list[Scores]:
        """Scores of the objectives that weigh something in the mean."""
        columns = self.scores[split]
        pairs = zip(columns, self.weights or [1.0] * len(columns), strict=True)
        return [column for column, weight in pairs if weight]

    def interval(self, objective: int, split: str = "test") -> tuple[float, float]:
        """Wilson's 95 % interval of one objective; nan for fewer than two items, as a function's
        one score is the mean of nothing."""
        scores = self.scores[split][objective]
        if len(scores) < 2:
            return float("nan"), float("nan")
        return intervals.of_mean(scores)

    def text(self, objective: int, split: str = "test") -> str:
        """Mean and interval of one objective for people; `-` where nothing was asked."""
        mean, (low, high) = self.means(split)[objective], self.interval(objective, split)
        if np.isnan(mean):
            return "-"
        return f"{mean:.3f}" if np.isnan(low) else f"{mean:.3f} ({low:.3f} to {high:.3f})"


def stacked(points: Sequence[Point], split: str = "test") -> list[Scores]:
    """Scores (points, items) of each objective."""
    return [np.stack(column) for column in zip(*(p.scores[split] for p in points), strict=True)]


class Tested:
    """All points that answered `test`, on its items drawn anew, the same ones for all.

    Where questions have changed, a point may have answers to some of those of now alone: such a
    one can not be compared item by item.
    """

    def __init__(self, points: Sequence[Point]) -> None:
        sizes = [[len(column) for column in point.scores["test"]] for point in points]
        most = [max(column) for column in zip(*sizes, strict=True)]
        whole = (p for p, size in zip(points, sizes, strict=True) if size == most)
        self.points = {p.label: p for p in whole if np.isfinite(p.mean("test"))}

    @cached_property
    def _resampled(self) -> intervals.Resampled:
        return intervals.resample(stacked(list(self.points.values())), seed=0)

    @cached_property
    def nondominated(self) -> dict[str, float]:
        """By label: the probability that no other point here beats it in every objective."""
        if not self.points:
            return {}
        found = self._resampled.nondominated()
        return dict(zip(self.points, found.tolist(), strict=True))

    def against(
        self, label: str, others: Sequence[Point], kind: Callable[[Point], str]
    ) -> list[dict[str, Any]]:
        """A row for each other point that was tested; `p_holm` counts all of them, so that it
        holds whichever is looked at, and for the `best` of a kind too. No rows for a label that
        was not tested.

        Interval and p-values are nan where every objective is one number, such as a function's.
        """
        if label not in self.points:
            return []
        there, places = [p for p in others if p.label in self.points], list(self.points)
        mine = self.points[label]
        kinds = {p.label: kind(p) for p in there}
        best = {kinds[p.label]: p.label for p in sorted(there, key=lambda p: p.mean("test"))}
        rows = []
        for other in there:
            pair = places.index(label), places.index(other.label)
            found = self._resampled.difference(*pair, weights=mine.weights)
            pairs = zip(mine.counting("test"), other.counting("test"), strict=True)
            rows.append(
                {
                    "baseline": other.label, "kind": kinds[other.label],
                    "best": best[kinds[other.label]] == other.label,
                    **found._asdict(),
                    "items_that_differ": sum(int((a != b).sum()) for a, b in pairs),
                }
            )  # fmt: skip
        adjusted = intervals.holm([row["p"] for row in rows])
        return [{**row, "p_holm": float(p)} for row, p in zip(rows, adjusted, strict=True)]


def named(row: Mapping[str, Any]) -> str:
    """A comparison's baseline, and whether it is the best of its kind."""
    kinds = {"expert": " (best expert)", "textbook": " (best textbook)"}
    return str(row["baseline"]) + (kinds.get(row["kind"], "") if row["best"] else "")


def shown(p: float) -> str:
    """A p-value for people."""
    return "-" if np.isnan(p) else f"{p:.3f}" if p >= 0.001 else "<0.001"


def spread(low: float, high: float, sign: str = "+") -> str:
    """An interval for people; `-` where there is none."""
    return "-" if np.isnan(low) else f"{low:{sign}.3f} to {high:{sign}.3f}"


class Front(Sequence[Point]):
    """Points with their names of objectives; shows itself as a table."""

    def __init__(self, points: Sequence[Point], objectives: Sequence[str], tested: Tested) -> None:
        self.points = list(points)
        self.objectives = list(objectives)
        self.tested = tested

    def __getitem__(self, index: Any) -> Any:
        return self.points[index]

    def __len__(self) -> int:
        return len(self.points)

    def rows(self) -> list[dict[str, Any]]:
        """A plain row a point: test scores with 95 % intervals, means of all splits, and
        the probability to be nondominated among all points that were tested."""
        rows = []
        for point in self.points:
            row: dict[str, Any] = {"point": point.label, "chosen": point.chosen}
            for i, name in enumerate(self.objectives):
                low, high = point.interval(i)
                row |= {name: point.means("test")[i], f"{name}_low": low, f"{name}_high": high}
            row |= {f"mean_{split}": point.mean(split) for split in point.scores}
            row["nondominated"] = self.tested.nondominated.get(point.label)
            rows.append(plain(row))
        return rows

    def to_pandas(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(self.rows()).set_index("point")

    def __repr__(self) -> str:
        widths = [max(10, len(name) + 2) for name in self.objectives]
        names = "".join(f"{n:>{width}}" for n, width in zip(self.objectives, widths, strict=True))
        lines = [f"{'point':<24}{names}{'mean':>8}"]
        for point in self.points:
            means = zip(point.means("test"), widths, strict=True)
            cells = "".join(f"{score(value):>{width}}" for value, width in means)
            mark = " *" if point.chosen else ""
            lines.append(f"{point.label + mark:<24}{cells}{score(point.mean('test')):>8}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.objectives)
        body = ""
        for point in self.points:
            name = html.escape(point.label) + (" ★" if point.chosen else "")
            cells = "".join(_cell(point, i) for i in range(len(self.objectives)))
            cells += f"<td><b>{score(point.mean('test'))}</b></td>"
            cells += f"<td>{self.stays(point)}</td>" if self.tested.points else ""
            body += f"<tr><th>{name}</th>{cells}</tr>"
        head = f"<th>test scores</th>{head}<th>mean</th>"
        head += "<th>nondominated</th>" if self.tested.points else ""
        return f"<table><tr>{head}</tr>{body}</table>"

    def stays(self, point: Point) -> str:
        """The probability that a point is nondominated, for people."""
        found = self.tested.nondominated.get(point.label)
        return "-" if found is None else f"{found:.2f}"


def afterwards(points: Sequence[Point], found: Mapping[str, Mapping[str, Any]]) -> Front:
    """Points with their scores on further banks, by plan key; none where there is no such bank."""
    scored = []
    for p in points if found else []:
        scores = [np.array(rows.get(p.key, ())) for rows in found.values()]
        scored.append(Point(p.label, p.key, {"test": scores}, p.chosen))
    return Front(scored, list(found), Tested([]))


def _cell(point: Point, objective: int) -> str:
    return f"<td>{point.text(objective)}</td>"


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with None for nan, which JSON has no word for."""
    return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in row.items()}
