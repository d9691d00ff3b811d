"""A run as a notebook holds it: its front, its numbers, its plots, and any member as a model."""

from __future__ import annotations

import html
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evomerge import errors
from evomerge.files.items import SPLITS
from evomerge.front import Front, Point, Tested, afterwards, plain, stacked
from evomerge.maths import intervals, pareto
from evomerge.objectives import Losses, anchor
from evomerge.preferences import Preference
from evomerge.recorded import Recorded, looks
from evomerge.schema import Keep

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from evomerge.plan import Plan

__all__ = ["Front", "Point", "Run"]


class Run(Recorded):
    """A run, opened for reading: what its confirmation found, and any point as a model."""

    @cached_property
    def confirmed(self) -> dict[str, Any]:
        """What the confirmation found; raises Unconfirmed before it has, and where plans or
        questions have changed since."""
        found = self._confirmation()
        if found is None:
            raise errors.Unconfirmed(f"{self.folder}: {self.unconfirmed()}")
        return dict(found)

    @property
    def is_confirmed(self) -> bool:
        return self._confirmation() is not None

    @cached_property
    def losses(self) -> Losses:
        """The scale for scores: base and experts on `search`, where the search may have seen
        another signal, such as the probability of the right choice."""
        ends = [p for p in self.baselines.points if self.kind(p) in ("base", "expert")]
        scores = {n: [p.scores["search"][i] for p in ends] for i, n in enumerate(self.objectives)}
        frozen = self.searched.anchors
        return Losses(
            {
                name: frozen[name] if name in frozen and frozen[name].exact else anchor(base, rest)
                for name, (base, *rest) in scores.items()
            },
            {},
        )

    def _point(self, label: str, key: str, chosen: bool = False) -> Point:
        scores = {
            split: [self._column(key, objective, split) for objective in self.objectives]
            for split in SPLITS
        }
        return Point(label, key, scores, chosen, self.weights)

    @cached_property
    def weights(self) -> list[float] | None:
        """What objectives (M,) weigh in the mean by which one point is chosen."""
        return self.searched.weights(self.recipe.get("prefer", {})) or None

    def seen(self, point: Point) -> list[float]:
        """Means (M,) on `validation` of what the search saw of each objective."""
        given = self.recipe.get("objectives", {})
        signals = [given.get(name, {}).get("signal", "score") for name in self.objectives]
        pairs = zip(self.objectives, signals, strict=True)
        return [float(self._column(point.key, n, "validation", s).mean()) for n, s in pairs]

    @cached_property
    def _fronts(self) -> tuple[Front, Front]:
        found = self.confirmed
        labels = dict.fromkeys([found["chosen"], *found["front"]])
        once = {found["shortlist"][label]: label for label in reversed(labels)}
        points = [self._point(label, key, label == found["chosen"]) for key, label in once.items()]
        points.sort(key=lambda p: (-p.mean("validation"), not p.chosen))
        baselines = [self._point(*pair) for pair in found["baselines"].items()]
        tested = Tested([*points, *baselines])
        return Front(points, self.objectives, tested), Front(baselines, self.objectives, tested)

    @property
    def front(self) -> Front:
        """The confirmed front: nondominated on `validation`, reported on `test`.

        A plan that was found twice, as a candidate and as a mean, stands here once.
        """
        return self._fronts[0]

    @property
    def baselines(self) -> Front:
        """Base, experts and textbook merges, scored on the same items."""
        return self._fronts[1]

    @property
    def further(self) -> Front:
        """Front and baselines on what `evomerge evaluate RUN --front` has scored afterwards."""
        return afterwards([*self.front, *self.baselines], self._further())

    @property
    def chosen(self) -> Point:
        """The one point that is claimed: best mean on `validation` of what the search saw of
        skills, or as the recipe's `prefer` weighs."""
        return next(point for point in self.front.points if point.chosen)

    @property
    def knee(self) -> Point:
        """The point of the front with the best trade-off on `validation`."""
        rows = np.array([self.losses.of_scores(p.means("validation")) for p in self.front])
        points: list[Point] = self.front.points
        return points[pareto.knee(rows)]

    def prefer(
        self,
        weights: Mapping[str, float] | None = None,
        *,
        at_least: Mapping[str, float] | None = None,
        near: Mapping[str, float] | None = None,
    ) -> Point:
        """The point of the front that suits preferences best, by `validation`; see Preference."""
        given = ({} if asked is None else asked for asked in (weights, at_least, near))
        return Preference(*given).pick(self)

    @property
    def looks(self) -> int:
        """How often `test` was looked at."""
        return looks(self._ledger)

    def point(self, which: str | Point) -> Point:
        """`best`, `knee`, a label such as `c17`, a baseline's label, or a point in between; before
        there is a front, candidates alone. A point is looked up by its label."""
        which = which.label if isinstance(which, Point) else which
        if which in ("best", "knee"):
            return self.chosen if which == "best" else self.knee
        asked = self.asked() | self.between()
        if not self.is_confirmed and which in asked:
            return self._point(which, asked[which])
        known = {point.label: point for point in [*self.front.points, *self.baselines.points]}
        found = self.confirmed
        labels = {**asked, **found["shortlist"]}
        if which in known:
            return known[which]
        if which in labels:
            return self._point(which, labels[which])
        raise errors.RecipeError(
            errors.unknown(str(self.folder), "point", which, ["best", "knee", *known])
        )

    def kind(self, point: Point) -> str:
        """What a point is to a reader: chosen, knee, front, base, expert or textbook."""
        if point.label == "base" or point.label.startswith("expert "):
            return point.label.split(" ")[0]
        if point.label in self.confirmed["baselines"]:
            return "textbook"
        if point.chosen:
            return "chosen"
        return "knee" if point.label == self.knee.label else "front"

    def optimism(self) -> list[tuple[Point, float, float]]:
        """(point, mean score in the search, mean score on test) of the front, base and experts.

        Base and experts on the items that the chosen point answered in the search: nothing was
        selected among them, so that they show how much harder `test` is.
        """
        items = [set(self._row(self.chosen.key, name, "search")) for name in self.objectives]
        rows = []
        for point in [*self.front.points, *self.baselines.points]:
            columns = [
                [answer.score for item, answer in self._row(point.key, name, "search").items()
                 if item in asked or point in self.front.points]
                for name, asked in zip(self.objectives, items, strict=True)
            ]  # fmt: skip
            if all(columns):
                means = [np.mean(column) for column in columns]
                mean = float(np.average(means, weights=self.weights))
                rows.append((point, mean, point.mean("test")))
        return [row for row in rows if np.isfinite(row[2])]

    def kept(self) -> list[dict[str, Any]]:
        """What the chosen point had to keep: wanted, the margin on `validation` with its lower
        bound, and its score on `test`. Empty without such a wish."""
        rows = []
        for name, margin in self.confirmed.get("kept", {}).get(self.chosen.label, {}).items():
            wanted = Keep(**self.recipe["keep"][name]).wanted()
            test = self._column(self.chosen.key, name, "test")
            mean = float(test.mean()) if len(test) else math.nan
            rows.append({"keep": name, "wanted": wanted, **margin, "test": mean})
        return rows

    def comparisons(self) -> list[dict[str, Any]]:
        """The chosen point against each baseline: difference of mean test scores, its 95 %
        interval and p-value from a paired bootstrap over items, and `p_holm`, adjusted for the
        number of baselines. A baseline that could not be scored is left out; where the chosen
        point could not be, there are none."""
        return [dict(row) for row in self._compared]

    @cached_property
    def _compared(self) -> list[dict[str, Any]]:
        return self.front.tested.against(self.chosen.label, self.baselines.points, self.kind)

    def hypervolume(self, points: Sequence[Point]) -> tuple[float, float, float]:
        """Of the points' `test` losses, to the reference point 1.1 in every objective, with its
        95 % interval over items; 0 where none of them was tested."""
        from evomerge.plugins import REFERENCE_POINT

        anchors = self.losses.anchors.values()
        everybody = Tested([*points, *self.front, *self.baselines]).points
        tested = [point for point in points if point.label in everybody]
        if not tested:
            return 0.0, float("nan"), float("nan")
        scores = stacked(tested)
        zero, unit = [a.zero for a in anchors], [a.unit for a in anchors]
        return intervals.bootstrap_hypervolume(scores, zero, unit, REFERENCE_POINT, seed=0)

    def plan(self, which: str | Point = "best") -> Plan:
        """The plan of a point, its inputs where the last search found them."""
        from evomerge.plan import Plan, relocated

        data = self._ledger.plan(self.point(which).key)
        return Plan.parse(relocated(data, self._ledger.meta("paths") or {}), str(self.folder))

    def save(
        self, which: str | Point, folder: str | Path, *, adapter: int | None = None, **details: Any
    ) -> Path:
        """Write a point as a Hugging Face folder with a model card and its plan.

        With `adapter`, as a LoRA adapter of that rank; `fit.json` says what it leaves out.
        `details` (shard_size, told) are those of saving.write.
        """
        from evomerge import saving

        which = which.label if isinstance(which, Point) else which
        point = self.point(which)
        scores = [
            (name, point.means("test")[i], *point.interval(i))
            for i, name in enumerate(self.objectives)
            if len(point.scores["test"][i])
        ]
        command = ["evomerge", "export", str(self.folder), which, "-o", str(folder)]
        command += [] if adapter is None else ["--adapter", str(adapter)]
        return saving.write(
            self.plan(which), folder, title=f"{self.recipe['name']} {point.label}",
            base=self.recipe["base"], experts=list(self.recipe["experts"].values()),
            command=shlex.join(command), scores=scores,
            notes=self.contamination, adapter=adapter, **details,
        )  # fmt: skip

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
        if self.is_confirmed:
            return title + self.front._repr_html_()
        return title + f"<p>{html.escape(self.unconfirmed())}</p>"

    def to_json(self) -> str:
        """Front, baselines and comparisons as JSON."""
        return json.dumps(
            {
                "front": self.front.rows(),
                "baselines": self.baselines.rows(),
                "chosen_against": [plain(row) for row in self.comparisons()],
                "kept": [plain(row) for row in self.kept()],
                "further": self.further.rows(),
                "knee": self.knee.label,
                "looks_at_test": self.looks,
                "contamination": self.contamination,
            },
            indent=1,
        )
