"""What a search costs its driver: a thousand simulated workers, up to 100,000 candidates.

    python benchmarks/scale.py [FOLDER] [--candidates 10000] [--workers 1000] [--items 25]

No model is loaded: workers of unequal speed make up answers, faster than the driver could take
them in, so that the driver is what is measured. Two objectives.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import evomerge
from benchmarks.simulated import spent
from evomerge import status
from evomerge.files.ledger import NAME

QUARTERS = 4
OBJECTIVES = ("code", "docs")


def recipe(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "name": "scale",
        "base": "zoo:tiny/base",
        "experts": {name: f"zoo:tiny/{name}" for name in ("code", "docs", "unicode", "facts")},
        "operator": "task_arithmetic",
        "space": {"blocks": 4},
        "objectives": {name: {"bank": f"tiny_{name}"} for name in OBJECTIVES},
        "strategy": {"name": "benchmarks.simulated", "inner": json.loads(options.strategy)},
        "executor": {
            "name": "benchmarks.simulated", "workers": options.workers,
            "seconds": options.seconds,
        },
        "fidelity": {"name": "first", "items": options.items},
        "budget": {"candidates": options.candidates},
        "seed": 0,
    }  # fmt: skip


class Watch:
    """Notes time and memory at quarters of the candidates that have been told."""

    def __init__(self, candidates: int) -> None:
        self.told, self.marks = 0, [candidates * (i + 1) // QUARTERS for i in range(QUARTERS)]
        self.rows: list[tuple[float, ...]] = []

    def note(self) -> None:
        away = spent.idle + spent.made_up + spent.strategy
        driver = (time.perf_counter() - away, time.process_time() - spent.cpu)
        self.rows.append((self.told, *driver, spent.strategy, resident()))

    def __call__(self, event: str, facts: Any) -> None:
        if event == "stage" and facts["name"] == "search":
            self.note()
        if event == "told":
            self.told += len(facts["told"])
            if self.marks and self.told >= self.marks[0]:
                self.marks = [mark for mark in self.marks if mark > self.told]
                self.note()


def resident() -> float:
    """MiB of memory that this process holds."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def median(action: Callable[[], object]) -> float:
    """Of three, in seconds."""
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def command_line(command: str, folder: Path) -> float:
    """Seconds from its start to its end, Python's own start and imports included."""
    whole = [sys.executable, "-m", "evomerge", command, str(folder)]
    return median(lambda: subprocess.run(whole, check=True, stdout=subprocess.DEVNULL))


def front(folder: Path) -> object:
    """Points and scores; the bootstrap over test items takes as long after any search."""
    return evomerge.Run(folder).front.points


def sizes(path: Path, candidates: int) -> dict[str, float]:
    """Bytes a candidate by table, on the ledger's pages; its indexes count to the table."""
    with closing(sqlite3.connect(path)) as db:
        query = """SELECT s.tbl_name, sum(d.pgsize) FROM dbstat AS d JOIN sqlite_schema AS s
            ON d.name = s.name GROUP BY s.tbl_name"""
        return {name: size / candidates for name, size in db.execute(query)}


def simulate(options: argparse.Namespace, folder: Path) -> None:
    begun = time.perf_counter()
    watch = Watch(options.candidates)
    evomerge.search(recipe(options), folder, report=watch)
    whole = time.perf_counter() - begun
    print(f"{options.candidates:,} candidates, {options.workers:,} workers: {whole:.0f} s, "
          f"idle {spent.idle:.0f} s, answers made up in {spent.made_up:.0f} s")  # fmt: skip
    print("told        driver ms each  processor ms each  strategy ms each  resident MiB")
    for before, now in zip(watch.rows, watch.rows[1:], strict=False):
        n = now[0] - before[0]
        driver, cpu, strategy = ((now[i] - before[i]) / n * 1e3 for i in (1, 2, 3))
        print(f"{now[0]:<12,}{driver:14.2f}{cpu:19.2f}{strategy:18.2f}{now[4]:14.0f}")
    print(f"results taken together: {spent.results / max(1, spent.waits):.1f}")
    found = sizes(folder / NAME, options.candidates)
    answers = found.pop("answers")
    rest = ", ".join(f"{name} {size:.0f}" for name, size in found.items() if size > 1)
    each = answers / options.items / len(OBJECTIVES)
    print(f"ledger: {sum(found.values()):.0f} bytes a candidate ({rest}), and its answers: "
          f"{answers:.0f} bytes, {each:.0f} each")  # fmt: skip
    for command, query in (("front", front), ("status", status.read)):
        seconds, whole = median(lambda query=query: query(folder)), command_line(command, folder)
        print(f"evomerge {command}: {seconds:.2f} s to read, the command {whole:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="a new folder, which is kept")
    parser.add_argument("--candidates", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=2.0, help="median of a worker's jobs")
    parser.add_argument("--strategy", default='{"name": "nsga2", "steady": true}')
    parser.add_argument("--items", type=int, default=25, help="of each objective")
    options = parser.parse_args()
    if options.folder is not None:
        simulate(options, options.folder)
        return
    folder = Path(tempfile.mkdtemp())
    try:
        simulate(options, folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
