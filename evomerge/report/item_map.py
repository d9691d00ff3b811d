"""The page of a calibration: items by difficulty and discrimination, and where models stand."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from evomerge.files.writer import atomic_text
from evomerge.maths.irt import Array
from evomerge.maths.irt_checks import ESTIMATORS
from evomerge.report import style
from evomerge.report.style import LOOKS

if TYPE_CHECKING:
    from evomerge.calibration import BankFit, Calibration

FAR = 6.0
"""Difficulties further out stand at the edge of the map: nearly flat items lie anywhere."""

_PAGE = Template(
    style.HEAD
    + """<p>$summary</p>
<p class="small">Each item is a point: at the ability where it is answered right half of the time,
and as high as it tells models apart; those further out stand at the edge. Large and dark ones say
most about the candidates. Crosses are items to look at: wrong answers in the bank, or of no use to
this search. Below: what all items say of an ability together, with the range of the candidates in
grey; and where models stand, with 95 % intervals. Open markers stand on the scale by their answers
to validation.</p>
$banks
<h2>Does it predict?</h2>
<p class="small">Every fifth model held out in turn, and the mean of its other answers predicted
from the items shown: mean absolute error. In bold the better of item response theory (IRT) and the
best of the others, if two standard errors part them. The item means are those of the other models:
they know nothing of the model at hand, and cannot rank it.</p>
<div class="wide">$held_out</div>
<h2>Items to look at</h2>
$faults
<p class="small">Written by evomerge $version.</p>
</body>
</html>
"""
)


def write(found: Calibration, file: Path) -> Path:
    """Write the page as one file that needs no network."""
    from evomerge import __version__

    banks = "".join(
        f"<h2>{html.escape(bank.name)}</h2>{style.embedded(figure(bank), f'bank-{i}')}"
        for i, bank in enumerate(found.banks)
    )
    left_out = "".join(f" {name} is left out: {why}." for name, why in found.skipped.items())
    page = _PAGE.substitute(
        title=html.escape(f"Item map of {found.folder.name}"), style=style.CSS,
        plotly=get_plotlyjs(), summary=html.escape(_summary(found) + left_out), banks=banks,
        held_out=_held_out(found.banks), faults=_faults(found.banks), version=__version__,
    )  # fmt: skip
    atomic_text(file, page)
    return file


def _summary(found: Calibration) -> str:
    parts = (
        f"{b.name}: {len(b.ids)} items, {b.models} models, {b.fit.model}, {b.signal}"
        for b in found.banks
    )
    return "; ".join(parts) + "."


def figure(bank: BankFit) -> go.Figure:
    """Items above, their information in the middle, models below, all over one axis of ability."""
    rows = len({s.label for s in bank.standings}) + 1
    heights = [300, 110, 22 * rows + 20]
    shown = make_subplots(rows=3, shared_xaxes=True, vertical_spacing=0.03, row_heights=heights)
    ends = _reach(bank)
    for trace in _items(bank, ends):
        shown.add_trace(trace, row=1, col=1)
    grid = np.linspace(ends[0], ends[1], 201)
    total = bank.fit.items.information(grid).sum(axis=1) / bank.fit.dispersion
    curve = go.Scatter(
        x=grid, y=total, mode="lines", line={"color": style.BLUE, "width": 2}, showlegend=False,
        hovertemplate="ability %{x:.2f}: information %{y:.1f}<extra></extra>",
    )  # fmt: skip
    shown.add_trace(curve, row=2, col=1)
    for trace in _models(bank):
        shown.add_trace(trace, row=3, col=1)
    style.dressed(shown, sum(heights) + 130)
    low, high = bank.range
    shown.add_vrect(x0=low, x1=high, fillcolor=style.GREY, opacity=0.13, line_width=0, row="all")
    shown.update_yaxes(title_text="discrimination", rangemode="tozero", nticks=6, row=1, col=1)
    shown.update_yaxes(title_text="information", rangemode="tozero", nticks=4, row=2, col=1)
    shown.update_yaxes(autorange="reversed", automargin=True, row=3, col=1)
    shown.update_xaxes(range=ends)
    return shown.update_xaxes(title_text="ability, and difficulty of items", row=3, col=1)


def _reach(bank: BankFit) -> list[float]:
    """An axis with all models and most items on it."""
    known = bank.fit.items.difficulties[_mapped(bank)]
    items = np.quantile(known, [0.1, 0.9]) if len(known) else np.zeros(2)
    models = [s.ability for s in bank.standings]
    return style.span([*np.clip(items, -FAR, FAR).tolist(), *bank.candidates[0].tolist(), *models])


def _mapped(bank: BankFit) -> Any:
    """Items (I,) that have a place: constant ones have none but by the prior."""
    constant = [bank.faults.get(i, "").startswith(("all ", "answered")) for i in bank.ids]
    return ~np.array(constant)


def _items(bank: BankFit, ends: Sequence[float]) -> list[go.Scatter]:
    mapped, information = _mapped(bank), bank.information
    faulty = np.array([i in bank.faults for i in bank.ids])
    top = float(information[mapped].max()) if mapped.any() else 1.0
    share = information / top if top > 0 else information
    groups = [("items", mapped & ~faulty), ("items to look at", mapped & faulty)]
    return [_points(bank, chosen, name, share, ends) for name, chosen in groups if chosen.any()]


def _points(
    bank: BankFit, chosen: Any, name: str, share: Array, ends: Sequence[float]
) -> go.Scatter:
    items, faulty = bank.fit.items, name != "items"
    places = np.clip(items.difficulties[chosen], ends[0], ends[1])
    marker: dict[str, Any] = {
        "symbol": "x-thin" if faulty else "circle", "size": 5 + 9 * share[chosen],
        "line": {"width": 1.5, "color": style.VERMILION} if faulty else {"width": 0},
        "color": style.VERMILION if faulty else share[chosen],
    }  # fmt: skip
    if not faulty:
        marker |= {"colorscale": [[0, "#b9d7ea"], [1, "#00456e"]], "cmin": 0, "cmax": 1,
                   "opacity": 0.85}  # fmt: skip
    return go.Scatter(
        x=places, y=items.slopes[chosen], mode="markers", name=name, marker=marker,
        cliponaxis=False, hovertext=_hovers(bank, chosen), hoverinfo="text",
    )  # fmt: skip


def _hovers(bank: BankFit, chosen: Any) -> list[str]:
    items = bank.fit.items
    return [
        "<br>".join([
            style.plain(bank.ids[i]),
            f"difficulty {items.difficulties[i]:.2f}, discrimination {items.slopes[i]:.2f}",
            f"information {bank.information[i]:.3f}, infit {bank.infit[i]:.2f}, "
            f"{int(bank.counts[i])} answers",
            *([style.plain(bank.faults[bank.ids[i]])] if bank.ids[i] in bank.faults else []),
        ])
        for i in np.flatnonzero(chosen)
    ]  # fmt: skip


def _models(bank: BankFit) -> list[go.Scatter]:
    """A row a model, and one of all candidates."""
    crowd = go.Scatter(
        x=bank.candidates[0], y=["candidates"] * len(bank.candidates[0]), mode="markers",
        marker={"symbol": "line-ns-open", "size": 11, "color": style.BLUE, "opacity": 0.45},
        showlegend=False, hovertemplate="candidate: %{x:.2f}<extra></extra>",
    )  # fmt: skip
    traces = [crowd]
    for standing in bank.standings:
        look = style.marker(standing.kind) | {"size": 10}
        if standing.split != "search":
            look |= {"symbol": f"{LOOKS[standing.kind].symbol}-open"}
            look["line"] = {"color": LOOKS[standing.kind].colour, "width": 2}
        name = style.plain(standing.label)
        traces.append(go.Scatter(
            x=[standing.ability], y=[name], mode="markers", marker=look, showlegend=False,
            error_x={"type": "data", "array": [1.96 * standing.error], "width": 0,
                     "color": style.faded(LOOKS[standing.kind].colour, 0.6)},
            hovertemplate=f"{name}: %{{x:.2f}}, {standing.items} items of {standing.split}"
            "<extra></extra>",
        ))  # fmt: skip
    return traces


def _held_out(banks: Sequence[BankFit]) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("shown", *ESTIMATORS.values()))
    body = ""
    for bank in banks:
        errors, better = bank.held_out.errors, bank.held_out.better
        cells = "".join(
            f"<td>{'<b>' * (key == better)}{errors[key]:.4f}{'</b>' * (key == better)}</td>"
            for key in ESTIMATORS
        )
        body += f"<tr><td>{html.escape(bank.name)}</td><td>{bank.held_out.seen}</td>{cells}</tr>"
    return f"<table><thead><tr><th>bank</th>{head}</tr></thead><tbody>{body}</tbody></table>"


def _faults(banks: Sequence[BankFit]) -> str:
    """Ids by bank and by kind of fault."""
    rows = "".join(
        f"<dt>{html.escape(f'{bank.name}: {reason}')}</dt>"
        f"<dd class='small'>{html.escape(f'{len(ids)}: ' + ', '.join(ids))}</dd>"
        for bank in banks
        for reason, ids in bank.reasons().items()
    )
    return f"<dl>{rows}</dl>" if rows else "<p>None.</p>"
