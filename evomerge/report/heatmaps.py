"""The page of a comparison: signals of task vectors by depth and role, as heatmaps."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, NamedTuple

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from evomerge.console import score
from evomerge.files.writer import atomic_text
from evomerge.report import style

if TYPE_CHECKING:
    from evomerge.signals import Group, Similarity


class Signal(NamedTuple):
    """How a signal is shown: title, what a value says, and the ends of its colours."""

    title: str
    says: str
    low: float | None = 0.0
    high: float | None = None


PAIRS = {
    "cosine": Signal(
        "cosine of task vectors",
        "0: they do not touch each other; 1: one direction, average them; below 0: they undo "
        "each other, elect signs.", -1.0, 1.0,
    ),
    "sign_conflict": Signal(
        "sign conflicts", "share of entries that both change and in opposite directions; 0.5 by "
        "chance.", 0.0, 1.0,
    ),
    "weighted_conflict": Signal(
        "cancelled magnitude", "share of the pair's magnitude that cancels in its sum; 0: none.",
        0.0, 1.0,
    ),
    "trim_overlap": Signal(
        "overlap of the largest entries", "Jaccard index of the entries that trimming keeps.",
        0.0, 1.0,
    ),
    "trimmed_conflict": Signal(
        "sign conflicts among the largest", "share of other signs among the entries that trimming "
        "keeps in both: what an election of signs decides; 0.5 by chance.", 0.0, 1.0,
    ),
    "subspace_overlap": Signal(
        "overlap of subspaces", "of the leading singular vectors; 1: the smaller subspace lies "
        "in the larger.", 0.0, 1.0,
    ),
    "distance": Signal("distance", "between the experts, relative to the norm of the base."),
}  # fmt: skip
EXPERTS = {
    "norm": Signal("norm of the task vector", "relative to the norm of the base."),
    "effective_rank": Signal(
        "effective rank", "of the task matrices, a mean: low ones bear truncation, full ones do "
        "not.", None,
    ),
    "rank_95": Signal(
        "rank of 95 % of the norm", "singular values that hold it, a mean over matrices.", None
    ),
    "alignment": Signal(
        "alignment with the sum", "share of the task vector inside the leading subspace of all "
        "experts' sum.", 0.0, 1.0,
    ),
}  # fmt: skip

_PAGE = Template(
    style.HEAD
    + """<p class="small">$summary</p>
<h2>Pairs of experts</h2>
<p class="small">By depth (across) and by role. Chance levels, where a signal has one, stand in the
labels that appear over a cell.</p>
$pairs
<h2>Experts</h2>
$experts
<h2>All tensors together</h2>
<div class="wide">$table</div>
<p class="small">Written by evomerge $version.</p>
</body>
</html>
"""
)


def write(found: Similarity, file: Path) -> Path:
    """Write the page as one file that needs no network."""
    from evomerge import __version__

    summary = (
        f"Base {found.base}. {found.whole.entries:,} entries; trimming keeps the largest "
        f"{found.density:.3f} of each tensor. Spectral signals are those of {found.measured} of "
        f"{found.matrices} matrices (smaller side at most {found.largest_matrix})."
    )
    pairs = {" + ".join(pair): pair for pair in found.whole.pairs}
    names = {name: name for name in found.names}
    page = _PAGE.substitute(
        title=html.escape("Task vectors of " + ", ".join(found.names)), style=style.CSS,
        plotly=get_plotlyjs(), summary=html.escape(summary), table=_table(found),
        pairs=style.embedded(_figure(found, pairs, PAIRS), "pairs") if pairs else "<p>One.</p>",
        experts=style.embedded(_figure(found, names, EXPERTS), "experts"), version=__version__,
    )  # fmt: skip
    atomic_text(file, page)
    return file


def _figure(found: Similarity, owners: dict[str, Any], signals: dict[str, Signal]) -> go.Figure:
    """One heatmap a signal, of which a menu shows one: owners and roles by depth."""
    depths = list(dict.fromkeys(group.name.partition("/")[0] for group in found.groups))
    roles = list(dict.fromkeys(group.name.partition("/")[2] for group in found.groups))
    cells = {group.name: group for group in found.groups}
    rows = [(shown, owner, role) for shown, owner in owners.items() for role in roles]
    figure = go.Figure()
    for i, (key, signal) in enumerate(signals.items()):
        grid = [
            [_at(cells, depth, role, owner, key) for depth in depths] for *_, owner, role in rows
        ]
        notes = [
            [_note(cells, depth, role, owner, key) for depth in depths] for *_, owner, role in rows
        ]
        names = [style.plain(f"{shown}: {role or 'ends'}") for shown, _, role in rows]
        figure.add_trace(_heatmap(depths, names, grid, notes, signal, visible=not i))
    buttons = [
        {"label": s.title, "method": "update",
         "args": [{"visible": [n == i for n in range(len(signals))]}, {"title.text": s.says}]}
        for i, s in enumerate(signals.values())
    ]  # fmt: skip
    style.dressed(figure, 190 + 22 * len(rows))
    first = next(iter(signals.values()))
    menu = {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom",
            "pad": {"b": 8}}  # fmt: skip
    return figure.update_layout(
        updatemenus=[menu], title={"text": first.says, "font": {"size": 13}, "x": 0, "y": 0.99},
        xaxis={"type": "category", "title": "depth", "showgrid": False},
        yaxis={"autorange": "reversed", "automargin": True, "showgrid": False},
        margin={"t": 100},
    )  # fmt: skip


def _numbers(group: Group | None, owner: Any) -> dict[str, float]:
    if group is None:
        return {}
    both: dict[Any, dict[str, float]] = {**group.experts, **group.pairs}
    return both[owner]


def _at(cells: dict[str, Group], depth: str, role: str, owner: Any, key: str) -> float | None:
    value = _numbers(cells.get(f"{depth}/{role}" if role else depth), owner).get(key, math.nan)
    return value if math.isfinite(value) else None


def _note(cells: dict[str, Group], depth: str, role: str, owner: Any, key: str) -> str:
    chance = _at(cells, depth, role, owner, f"{key}_chance")
    return "" if chance is None else f" (by chance {chance:.4f})"


def _heatmap(
    depths: Sequence[str],
    names: Sequence[str],
    grid: Sequence[Sequence[float | None]],
    notes: Sequence[Sequence[str]],
    signal: Signal,
    visible: bool,
) -> go.Heatmap:
    signed = signal.low is not None and signal.low < 0
    return go.Heatmap(
        x=depths, y=names, z=grid, text=notes, visible=visible, zmin=signal.low, zmax=signal.high,
        colorscale=style.scale(signed),
        xgap=1, ygap=1, colorbar={"thickness": 12, "outlinewidth": 0}, hoverongaps=False,
        hovertemplate="%{y}, depth %{x}: %{z:.4f}%{text}<extra></extra>",
    )  # fmt: skip


def _table(found: Similarity) -> str:
    keys = list(PAIRS)
    head = "".join(f"<th>{html.escape(PAIRS[key].title)}</th>" for key in keys)
    rows = ""
    for pair, numbers in found.whole.pairs.items():
        cells = "".join(f"<td>{_cell(numbers, key)}</td>" for key in keys)
        rows += f"<tr><td>{html.escape(' + '.join(pair))}</td>{cells}</tr>"
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _cell(numbers: dict[str, float], key: str) -> str:
    value, chance = numbers[key], numbers.get(f"{key}_chance", math.nan)
    return score(value) + (f" <small>chance {chance:.3f}</small>" if math.isfinite(chance) else "")
