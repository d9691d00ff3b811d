"""M2N2 against CMA-ES on zoo:digits: experts merged, and models that have learned nothing.

    python benchmarks/digits.py [FOLDER] [--seeds 5] [--only trained untrained]

`trained`: four experts, a mean of four banks. `untrained`: seven networks that have learned
nothing around an eighth, one bank of ten classes; noise on a coefficient is noise in the direction
of that network. All searches of a setting have the same budget of items, those of base and
experts included. Printed is the accuracy on `test` of the point that `validation` chose, per
strategy: mean over seeds with a 95 % interval (Student's t), and the difference to the first
strategy, seed by seed. Finished runs are kept in FOLDER.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

import evomerge
from evomerge.run import Run

EXPERTS = ("low", "high", "quarter", "half")
SETTINGS: dict[str, dict[str, Any]] = {
    "trained": {
        "base": "zoo:digits/base",
        "experts": {name: f"zoo:digits/{name}" for name in EXPERTS},
        "space": {"blocks": 3, "genes": {"weight": [-0.5, 1.5]}},
        "objectives": {name: f"digits_{name}" for name in EXPERTS},
        "fidelity": {"name": "first", "items": 60},
        "budget": {"items": 40_000},
    },
    "untrained": {
        "base": "zoo:digits/untrained0",
        "experts": {f"u{i}": f"zoo:digits/untrained{i}" for i in range(1, 8)},
        "allow_mismatch": True,
        "space": {"blocks": 3, "genes": {"weight": [-1.0, 1.5]}},
        "objectives": {"plain": "digits_plain"},
        "fidelity": {"name": "first", "items": 60},
        "budget": {"items": 30_000},
    },
}
STRATEGIES: dict[str, dict[str, dict[str, Any]]] = {
    "trained": {
        "cma_es": {"name": "cma_es", "weights": [[1, 1, 1, 1]]},
        "m2n2": {"name": "m2n2"},
        "m2n2, linear": {"name": "m2n2", "merge": "linear"},
        "sobol": {"name": "sobol"},
    },
    "untrained": {
        "cma_es": {"name": "cma_es"},
        "m2n2": {"name": "m2n2", "mutation": 0.1},
        "sobol": {"name": "sobol"},
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/digits"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--signal", default="score", choices=("score", "probability"))
    parser.add_argument("--only", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    options = parser.parse_args()
    for setting in options.only:
        rows = {
            name: [searched(setting, name, seed, options) for seed in range(options.seeds)]
            for name in STRATEGIES[setting]
        }
        print(f"\n{setting}:\n" + "\n".join(table(rows)), flush=True)


def searched(setting: str, name: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """One run: what its chosen point and the best baseline score on `test`, and what it cost."""
    folder = options.folder / setting / f"{name.replace(', ', '-')}-{options.signal}-{seed}"
    changes = {
        "name": "digits", "operator": "task_arithmetic", "batch": 60, "shortlist": 6,
        "strategy": STRATEGIES[setting][name], "seed": seed,
    }  # fmt: skip
    recipe = {**SETTINGS[setting], **changes}
    recipe["objectives"] = {
        key: {"bank": bank, "signal": options.signal}
        for key, bank in SETTINGS[setting]["objectives"].items()
    }
    if not (folder / "recipe.json").exists() or not Run(folder).is_confirmed:
        with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
            evomerge.search(recipe, folder)
    run = Run(folder)
    return {
        "test": run.chosen.mean("test"),
        "search": run.chosen.mean("search"),
        "baseline": max(point.mean("test") for point in run.baselines),
        "candidates": run.spent()["candidates"],
    }


def interval(values: list[float]) -> str:
    """Mean with a 95 % interval over seeds."""
    mean, error = np.mean(values), stats.sem(values)
    half = float(stats.t.ppf(0.975, len(values) - 1) * error)
    return f"{mean:.3f} ({mean - half:.3f} to {mean + half:.3f})"


def table(rows: dict[str, list[dict[str, float]]]) -> Iterator[str]:
    first = next(iter(rows.values()))
    yield (
        "| strategy | test of the chosen point | difference to cma_es | seeds won | its search "
        "score less test | candidates |"
    )
    yield "|" + "---|" * 6
    for name, runs in rows.items():
        apart = [run["test"] - other["test"] for run, other in zip(runs, first, strict=True)]
        told = "" if runs is first else interval(apart)
        won = "" if runs is first else f"{sum(a > 0 for a in apart)} of {len(apart)}"
        optimism = np.mean([run["search"] - run["test"] for run in runs])
        count = np.mean([run["candidates"] for run in runs])
        yield (
            f"| {name} | {interval([run['test'] for run in runs])} | {told} | {won} "
            f"| {optimism:+.3f} | {count:.0f} |"
        )
    best = np.mean([run["baseline"] for run in first])
    yield f"| best of base, experts, textbook | {best:.3f} | | | | |"


if __name__ == "__main__":
    main()
