"""The plots of a confirmed run, as plotly figures: front, optimism, progress, genome."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from evomerge.maths import pareto
from evomerge.plugins import REFERENCE_POINT
from evomerge.report import labels, marks, style
from evomerge.report.style import LOOKS

if TYPE_CHECKING:
    from evomerge.front import Point
    from evomerge.plan import Plan
    from evomerge.run import Run


def front(run: Run) -> go.Figure:
    """The confirmed front on test, with 95 % intervals, beside all baselines.

    One objective: a sorted row a point. Two: one against the other. More: any two of them, by a
    menu, below all of them side by side.
    """
    groups, m = marks.groups_of(run), len(run.objectives)
    if m == 1:
        return marks.rows(run, groups)
    pairs = list(itertools.combinations(range(m), 2))
    figure = make_subplots(rows=2, vertical_spacing=0.12) if m > 2 else go.Figure()
    figure.add_traces(marks.pair_traces(run, groups, *pairs[0]))
    style.dressed(figure, 560 if m == 2 else 1020)
    figure.update_layout(marks.pair_layout(run, groups, *pairs[0]))
    if m == 2:
        return figure
    marks.add_columns(figure, run, groups)
    # The overview stands above; the pair was drawn first because a menu counts traces from 0
    figure.update_layout(
        yaxis_domain=[0.0, 0.5], yaxis2_domain=[0.6, 1.0],
        updatemenus=[marks.menu(run, groups, pairs)],
    )  # fmt: skip
    return figure


def optimism(run: Run) -> go.Figure:
    """Mean search score against mean test score: on the diagonal, the search was right.

    Points far to the right of it looked too good. Base and experts, among which nothing was
    selected, show how far the two sets of items differ anyway.
    """
    rows = run.optimism()
    figure = go.Figure()
    x, y, both = _ranges(rows)
    figure.add_trace(
        go.Scatter(x=both, y=both, mode="lines", line={"color": style.GREY, "dash": "dot"},
                   name="search = test", hoverinfo="skip")
    )  # fmt: skip
    order = sorted(rows, key=lambda row: list(LOOKS).index(run.kind(row[0])), reverse=True)
    places = labels.place(
        [(a, b) for _, a, b in order],
        [p.label for p, *_ in order],
        (x, y),
        (marks.WIDTH - 90, 350),
    )
    sides = {row[0].label: side for row, side in zip(order, places, strict=True)}
    for kind in LOOKS:
        mine = [row for row in rows if run.kind(row[0]) == kind]
        points = [row[0] for row in mine]
        figure.add_trace(
            go.Scatter(
                x=[row[1] for row in mine], y=[row[2] for row in mine], mode="markers+text",
                text=marks.texts(points, sides), textposition=marks.positions(points, sides),
                textfont={"size": 12, "color": LOOKS[kind].colour}, marker=style.marker(kind),
                name=marks.name_of(run, kind), hovertext=[marks.hover(run, p) for p in points],
                hoverinfo="text", visible=bool(mine),
            )
        )  # fmt: skip
    style.dressed(figure, 470)
    asked, tested = (run.chosen.counted(split) for split in ("search", "test"))
    figure.update_xaxes(title_text=f"mean score in the search ({asked})", range=x)
    return figure.update_yaxes(title_text=f"mean score on test ({tested})", range=y)


def _ranges(rows: Sequence[tuple[Point, float, float]]) -> tuple[list[float], ...]:
    """Of search scores, of test scores, and what holds both: of either, where they lie so far
    apart that the diagonal would not be seen."""
    x = style.span([searched for _, searched, _ in rows], 0.12)
    y = style.span([tested for *_, tested in rows], 0.12)
    both = [min(x[0], y[0]), max(x[1], y[1])]
    return (both, both, both) if x[1] < y[0] or y[1] < x[0] else (x, y, both)


def progress(run: Run) -> go.Figure:
    """What the search saw: the mean score of every candidate each time it was told, the best of
    those that stand, and the volume of their front."""
    history = list(run.history())
    items = [answered for _, answered, _ in history]
    scores = _scores(run, run.unpenalised())
    figure = make_subplots(
        rows=1, cols=2, horizontal_spacing=0.1,
        subplot_titles=["mean search score", "hypervolume so far"],
    )  # fmt: skip
    dots = {"color": style.faded(style.BLUE, 0.5), "size": 6}
    line = {"color": style.VERMILION, "width": 2, "shape": "hv"}
    told = [(id, losses) for id, _, losses in history]
    best, volumes = _best(run, told), _volumes(told)
    for column, name, values, look in (
        (1, "candidate", scores, {"mode": "markers", "marker": dots}),
        (1, "best so far", best, {"mode": "lines", "line": line}),
        (2, "hypervolume", volumes, {"mode": "lines", "line": line, "showlegend": False}),
    ):
        figure.add_trace(go.Scatter(x=items, y=values, name=name, **look), 1, column)
    if volumes and not any(volumes):
        figure.add_annotation(
            text="still 0: no candidate counts yet", showarrow=False,
            x=0.5, y=0.5, xref="x2 domain", yref="y2 domain",
        )  # fmt: skip
    style.dressed(figure, 380, margin={"l": 70, "r": 20, "t": 80, "b": 60})
    figure.update_layout(legend={"y": 1.12}).update_annotations(font={"size": 14})
    figure.update_xaxes(title_text="items answered by candidates", rangemode="tozero")
    return figure.update_yaxes(rangemode="tozero", col=2).update_yaxes(title_text="score", col=1)


def _scores(run: Run, rows: Sequence[Sequence[float]]) -> list[float]:
    """The mean score that each row of losses is."""
    anchors = list(run.searched.anchors.values())
    found = [[a.score(x) for a, x in zip(anchors, row, strict=True)] for row in rows]
    return [float(np.average(row, weights=run.weights)) for row in found]


def _best(run: Run, told: Sequence[tuple[int, Sequence[float]]]) -> list[float]:
    """The best mean score after the first 1, 2, ... (id, losses); the latest of each id count."""
    latest: dict[int, float] = {}
    best: list[float] = []
    scores = _scores(run, [losses for _, losses in told])
    for (id, _), score in zip(told, scores, strict=True):
        again, latest[id] = id in latest, score
        best.append(max(latest.values()) if again or not best else max(best[-1], score))
    return best


def _volumes(told: Sequence[tuple[int, Sequence[float]]]) -> list[float]:
    """Hypervolume after the first 1, 2, ... (id, losses); the latest of each id count."""
    latest: dict[int, Sequence[float]] = {}
    volumes, archive = [], np.empty((0, len(told[0][1]) if told else 0))
    for id, losses in told:
        again = id in latest
        latest[id] = losses
        archive = np.array(list(latest.values())) if again else np.vstack([archive, losses])
        archive = archive[pareto.nondominated(archive)]  # the others are not carried along
        volumes.append(pareto.hypervolume(archive, REFERENCE_POINT))
    return volumes


def genome(run: Run, which: str = "best") -> go.Figure:
    """The gene values of a point: a heatmap a gene, groups of tensors x experts.

    A gene that all experts share has one column; one with the same value everywhere, or without
    numbers, is written above.
    """
    plan = run.plan(which)
    tables, lines = _genes(plan)
    widths = [len(columns) for columns, _ in tables.values()] or [1]
    figure = make_subplots(
        rows=1, cols=len(widths), column_widths=widths, shared_yaxes=True,
        horizontal_spacing=0.04, subplot_titles=[style.plain(name) for name in tables] or [""],
    )  # fmt: skip
    groups = [style.plain(group) for group in plan.groups]
    for column, (names, rows) in enumerate(tables.values(), 1):
        figure.add_trace(_heatmap([style.plain(n) for n in names], groups, rows), 1, column)
    figure.update_annotations(font={"size": 14})
    said = "; ".join(style.plain(line) for line in lines)
    title = {"text": said, "font": {"size": 13}, "x": 0.0, "xref": "paper", "y": 0.98}
    height = 110 + 32 * max(3, len(groups))
    style.dressed(figure, height, title=title, margin={"l": 110, "r": 20, "t": 70, "b": 40})
    bare = {"type": "category", "showgrid": False, "tickcolor": "white", "showline": False}
    figure.update_xaxes(**bare).update_yaxes(autorange="reversed", **bare)
    return figure.update_yaxes(title_text="group of tensors", col=1)


Table = tuple[list[str], list[list[float | None]]]


def _genes(plan: Plan) -> tuple[dict[str, Table], list[str]]:
    """(names of columns, values (groups, columns)) of each gene, and what is told in words."""
    steps = plan.groups.values()
    tables: dict[str, Table] = {}
    lines = [f"operator {name}" for name in dict.fromkeys(step.operator for step in steps)]
    for name in dict.fromkeys(name for step in steps for name in step.genes):
        values = [step.genes.get(name) for step in steps]
        if any(isinstance(value, Mapping) for value in values):
            experts = [expert.name for expert in plan.experts]
            rows = [[_number(v.get(e)) if isinstance(v, Mapping) else None for e in experts]
                    for v in values]  # fmt: skip
            tables[name] = experts, rows
        elif len(set(values)) == 1:
            lines.append(f"{name} {_short(values[0])}")
        elif any(isinstance(value, str) for value in values):
            pairs = zip(plan.groups, values, strict=True)
            lines.append(f"{name} " + ", ".join(f"{g}: {_short(v)}" for g, v in pairs))
        else:
            tables[name] = ["all experts"], [[_number(value)] for value in values]
    return tables, lines or [f"{plan.base.name}, as it is"]


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else str(value)


def _heatmap(
    columns: Sequence[str], groups: Sequence[str], rows: Sequence[Sequence[float | None]]
) -> go.Heatmap:
    """White is 0, so that what takes no part is not seen; orange is negative."""
    largest = max([1.0, *(abs(v) for row in rows for v in row if v is not None)])
    signed = any(v is not None and v < 0 for row in rows for v in row)
    return go.Heatmap(
        x=columns, y=groups, z=rows, zmin=-largest if signed else 0.0, zmax=largest,
        colorscale=style.scale(signed),
        texttemplate="%{z:.2f}", showscale=False, xgap=2, ygap=2,
        hovertemplate="%{y}, %{x}: %{z:.4f}<extra></extra>",
    )  # fmt: skip
