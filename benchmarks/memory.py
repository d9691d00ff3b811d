"""What a merge to disk holds in anonymous memory at its peak, over experts and depth.

    python benchmarks/materialize.py --memory [--plot runs/memory.html]

Each measurement is a process of its own: RssAnon of /proc/self/status, read every 2 ms while the
model is written, less what was there before. Checkpoints are Llamas of up to 1.2 billion
parameters (hidden 2048, intermediate 8192, vocabulary 49152); all layers have the same numbers.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from random_family import Plans, Shape, build

from evomerge.files.writer import atomic_text
from evomerge.live import save
from evomerge.materialize import Workshop

OPERATORS = ("linear", "ties", "dare", "della", "breadcrumbs", "sce")
LIMIT = 1.5 * 2**30
CASES = {4: (1, 3), 18: (3,)}
"""Layers, and numbers of experts; 18 layers have 1.2 billion parameters."""


def shape(depth: int) -> Shape:
    return Shape(2048, depth, 32, 8, 8192, alike=True)


def child(operator: str, target: str, folders: list[str]) -> None:
    """Print RssAnon before, and at its peak while the plan is built and written, in bytes."""
    torch.set_num_threads(1)
    plan = Plans([Path(folder) for folder in folders]).plan(operator)
    with sampled() as found:
        save(plan, Workshop.of(plan), Path(target))
    print(json.dumps([found[0], max(found)]))


@contextmanager
def sampled() -> Iterator[list[int]]:
    """Anonymous memory of this process, in bytes: before, and every 2 ms until it ends."""
    found, ended = [anonymous()], threading.Event()

    def sample() -> None:
        while not ended.wait(0.002):
            found.append(anonymous())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def anonymous() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def measured(scratch: Path) -> Iterator[dict[str, Any]]:
    for depth, numbers in CASES.items():
        family = scratch / f"depth-{depth}"
        folders = build(family, shape(depth), max(numbers))
        for operator in OPERATORS:
            for experts in numbers:
                target = scratch / "merged"
                some = [str(folder) for folder in folders[: experts + 1]]
                done = subprocess.run(
                    [sys.executable, __file__, operator, str(target), *some],
                    check=True, capture_output=True, text=True,
                )  # fmt: skip
                shutil.rmtree(target)
                before, peak = json.loads(done.stdout)
                row = {
                    "operator": operator, "experts": experts, "depth": depth,
                    "before": before, "peak": peak,
                }  # fmt: skip
                print(line(row), flush=True)
                yield row
        shutil.rmtree(family)


def line(row: dict[str, Any]) -> str:
    grown = row["peak"] - row["before"]
    return (
        f"| `{row['operator']}` | {row['experts']} | {row['depth']} "
        f"| {row['peak'] / 2**20:,.0f} MiB "
        f"| {grown / 2**20:,.0f} MiB | {'yes' if row['peak'] < LIMIT else 'NO'} |"
    )


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """Peaks, a group of bars an operator: as a page, or where Chromium is there as a picture."""
    import front_picture
    import plotly.graph_objects as go

    figure = go.Figure()
    for depth, experts in [(depth, k) for depth, numbers in CASES.items() for k in numbers]:
        some = [row for row in rows if (row["depth"], row["experts"]) == (depth, experts)]
        figure.add_bar(
            x=[row["operator"] for row in some], y=[row["peak"] / 2**30 for row in some],
            name=f"{depth} layers, {experts} experts",
        )  # fmt: skip
    figure.add_hline(y=LIMIT / 2**30, annotation_text="1.5 GiB")
    title = "peak anonymous memory, GiB"
    figure.update_layout(template="plotly_white", height=480, yaxis_title=title)
    if file.suffix == ".svg":
        atomic_text(file, front_picture.svg(figure))
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.write_html(file)


def main(file: Path) -> None:
    scratch = Path(
        tempfile.mkdtemp(prefix="evomerge-memory-", dir=os.environ.get("EVOMERGE_HOME"))
    )
    print("| operator | experts | layers | peak | more than before | below 1.5 GiB |")
    print("|---|---|---|---|---|---|")
    try:
        rows = list(measured(scratch))
    finally:
        shutil.rmtree(scratch)
    plot(rows, file)
    if any(row["peak"] >= LIMIT for row in rows):
        raise SystemExit("more than 1.5 GiB")


if __name__ == "__main__":
    child(sys.argv[1], sys.argv[2], sys.argv[3:])
