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
