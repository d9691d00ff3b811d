"""How the plots look: one colour and marker a kind of point, chosen to be told apart by everyone.

Source: the palette of Okabe and Ito (2008), Color Universal Design.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK, GREY, GRID = "#222222", "#767676", "#e6e6e6"
BLUE, ORANGE, GREEN, VERMILION, PURPLE = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#aa4499"


CSS = """
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif;
  color: #222; background: white; max-width: 1100px; margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .4rem; }
p { max-width: 50rem; margin: .4rem 0; } .small { color: #555; font-size: .88rem; }
.claim { font-size: 1.1rem; border-left: 4px solid #d55e00; padding: .2rem 0 .2rem 1rem;
  margin: 1.2rem 0; max-width: 56rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums;
  margin: .6rem 0; }
th, td { text-align: right; padding: .22rem .8rem; border-bottom: 1px solid #e6e6e6; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead th { border-bottom: 2px solid #767676; vertical-align: bottom; }
th.name { overflow-wrap: anywhere; min-width: 5.5rem; }
tr.kind th { text-align: left; font-size: .8rem; color: #555; padding-top: .9rem; }
tr.chosen td { background: #fdf0e8; font-weight: 600; }
td small { color: #555; font-weight: 400; white-space: nowrap; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem;
  font-size: .92rem; }
dt { color: #555; } dd { margin: 0; } dd, li, p, h1 { overflow-wrap: anywhere; }
pre { background: #f5f5f5; padding: .7rem 1rem; overflow-x: auto; font-size: .88rem; }
.wide { overflow-x: auto; } .plot { break-inside: avoid; }
@media print { body { max-width: none; margin: 0; font-size: 11pt; } h2 { break-after: avoid; }
  .modebar, .updatemenu-container { display: none; } }
"""


@dataclass(frozen=True)
class Look:
    """Legend entry, colour, marker and its size of one kind of point."""

    name: str
    colour: str
    symbol: str
    size: int


LOOKS: Mapping[str, Look] = {
    "textbook": Look("textbook merge", PURPLE, "triangle-up", 13),
    "base": Look("base", INK, "x", 11),
    "expert": Look("expert", INK, "diamond", 13),
    "front": Look("front", BLUE, "circle", 9),
    "knee": Look("knee of the front", GREEN, "square", 11),
    "chosen": Look("chosen", VERMILION, "star", 17),
}
"""In the order in which they are drawn: what matters comes last, on top."""


def plain(text: object) -> str:
    """Text as plotly shall show it: it reads some HTML in labels, and none may come from data."""
    return html.escape(str(text), quote=False)


def marker(kind: str) -> dict[str, Any]:
    look = LOOKS[kind]
    line = {"color": "white", "width": 1}
    return {"color": look.colour, "symbol": look.symbol, "size": look.size, "line": line}


def bars(means: Sequence[float], limits: Sequence[tuple[float, float]], kind: str) -> Any:
    """Error bars from each mean to its limits."""
    strong = kind in ("chosen", "knee")
    return {
        "type": "data", "symmetric": False, "width": 0, "thickness": 2 if strong else 1,
        "array": [high - mean for mean, (_, high) in zip(means, limits, strict=True)],
        "arrayminus": [mean - low for mean, (low, _) in zip(means, limits, strict=True)],
        "color": faded(LOOKS[kind].colour, 0.9 if strong else 0.35),
    }  # fmt: skip


def scale(signed: bool) -> list[list[Any]]:
    """Colours of a heatmap: white is the least or, with signs, 0, and orange is negative."""
    return [*([[0.0, "#e08214"]] if signed else []), [0.5 * signed, "#ffffff"], [1.0, "#3d8fc4"]]


def faded(colour: str, alpha: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def dressed(figure: go.Figure, height: int, **layout: Any) -> go.Figure:
    """The figure with the fonts, grid and margins that all have in common."""
    axis = {
        "gridcolor": GRID, "zeroline": False, "linecolor": GREY, "showline": True,
        "ticks": "outside", "tickcolor": GREY, "title_standoff": 10,
    }  # fmt: skip
    figure.update_xaxes(**axis).update_yaxes(**axis)
    figure.update_layout(
        template="none", height=height, paper_bgcolor="white", plot_bgcolor="white",
        font={"family": FONT, "size": 13, "color": INK}, hovermode="closest",
        hoverlabel={"bgcolor": "white", "font": {"family": FONT, "size": 13}},
        margin={"l": 70, "r": 20, "t": 50, "b": 60},
        legend={"orientation": "h", "x": 0, "y": 1.0, "xanchor": "left", "yanchor": "bottom"},
    )  # fmt: skip
    return figure.update_layout(**layout)


def span(values: Sequence[float], share: float = 0.06) -> list[float]:
    """A range that holds the values with some air."""
    finite = [value for value in values if value == value]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    air = share * (high - low) or 0.05
    return [low - air, high + air]


def embedded(figure: go.Figure, name: str) -> str:
    """The figure as HTML for a page that holds plotly's script."""
    # to_html writes its JSON with <, > and / escaped: labels can not end the script
    body = figure.to_html(
        full_html=False, include_plotlyjs=False, div_id=f"plot-{name}",
        config={"displayModeBar": False, "displaylogo": False, "responsive": True},
    )  # fmt: skip
    return f'<div class="plot">{body}</div>'


HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
<script>$plotly</script>
</head>
<body>
<h1>$title</h1>
"""
"""How each page begins, to be filled in as a template."""
