"""Whole searches by fidelity, against those that ask every candidate 200 questions a bank.

    python benchmarks/fitness_search.py [FOLDER] [--full FOLDER] [--seeds 10] [--candidates 200]
        [--recipe quickstart] [--changes '{"strategy": "auto"}'] [--together 2]
        [--variants stratified-30 informative-30 ...] [--rows FILE]

A recipe, with other changes too, under each fidelity; without `--changes`, `quickstart` is as it
was when docs/results.md was measured. Every run is a whole one in
FOLDER/VARIANT/seed-N, so that an interrupted benchmark goes on; `--full` names a folder of
finished full runs, seed-N. Runs that are not there are made. What came of each run is kept in
`--rows`; a run that stands there is not made again, wherever its folder has gone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from scipy import stats

FULL = "full"
P_IRT = {"name": "informative", "estimator": "p_irt"}
STRATA = {"name": "informative", "estimator": "stratified"}
LEAN = {"items": 20, "every": 50, "calibration": 4, "rotate": 0.2}
TURNING = {
    **STRATA, "every": 12, "calibration": 4, "recalibration": 1, "rotate": 1.0, "elites": 0,
}  # fmt: skip
FIDELITIES: dict[str, dict[str, object]] = {
    FULL: {"name": "first", "items": 200},
    "first-30": {"name": "first", "items": 30},
    "random-30": {"name": "random", "items": 30},
    "random-30-p_irt": {"name": "random", "items": 30, "estimator": "p_irt"},
    "stratified-30": {"name": "stratified", "items": 30},
    "informative-13-lean": {**P_IRT, **LEAN, "items": 13},
    "informative-13-turning": {**TURNING, "items": 13},
    "random-13-turning": {**TURNING, "name": "random", "items": 13},
    "informative-20": {**P_IRT, "items": 20},
    "informative-20-lean": {**P_IRT, **LEAN},
    "informative-20-lean-strata": {**STRATA, **LEAN},
    "informative-30": {**P_IRT, "items": 30},
    "informative-30-strata": {**STRATA, "items": 30},
    "informative-30-equated": {"name": "informative", "estimator": "equated", "items": 30},
    "informative-30-turning": {**P_IRT, "items": 30, "rotate": 1.0},
    "informative-30-mixed": {**P_IRT, "items": 30, "random": 0.7},
    "informative-30-still": {**P_IRT, "items": 30, "rotate": 0.0},
    "informative-30-once": {**P_IRT, "items": 30, "recalibration": 0},
}
FORMER: dict[str, object] = {
    "space": {"blocks": 4, "genes": {"weight": [0, 0.6]}},
    "strategy": {"name": "seeded", "inner": {"name": "cma_es", "weights": [[1, 1, 1, 1]]}},
}
"""The quickstart's space and strategy before it had kinds of tensor and `gp`."""
SEARCH = """
import json, sys, evomerge
evomerge.search(sys.argv[1], sys.argv[2], seed=int(sys.argv[3]), executor="inline",
                budget={"candidates": int(sys.argv[4])}, **json.loads(sys.argv[5]))
"""
Rows = dict[str, dict[str, float]]
SPENT = ("search", "calibration", "anchors", "confirmation")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/fidelity"))
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--changes", type=json.loads, help="of the recipe, JSON")
    parser.add_argument("--full", type=Path, help="finished full runs, seed-N")
    parser.add_argument("--rows", type=Path, help="of finished runs; FOLDER/rows.json")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--together", type=int, default=2, help="runs side by side")
    parser.add_argument("--variants", nargs="*", choices=list(FIDELITIES), metavar="VARIANT",
                        default=list(FIDELITIES))  # fmt: skip
    options = parser.parse_args()
    if options.changes is None:
        options.changes = FORMER if options.recipe == "quickstart" else {}
    from evomerge.recipe import resolve

    resolve(options.recipe)  # builds the family, where it is not there yet
    variants = [FULL, *(name for name in options.variants if name != FULL)]
    places = {name: options.folder / name for name in variants}
    places[FULL] = options.full or places[FULL]
    kept = options.rows or options.folder / "rows.json"
    rows, seeds = make(options, places, kept), range(options.seeds)
    print(table({name: [rows[f"{name}/{seed}"] for seed in seeds] for name in places}))


