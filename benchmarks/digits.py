"""M2N2 against CMA-ES on zoo:digits; coefficients by block against global ones; MAP's tenth.

    python benchmarks/digits.py [FOLDER] [--seeds 5] [--only trained untrained blocks map]

`trained`: four experts, a mean of four banks. `untrained`: seven networks that have learned
nothing around an eighth, one bank of ten classes; noise on a coefficient is noise in the direction
of that network. `blocks`: the four experts with one coefficient for all layers, or one for each of
three blocks; embedding and head stand at the mean. `map`: one coefficient for all layers, the
front of a direct search, and of MAP and others after a tenth of its candidates. All other searches
of a setting have the same budget of items, those of base and experts included. Printed is, per
row, the accuracy on `test` of the point that `validation` chose (`map`: the hypervolume of the
front's accuracies on `test`, from 0): mean over seeds with a 95 % interval (Student's t), and the
difference to the first row, seed by seed. Finished runs are kept in FOLDER.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

import evomerge
from evomerge.maths import pareto
from evomerge.run import Point, Run

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
FEW = {"weight": [-0.5, 1.5], "weight@embedding": 0.25, "weight@head": 0.25}
SETTINGS["blocks"] = {**SETTINGS["trained"], "space": {"blocks": 1, "genes": FEW}}
SETTINGS["map"] = {**SETTINGS["blocks"], "budget": {"candidates": 40}}

CLIMB: dict[str, Any] = {"name": "cma_es", "weights": [[1, 1, 1, 1]]}
ROWS: dict[str, dict[str, dict[str, Any]]] = {
    "trained": {
        "cma_es": {"strategy": CLIMB},
        "m2n2": {"strategy": {"name": "m2n2"}},
        "m2n2, linear": {"strategy": {"name": "m2n2", "merge": "linear"}},
        "sobol": {"strategy": {"name": "sobol"}},
    },
    "untrained": {
        "cma_es": {"strategy": {"name": "cma_es"}},
        "m2n2": {"strategy": {"name": "m2n2", "mutation": 0.1}},
        "sobol": {"strategy": {"name": "sobol"}},
    },
    "blocks": {
        "cma_es, one block": {"strategy": CLIMB},
        "cma_es, three blocks": {"strategy": CLIMB, "space": {"blocks": 3, "genes": FEW}},
    },
    "map": {
        "smsemoa, 400": {"strategy": {"name": "smsemoa"}, "budget": {"candidates": 400}},
        "map, 40": {"strategy": {"name": "map"}},
        "smsemoa, 40": {"strategy": {"name": "smsemoa"}},
        "sobol, 40": {"strategy": {"name": "sobol"}},
    },
}
"""What each row of a setting's table changes in its recipe; the others compare to the first."""


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
            for name in ROWS[setting]
        }
        measured = "volume" if setting == "map" else "test"
        print(f"\n{setting}:\n" + "\n".join(table(rows, measured)), flush=True)


def searched(setting: str, name: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """One run: what its chosen point, front and best baseline score on `test`; its cost."""
    folder = options.folder / setting / f"{name.replace(', ', '-')}-{options.signal}-{seed}"
    changes = {
        "name": "digits", "operator": "task_arithmetic", "batch": 60, "shortlist": 6,
        "seed": seed, **ROWS[setting][name],
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
        "volume": covered(run.front),
        "search": run.chosen.mean("search"),
        "baseline": max(point.mean("test") for point in run.baselines),
        "baseline volume": covered(run.baselines),
        "candidates": run.spent()["candidates"],
    }


def covered(points: Sequence[Point]) -> float:
    """The share of all accuracies, from 0 to 1 in every bank, that one of the points reaches on
    `test`. Losses to 1.1 would not do: no merge here keeps below that in all four."""
    return pareto.hypervolume([1 - np.array(point.means("test")) for point in points], 1.0)


def interval(values: list[float]) -> str:
    """Mean with a 95 % interval over seeds."""
    mean, error = np.mean(values), stats.sem(values)
    half = float(stats.t.ppf(0.975, len(values) - 1) * error)
    return f"{mean:.3f} ({mean - half:.3f} to {mean + half:.3f})"


def table(rows: dict[str, list[dict[str, float]]], measured: str) -> Iterator[str]:
    title, first = next(iter(rows.items()))
    what = {"test": "test of the chosen point", "volume": "test hypervolume of the front"}
    yield (
        f"| strategy | {what[measured]} | difference to {title} | seeds won | chosen point: its "
        "search score less test | candidates |"
    )
    yield "|" + "---|" * 6
    for name, runs in rows.items():
        apart = [run[measured] - other[measured] for run, other in zip(runs, first, strict=True)]
        told = "" if runs is first else interval(apart)
        won = "" if runs is first else f"{sum(a > 0 for a in apart)} of {len(apart)}"
        optimism = np.mean([run["search"] - run["test"] for run in runs])
        count = np.mean([run["candidates"] for run in runs])
        yield (
            f"| {name} | {interval([run[measured] for run in runs])} | {told} | {won} "
            f"| {optimism:+.3f} | {count:.0f} |"
        )
    if measured == "volume":
        title, best = "all baselines", np.mean([run["baseline volume"] for run in first])
    else:
        title, best = (
            "best of base, experts, textbook",
            np.mean([run["baseline"] for run in first]),
        )
    yield f"| {title} | {best:.3f} | | | | |"


if __name__ == "__main__":
    main()
