"""What a search costs its driver: a thousand simulated workers, up to 100,000 candidates.

    python benchmarks/scale.py [FOLDER] [--candidates 10000] [--workers 1000] [--items 25]

No model is loaded: workers of unequal speed make up answers, faster than the driver could take
them in, so that the driver is what is measured. Two objectives.
"""

from __future__ import annotations

import argparse
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import evomerge
from benchmarks.simulated import spent
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
        "strategy": {"name": "benchmarks.simulated"},
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
        self.rows: list[tuple[int, float, float, float]] = []
        self.note()

    def note(self) -> None:
        away = spent.idle + spent.made_up + spent.strategy
        self.rows.append((self.told, time.perf_counter() - away, spent.strategy, resident()))

    def __call__(self, event: str, facts: Any) -> None:
        if event == "told":
            self.told += len(facts["told"])
            if len(self.rows) <= QUARTERS and self.told >= self.marks[len(self.rows) - 1]:
                self.note()


def resident() -> float:
    """MiB of memory that this process holds."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def timed(*command: str) -> float:
    """Median of three: seconds of a command line, from start to end."""
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        whole = [sys.executable, "-m", "evomerge.cli", *command]
        subprocess.run(whole, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - begun)
    return sorted(seconds)[1]


def sizes(path: Path, candidates: int) -> dict[str, float]:
    """Bytes a candidate by table, on the ledger's pages; its indexes count to the table."""
    with sqlite3.connect(path) as db:
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
    print("told        driver ms each  strategy ms each  resident MiB")
    for before, now in zip(watch.rows, watch.rows[1:], strict=False):
        n = now[0] - before[0]
        driver, strategy = ((now[i] - before[i]) / n * 1e3 for i in (1, 2))
        print(f"{now[0]:<12,}{driver:10.2f}{strategy:18.2f}{now[3]:17.0f}")
    print(f"results taken together: {spent.results / max(1, spent.waits):.1f}")
    found = sizes(folder / NAME, options.candidates)
    answers = found.pop("answers")
    rest = ", ".join(f"{name} {size:.0f}" for name, size in found.items() if size > 1)
    each = answers / options.items / len(OBJECTIVES)
    print(f"ledger: {sum(found.values()):.0f} bytes a candidate ({rest}), and its answers: "
          f"{answers:.0f} bytes, {each:.0f} each")  # fmt: skip
    empty = timed("--version")
    for command in ("front", "status"):
        seconds = timed(command, str(folder))
        print(f"evomerge {command}: {seconds:.2f} s, of which {empty:.2f} s to start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="a new folder, which is kept")
    parser.add_argument("--candidates", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=2.0, help="median of a worker's jobs")
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