def make(options: argparse.Namespace, places: dict[str, Path], kept: Path) -> Rows:
    """Have all runs made that are missing, seed by seed; what each has shown, by VARIANT/SEED."""
    rows: Rows = json.loads(kept.read_text()) if kept.exists() else {}
    waiting = [
        (name, seed) for seed in range(options.seeds) for name in places
        if rows.get(f"{name}/{seed}", {}).get("candidates") != options.candidates
    ]  # fmt: skip
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    lock = threading.Lock()

    def search(wanted: tuple[str, int]) -> None:
        name, seed = wanted
        place = places[name] / f"seed-{seed}"
        changes = json.dumps({**options.changes, "fidelity": FIDELITIES[name]})
        arguments = [options.recipe, str(place), str(seed), str(options.candidates), changes]
        if name != FULL or options.full is None:  # those that are named are finished
            subprocess.run([sys.executable, "-c", SEARCH, *arguments], env=environment, check=True)
        with lock:
            rows[f"{name}/{seed}"] = row(place)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(dict(sorted(rows.items())), indent=1) + "\n")

    with ThreadPoolExecutor(options.together) as pool:
        list(pool.map(search, waiting))
    return rows


def row(folder: Path) -> dict[str, float]:
    """What a run has asked, by purpose, and what its front and its chosen point are worth."""
    from evomerge import Run

    run = Run(folder)
    volume, low, high = run.hypervolume(run.front)
    best = max(point.mean("test") for point in run.baselines)
    return {
        **spent(folder), "candidates": len(run.asked()), "hypervolume": volume, "low": low,
        "high": high, "chosen": run.chosen.mean("test"), "best_baseline": best,
    }  # fmt: skip


def spent(folder: Path) -> dict[str, int]:
    """Answers: of base and experts on `search`; of candidates asked every question; of the other
    candidates; and whatever validation and test took, baselines included."""
    from evomerge import Run
    from evomerge.files.ledger import Ledger

    run, counts = Run(folder), dict.fromkeys(SPENT, 0)
    answered: dict[str, int] = {}
    for plan, answer in Ledger(folder).answers():
        if answer.split == "search":
            answered[plan] = answered.get(plan, 0) + 1
        else:
            counts["confirmation"] += 1
    everything, candidates = max(answered.values()), set(run.asked().values())
    for plan, number in answered.items():
        if plan in candidates:
            counts["calibration" if number == everything else "search"] += number
        else:
            counts["anchors" if number == everything else "confirmation"] += number
    return counts


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    head = (
        f"| fidelity | {' | '.join(SPENT)} | share of full, without confirmation | with it "
        "| hypervolume of the front, test (95 %, where a run has one) | less that of full (95 %) "
        "| chosen, test mean | less that of full (95 %) |"
    )
    lines = [head, "|" + "---|" * (len(SPENT) + 7)]
    whole = {key: column(rows[FULL], key) for key in rows[FULL][0]}
    asked = sum(whole[key] for key in SPENT)
    for name, found in rows.items():
        mine = {key: column(found, key) for key in found[0]}
        total = sum(mine[key] for key in SPENT)
        before = (total - mine["confirmation"]).mean() / (asked - whole["confirmation"]).mean()
        cells = [
            name, *(f"{mine[key].mean():,.0f}" for key in SPENT),
            f"{before:.3f}", f"{total.mean() / asked.mean():.3f}",
            f"{mine['hypervolume'].mean():.3f} ({np.nanmean(mine['low']):.3f} to "
            f"{np.nanmean(mine['high']):.3f})",
            difference(mine["hypervolume"] - whole["hypervolume"]),
            f"{mine['chosen'].mean():.4f}", difference(mine["chosen"] - whole["chosen"]),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def column(found: Sequence[dict[str, float]], key: str) -> np.ndarray:
    return np.array([row[key] for row in found])


def difference(pairs: np.ndarray) -> str:
    """Mean over seeds and its 95 % interval, by Student's t."""
    if len(pairs) < 2 or not pairs.any():
        return f"{pairs.mean():+.4f}"
    half = stats.t.ppf(0.975, len(pairs) - 1) * stats.sem(pairs)
    return f"{pairs.mean():+.4f} ({pairs.mean() - half:+.4f} to {pairs.mean() + half:+.4f})"


if __name__ == "__main__":
    main()
