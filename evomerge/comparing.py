"""The command `evomerge compare`, and its tables."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Column
from rich.text import Text

from evomerge.console import Table, err, faint, out, score
from evomerge.options import Json

if TYPE_CHECKING:
    from evomerge.signals import Similarity


_SHOWN = ("cosine", "sign_conflict", "weighted_conflict", "trim_overlap", "trimmed_conflict",
          "subspace_overlap")  # fmt: skip


def compare(
    base: Annotated[str, typer.Argument(help="model folder, or zoo:family/base")],
    experts: Annotated[list[str], typer.Argument(help="folders of its experts")],
    page: Annotated[Path | None, typer.Option("-o", "--out", help="heatmaps, as HTML")] = None,
    density: Annotated[float, typer.Option(help="share of entries that trimming keeps")] = 0.2,
    blocks: Annotated[str, typer.Option(help="depth groups: a number, or all layers")] = "all",
    largest_matrix: Annotated[
        int, typer.Option(help="smaller side of the largest matrix with spectral signals")
    ] = 1024,
    as_json: Json = False,
) -> None:
    """Say how alike experts are, by depth and role: cosines, conflicts, overlaps, ranks."""
    from evomerge import progress, similarity, tables

    with progress.stream(err, "comparing", f"{len(experts)} experts with {base}") as told:
        found = similarity.compare(
            base, experts, density=density, blocks=int(blocks) if blocks.isdecimal() else blocks,
            largest_matrix=largest_matrix, told=told,
        )  # fmt: skip
    tables.delivered(out, found, show, page=page, as_json=as_json)


def show(console: Console, found: Similarity) -> None:
    """Experts and pairs over all tensors, then the mean over pairs of each depth and role."""
    table = Table("expert", "norm", "effective rank", "rank of 95 %", "alignment with the sum",
                  title="task vectors", title_justify="left")  # fmt: skip
    for name, row in found.whole.experts.items():
        table.add_row(name, *(_cell(row, key) for key in _keys(row)))
    console.print(table)
    headers = [key.replace("_", " ") for key in _SHOWN]
    table = Table("experts", *headers, title="pairs, over all tensors", title_justify="left")
    for pair, row in found.whole.pairs.items():
        table.add_row(" + ".join(pair), *(_cell(row, key) for key in _SHOWN))
    console.print(table)
    keys = [key for key in _SHOWN if key != "trimmed_conflict"]
    headers = [key.replace("_", " ") for key in keys]
    table = Table(Column("group", no_wrap=True), "norm ratio", *headers,
                  title="mean over pairs, by depth and role", title_justify="left")  # fmt: skip
    for group in found.groups:
        cells = [score(group.mean(key)) for key in keys]
        table.add_row(group.name, score(group.norm_ratio), *cells)
    console.print(table)
    console.print(
        f"spectral signals: {found.measured} of {found.matrices} matrices, those whose smaller "
        f"side is at most {found.largest_matrix} (--largest-matrix); trimming keeps "
        f"{found.density:.3f} of each tensor; dim numbers are levels of chance",
        highlight=False,
    )


def _keys(row: dict[str, float]) -> list[str]:
    return [key for key in row if not key.endswith("_chance")]


def _cell(row: dict[str, float], key: str) -> Text:
    chance = row.get(f"{key}_chance", math.nan)
    return faint(score(row[key]), f"{chance:.3f}" if math.isfinite(chance) else "")
