"""Points of a front and its baselines as markers: two objectives, all of them, or one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from evomerge.maths.estimates import standard_error
from evomerge.report import labels, style
from evomerge.report.style import LOOKS

if TYPE_CHECKING:
    from evomerge.run import Point, Run

Groups = Mapping[str, Sequence["Point"]]

PAIR_HEIGHT = 430
"""Pixels that a plot of two objectives is high."""

WIDTH = 900
"""Pixels that the narrowest window is taken to have for a plot when labels are placed."""


def groups_of(run: Run) -> dict[str, list[Point]]:
    """All points by kind, in the order in which they are drawn."""
    points = [*run.front, *run.baselines]
    kinds = {kind: [p for p in points if run.kind(p) == kind] for kind in LOOKS}
    return {
        kind: [p for p in found if np.isfinite(p.mean("test"))]
        for kind, found in kinds.items()
        if found
    }


def name_of(run: Run, kind: str) -> str:
    both = kind == "chosen" and run.knee.chosen
    return "chosen, knee of the front" if both else LOOKS[kind].name


def hover(run: Run, point: Point) -> str:
    rows = [f"{name}: {point.text(i)}" for i, name in enumerate(run.objectives)]
    lines = [point.label, *rows, f"mean: {point.mean('test'):.3f}"]
    return "<br>".join(style.plain(line) for line in lines)


def _values(points: Sequence[Point], objective: int) -> list[float]:
    return [point.means("test")[objective] for point in points]


def _bars(points: Sequence[Point], objective: int, kind: str) -> Any:
    limits = [point.interval(objective) for point in points]
    return style.bars(_values(points, objective), limits, kind)


# Two objectives


def pair_traces(run: Run, groups: Groups, i: int, j: int) -> list[go.Scatter]:
    sides = _sides(groups, i, j)
    traces = []
    for kind, points in groups.items():
        traces.append(
            go.Scatter(
                x=_values(points, i), y=_values(points, j), mode="markers+text",
                error_x=_bars(points, i, kind), error_y=_bars(points, j, kind),
                text=texts(points, sides), textposition=positions(points, sides),
                textfont={"size": 12, "color": LOOKS[kind].colour},
                marker=style.marker(kind), name=name_of(run, kind), legendgroup=kind,
                hovertext=[hover(run, p) for p in points], hoverinfo="text", cliponaxis=False,
            )
        )  # fmt: skip
    return traces


def _ranges(groups: Groups, i: int, j: int) -> tuple[list[float], list[float]]:
    """Both axes show every mean and, of what is emphasised, the whole interval."""
    spans = []
    for objective in (i, j):
        values = [v for points in groups.values() for v in _values(points, objective)]
        strong = [p for kind in ("chosen", "knee") for p in groups.get(kind, ())]
        values += [limit for point in strong for limit in point.interval(objective)]
        spans.append(style.span(values, 0.1))
    return spans[0], spans[1]


def _sides(groups: Groups, i: int, j: int) -> dict[str, str]:
    """Side of each label that has room; what matters most is placed first."""
    order = ("chosen", "knee", "base", "expert", "textbook", "front")
    points = [point for kind in order for point in groups.get(kind, ())]
    spots = [(p.means("test")[i], p.means("test")[j]) for p in points]
    names = [point.label for point in points]
    found = labels.place(spots, names, _ranges(groups, i, j), (WIDTH - 90, PAIR_HEIGHT))
    return dict(zip(names, found, strict=True))


def texts(points: Sequence[Point], sides: Mapping[str, str]) -> list[str]:
    return [style.plain(point.label) if sides[point.label] else "" for point in points]


def positions(points: Sequence[Point], sides: Mapping[str, str]) -> list[str]:
    return [sides[point.label] or "middle right" for point in points]


def pair_layout(run: Run, groups: Groups, i: int, j: int) -> dict[str, Any]:
    x, y = _ranges(groups, i, j)
    names = [labels.cut(run.objectives[objective], PAIR_HEIGHT / 2) for objective in (i, j)]
    titles = [f"{style.plain(name)}, test score" for name in names]
    return {
        "xaxis.range": x, "yaxis.range": y,
        "xaxis.title.text": titles[0], "yaxis.title.text": titles[1],
    }  # fmt: skip


def menu(run: Run, groups: Groups, pairs: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """A menu that redraws the upper plot for each pair of objectives."""
    buttons = []
    for i, j in pairs:
        traces = pair_traces(run, groups, i, j)
        keys = ("x", "y", "error_x", "error_y", "text", "textposition")
        data = {key: [trace.to_plotly_json()[key] for trace in traces] for key in keys}
        pair = (labels.cut(run.objectives[objective], WIDTH * 0.4) for objective in (i, j))
        name = style.plain(" and ".join(pair))
        arguments = [data, pair_layout(run, groups, i, j), list(range(len(traces)))]
        buttons.append({"label": name, "method": "update", "args": arguments})
    return {
        "buttons": buttons, "x": 1, "xanchor": "right", "y": 0.5, "yanchor": "bottom",
        "bgcolor": "white", "pad": {"b": 4}, "showactive": True,
    }  # fmt: skip


# All objectives side by side


def add_columns(figure: go.Figure, run: Run, groups: Groups) -> None:
    """A column an objective and one for their mean, each kind of point in a lane of its own."""
    m = len(run.objectives)
    lanes = {"textbook": -0.3, "base": -0.16, "expert": -0.16, "front": 0.02}
    lanes |= {"knee": 0.16, "chosen": 0.26}
    for kind, points in groups.items():
        for point in points:
            means, limits = point.means("test"), [point.interval(i) for i in range(m)]
            means, limits = [*means, point.mean("test")], [*limits, _mean_interval(point)]
            strong = kind in ("chosen", "knee")
            figure.add_trace(
                go.Scatter(
                    x=[c + lanes[kind] for c in range(m + 1)], y=means, mode="markers",
                    error_y=style.bars(means, limits, kind) if strong else None,
                    marker=style.marker(kind), name=name_of(run, kind), legendgroup=kind,
                    showlegend=False, hovertext=hover(run, point), hoverinfo="text",
                ),
                row=2, col=1,
            )  # fmt: skip
    _name_best(figure, run, lanes)
    room = WIDTH / (m + 1)
    names = [*(style.plain(labels.cut(name, room)) for name in run.objectives), "<b>mean</b>"]
    figure.update_xaxes(
        tickvals=list(range(m + 1)), ticktext=names, range=[-0.5, m + 0.5], showgrid=False,
        tickangle=0, row=2, col=1,
    )  # fmt: skip
    for column in range(m):
        figure.add_vline(column + 0.5, line={"color": style.GRID, "width": 1}, row=2, col=1)
    figure.update_yaxes(title_text="test score", row=2, col=1)


def _name_best(figure: go.Figure, run: Run, lanes: Mapping[str, float]) -> None:
    """Above its marker, the label of the best baseline of each column, and within that column:
    not on the axis, nor in the next one."""
    columns = len(run.objectives) + 1
    for column in range(columns):
        scored = [
            (value, point)
            for point in run.baselines
            if np.isfinite(value := [*point.means("test"), point.mean("test")][column])
        ]
        if not scored:  # none of them was tested
            continue
        value, best = max(scored, key=lambda pair: pair[0])
        label = labels.cut(best.label, WIDTH / columns)
        most = max(0.0, 0.5 - len(label) * labels.LETTER * columns / WIDTH / 2)
        lane = min(most, max(-most, lanes[run.kind(best)]))
        figure.add_annotation(
            x=column + lane, y=value, text=style.plain(label),
            showarrow=False, yshift=14, font={"size": 12}, row=2, col=1,
        )  # fmt: skip


def _mean_interval(point: Point, split: str = "test") -> tuple[float, float]:
    """95 % by the normal law: the mean of several banks is no share that Wilson's would fit.
    None where a part of it is one number, whose error nobody knows."""
    columns = point.scores[split]
    pairs = zip(point.weights or [1.0] * len(columns), columns, strict=True)
    asked = [(weight, column) for weight, column in pairs if weight and len(column)]
    if any(len(column) == 1 for _, column in asked):
        return math.nan, math.nan
    error = math.sqrt(sum((weight * standard_error(c)) ** 2 for weight, c in asked))
    error /= sum(weight for weight, _ in asked) or 1.0
    mean = point.mean(split)
    return mean - 1.96 * error, mean + 1.96 * error


# One objective


def rows(run: Run, groups: Groups) -> go.Figure:
    figure = go.Figure()
    for kind, points in groups.items():
        figure.add_trace(
            go.Scatter(
                x=_values(points, 0), y=[style.plain(p.label) for p in points],
                error_x=_bars(points, 0, kind), marker=style.marker(kind), mode="markers",
                name=name_of(run, kind), hovertext=[hover(run, p) for p in points],
                hoverinfo="text",
            )
        )  # fmt: skip
    points = sorted((p for g in groups.values() for p in g), key=lambda p: p.mean("test"))
    style.dressed(figure, 140 + 26 * len(points), margin={"l": 180, "r": 20, "t": 50, "b": 60})
    names = [style.plain(p.label) for p in points]
    figure.update_yaxes(
        type="category", categoryorder="array", gridcolor=style.GRID, categoryarray=names,
        tickvals=names, ticktext=[style.plain(labels.cut(p.label, 170)) for p in points],
    )  # fmt: skip
    name = labels.cut(run.objectives[0], WIDTH / 2)
    title = f"{style.plain(name)}, test score with 95 % interval"
    return figure.update_xaxes(title_text=title)
