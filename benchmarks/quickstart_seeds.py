"""The quickstart over five seeds: what the chosen point is worth on `test`, and the baselines.

    python benchmarks/quickstart_seeds.py [FOLDER] [--seeds 5] [--together 2] [--candidates 120]

Every seed is a whole run in FOLDER/seed-N, so that an interrupted benchmark goes on. The recipe
alone stops earlier, to be done in minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

SEARCH = """
import sys, evomerge
budget = {"candidates": int(sys.argv[3])}
evomerge.search("quickstart", sys.argv[1], seed=int(sys.argv[2]), executor="inline", budget=budget)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--candidates", type=int, default=120)
    parser.add_argument("--together", type=int, default=2, help="runs side by side")
    options = parser.parse_args()
    from evomerge import zoo

    zoo.path("zoo:tiny")
    waiting = list(range(options.seeds))
    running: list[subprocess.Popen[bytes]] = []
    while waiting or running:
        while waiting and len(running) < options.together:
            running.append(start(options, waiting.pop(0)))
        if running.pop(0).wait():
            sys.exit("a run failed")
    rows = [row(options.folder / f"seed-{seed}", seed) for seed in range(options.seeds)]
    (options.folder / "table.json").write_text(json.dumps(rows, indent=1))
    print(table(rows))


def start(options: argparse.Namespace, seed: int) -> subprocess.Popen[bytes]:
    folder, candidates = options.folder / f"seed-{seed}", str(options.candidates)
    command = [sys.executable, "-c", SEARCH, str(folder), str(seed), candidates]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment)


def row(folder: Path, seed: int) -> dict[str, object]:
    """What one run claims, and how that holds on `test`."""
    from evomerge import Run

    run = Run(folder)
    chosen = run.chosen
    against = run.comparisons()
    nearest = min(against, key=lambda c: float(c["difference"]))
    return {
        "seed": seed,
        "chosen": chosen.label,
        "search": chosen.mean("search"),
        "validation": chosen.mean("validation"),
        "test": chosen.mean("test"),
        "nearest": nearest,
        "beats_all": all(c["low"] > 0 for c in against),
        "front": run.hypervolume(run.front)[0],
        "baselines": run.hypervolume(run.baselines)[0],
    }


def table(rows: list[dict[str, object]]) -> str:
    head = (
        "| seed | search | validation | test | optimism | nearest baseline | difference (95 %) "
        "| beats all | hypervolume: front, baselines |"
    )
    lines = [head, "|" + "---|" * 9]
    for r in rows:
        near = r["nearest"]
        lines.append(
            f"| {r['seed']} | {r['search']:.3f} | {r['validation']:.3f} | {r['test']:.3f} "
            f"| {r['search'] - r['test']:+.3f} | {near['baseline']} "
            f"| {near['difference']:+.3f} ({near['low']:+.3f} to {near['high']:+.3f}) "
            f"| {'yes' if r['beats_all'] else 'no'} | {r['front']:.3f}, {r['baselines']:.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
