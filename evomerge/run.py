"""A run as a notebook holds it: its front, its numbers, its plots, and any member as a model."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evomerge import errors
from evomerge.answers import Scores
from evomerge.files.ledger import Ledger
from evomerge.maths import intervals, pareto
from evomerge.objectives import Anchor, Losses

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from evomerge.plan import Plan


@dataclass(frozen=True)
class Point:
    """One merged model or baseline: its scores per objective and split, item by item."""

    label: str
    key: str
    scores: Mapping[str, Sequence[Scores]]
    chosen: bool = False

    def mean(self, split: str) -> float:
        """Mean over objectives of the mean scores on a split."""
        return float(np.mean(self.means(split)))

    def means(self, split: str) -> list[float]:
        """Mean score per objective on a split; nan where nothing was asked."""
        return [float(s.mean()) if len(s) else float("nan") for s in self.scores[split]]

    def interval(self, objective: int, split: str = "test") -> tuple[float, float]:
        """Wilson's 95 % interval of one objective."""
        scores = self.scores[split][objective]
        if not len(scores):
            return float("nan"), float("nan")
        low, high = intervals.wilson(float(scores.mean()), len(scores))
        return float(low), float(high)


class Front(Sequence[Point]):
    """Points with their names of objectives; shows itself as a table."""

    def __init__(self, points: Sequence[Point], objectives: Sequence[str]) -> None:
        self.points = list(points)
        self.objectives = list(objectives)

    def __getitem__(self, index: Any) -> Any:
        return self.points[index]

    def __len__(self) -> int:
        return len(self.points)

    def rows(self) -> list[dict[str, Any]]:
        """A plain row a point: test scores with 95 % intervals, means of all three splits."""
        rows = []
        for point in self.points:
            row: dict[str, Any] = {"point": point.label, "chosen": point.chosen}
            for i, name in enumerate(self.objectives):
                low, high = point.interval(i)
                row |= {name: point.means("test")[i], f"{name}_low": low, f"{name}_high": high}
            row |= {
                f"mean_{split}": point.mean(split) for split in ("search", "validation", "test")
            }
            rows.append({key: _number(value) for key, value in row.items()})
        return rows

    def to_pandas(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(self.rows()).set_index("point")

    def __repr__(self) -> str:
        names = "".join(f"{name:>10.10}" for name in self.objectives)
        lines = [f"{'point':<24}{names}{'mean':>8}"]
        for point in self.points:
            cells = "".join(f"{value:>10.3f}" for value in point.means("test"))
            mark = " *" if point.chosen else ""
            lines.append(f"{point.label + mark:<24}{cells}{point.mean('test'):>8.3f}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.objectives)
        body = ""
        for point in self.points:
            name = html.escape(point.label) + (" ★" if point.chosen else "")
            cells = "".join(_cell(point, i) for i in range(len(self.objectives)))
            body += f"<tr><th>{name}</th>{cells}<td><b>{point.mean('test'):.3f}</b></td></tr>"
        return f"<table><tr><th>test scores</th>{head}<th>mean</th></tr>{body}</table>"


def _cell(point: Point, objective: int) -> str:
    low, high = point.interval(objective)
    return f"<td>{point.means('test')[objective]:.3f} <small>{low:.3f}-{high:.3f}</small></td>"


def _number(value: Any) -> Any:
    """None for nan, which JSON has no word for."""
    return None if isinstance(value, float) and np.isnan(value) else value


class Run:
    """The folder of a run, opened for reading."""

    def __init__(self, folder: str | Path) -> None:
        """Raises InputError where there is no run."""
        self.folder = Path(folder)
        self._ledger = Ledger(self.folder)
        self.recipe: dict[str, Any] = self._ledger.meta("recipe") or {}
        self.objectives: list[str] = list(self._ledger.meta("banks") or {})

    @cached_property
    def _scores(self) -> dict[tuple[str, str, str], dict[str, float]]:
        table: dict[tuple[str, str, str], dict[str, float]] = {}
        for plan, a in self._ledger.answers():
            table.setdefault((plan, a.bank, a.split), {})[a.item] = a.score
        return table

    @property
    def confirmed(self) -> dict[str, Any]:
        """What the confirmation found; raises Unconfirmed before it has."""
        found = self._ledger.last("confirmed")
        if found is None:
            raise errors.Unconfirmed(
                f"{self.folder}: not confirmed yet; run the search again to go on"
            )
        return dict(found)

    @property
    def is_confirmed(self) -> bool:
        return self._ledger.last("confirmed") is not None

    @cached_property
    def losses(self) -> Losses:
        """The frozen anchors, as a scale of losses."""
        anchors = self._ledger.last("anchors") or {}
        return Losses({name: Anchor(**value) for name, value in anchors.items()}, {})

    def _point(self, label: str, key: str, chosen: bool = False) -> Point:
        splits = ("search", "validation", "test")
        scores = {
            split: [self._column(key, objective, split) for objective in self.objectives]
            for split in splits
        }
        return Point(label, key, scores, chosen)

    def _column(self, key: str, objective: str, split: str) -> Scores:
        row = self._scores.get((key, objective, split), {})
        return np.array([row[item] for item in sorted(row)])

    @cached_property
    def front(self) -> Front:
        """The confirmed front: nondominated on `validation`, reported on `test`."""
        found = self.confirmed
        points = [
            self._point(label, found["shortlist"][label], label == found["chosen"])
            for label in dict.fromkeys([*found["front"], found["chosen"]])
        ]
        return Front(sorted(points, key=lambda p: -p.mean("validation")), self.objectives)

    @cached_property
    def baselines(self) -> Front:
        """Base, experts and textbook merges, scored on the same items."""
        found = self.confirmed["baselines"]
        return Front([self._point(*pair) for pair in found.items()], self.objectives)

    @property
    def chosen(self) -> Point:
        """The one point that is claimed: best mean on `validation`."""
        return next(point for point in self.front.points if point.chosen)

    @property
    def knee(self) -> Point:
        """The point of the front with the best trade-off on `validation`."""
        rows = np.array([self.losses.of_scores(p.means("validation")) for p in self.front])
        points: list[Point] = self.front.points
        return points[pareto.knee(rows)]

    def point(self, which: str) -> Point:
        """`best`, `knee`, a label such as `c17`, a baseline's label, or a plan's key."""
        if which == "best":
            return self.chosen
        if which == "knee":
            return self.knee
        known = {point.label: point for point in (*self.front, *self.baselines)}
        found = self.confirmed
        labels = {**self.asked(), **found["shortlist"]}
        if which in known:
            return known[which]
        if which in labels:
            return self._point(which, labels[which])
        raise errors.RecipeError(
            errors.unknown(str(self.folder), "point", which, ["best", "knee", *known])
        )

    def asked(self) -> dict[str, str]:
        """Plan key of every candidate, by label."""
        rows = (row for event in self._ledger.events("ask") for row in event.body["proposals"])
        return {f"c{row['id']}": row["plan"] for row in rows}

    def history(self) -> Iterator[tuple[int, list[float]]]:
        """(items answered so far, losses) of each told candidate that did not fail."""
        items = 0
        for event in self._ledger.events("tell"):
            for row in event.body:
                if row["losses"] is not None:
                    items += row["items"]
                    yield items, row["losses"]

    def failures(self) -> dict[str, str]:
        """Reason by plan key."""
        return self._ledger.failures()

    def comparisons(self) -> list[dict[str, Any]]:
        """The chosen point against each baseline: difference of mean test scores, paired
        bootstrap over items, 95 %."""
        mine = self.chosen.scores["test"]
        rows = []
        for other in self.baselines:
            difference, low, high = intervals.paired_bootstrap(mine, other.scores["test"], seed=0)
            rows.append(
                {"baseline": other.label, "difference": difference, "low": low, "high": high}
            )
        return rows

    def hypervolume(self, points: Sequence[Point], split: str = "test") -> float:
        """Of the points' losses on a split, to the reference point 1.1 in every objective."""
        from evomerge.plugins import REFERENCE_POINT

        rows = np.array([self.losses.of_scores(point.means(split)) for point in points])
        return pareto.hypervolume(rows, np.full(len(self.objectives), REFERENCE_POINT))

    def plan(self, which: str = "best") -> Plan:
        """The plan of a point."""
        from evomerge.plan import Plan

        return Plan.parse(self._ledger.plan(self.point(which).key), str(self.folder))

    def save(self, which: str, folder: str | Path) -> Path:
        """Write a point as a Hugging Face folder with a model card and its plan."""
        from evomerge.files import writer
        from evomerge.materialize import Workshop, save

        point, plan = self.point(which), self.plan(which)
        scores = [
            (name, point.means("test")[i], *point.interval(i))
            for i, name in enumerate(self.objectives)
            if len(point.scores["test"][i])
        ]
        command = f"evomerge export {self.folder} {which} -o {folder}"
        card = writer.card(
            f"{self.recipe['name']} {point.label}", base=self.recipe["base"],
            experts=list(self.recipe["experts"].values()), plan=plan.key,
            scores=scores, command=command,
        )  # fmt: skip
        details = {"card": card, "extra_json": {"plan.json": plan.model_dump(mode="json")}}
        return save(plan, Workshop.of(plan), Path(folder), **details)

    def plot(self) -> go.Figure:
        """The front with intervals, baselines and experts."""
        from evomerge.report import plots

        return plots.front(self)

    def report(self) -> Path:
        """Write report.html into the run folder."""
        from evomerge.report import page

        return page.write(self)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    def _repr_html_(self) -> str:
        n = len(self.asked())
        title = f"<p><b>{html.escape(str(self.folder))}</b>: {n} candidates</p>"
        return title + (self.front._repr_html_() if self.is_confirmed else "<p>not confirmed</p>")

    def to_json(self) -> str:
        """Front, baselines and comparisons as JSON."""
        return json.dumps(
            {
                "front": self.front.rows(),
                "baselines": self.baselines.rows(),
                "chosen_against": self.comparisons(),
                "knee": self.knee.label,
                "looks_at_test": self.confirmed["looks"],
            },
            indent=1,
        )
