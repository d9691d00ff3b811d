"""A sparse merge against the dense winner of a search with as many questions, on zoo:tiny.

    python benchmarks/sae.py [FOLDER] [--candidates 60] [--items 75] [--seeds 1]
        [--sparse 0.4] [--most 0.6]

Two searches with the same questions and the same number of candidates: task arithmetic under the
strategy that a recipe without one gets, for the skills; and `prune` under `sae`, which prunes
`--most` at most, for the skills and sparsity. Of the sparse front, the point with the best mean of
the skills on `validation` of those with at least `--sparse` of their task vector zero. Then all on
the `test` questions: that point, the dense winner, and the dense winner pruned by magnitude to the
same sparsity in every tensor. Differences are paired, with the lower end of a one-sided 95 %
interval over questions drawn anew; MARGIN is what the sparse one may be worse by. Finished
searches are kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from operators import borrow

import evomerge
from evomerge import Run, api
from evomerge.files.bank import Bank
from evomerge.front import Point
from evomerge.maths import intervals
from evomerge.plan import Input, Plan, Template
from evomerge.recipe import resolve

SKILLS = ("code", "docs", "unicode", "facts")
MARGIN = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/sae"))
    parser.add_argument("--candidates", type=int, default=60)
    parser.add_argument("--items", type=int, default=75, help="questions a bank in the search")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--sparse", type=float, default=0.4, help="share of zeros, at least")
    parser.add_argument("--most", type=float, default=0.6, help="how much `sae` prunes at most")
    options = parser.parse_args()
    print(
        "| seed | sparsity | sparse | dense winner | winner, pruned | sparse - dense, at least "
        "| within the margin | sparse - pruned, at least |\n" + "|---" * 8 + "|"
    )
    for seed in range(options.seeds):
        print(row(options, seed), flush=True)


def row(options: argparse.Namespace, seed: int) -> str:
    runs = {kind: searched(kind, options, seed) for kind in ("dense", "sparse")}
    dense, n = runs["dense"].chosen, len(SKILLS)
    sparse = sparse_enough(runs["sparse"], n, options.sparse)
    sparsity = sparse.means("test")[n]
    banks = list(resolve(recipe("dense", options, seed)).banks.values())
    found = api.evaluate(pruned(runs["dense"].plan("best"), 1 - sparsity), banks)
    cut = [in_order(bank, found[bank.name].scores) for bank in banks]
    ours, winner = sparse.scores["test"][:n], dense.scores["test"][:n]
    means = [float(np.mean([bank.mean() for bank in scores])) for scores in (ours, winner, cut)]
    gap, gap_low = one_sided(ours, winner)
    gain, gain_low = one_sided(ours, cut)
    cells = [f"{seed}", f"{sparsity:.3f}", *(f"{mean:.3f}" for mean in means)]
    cells += [f"{gap:+.3f}, {gap_low:+.3f}", "yes" if gap_low > -MARGIN else "no"]
    return "| " + " | ".join([*cells, f"{gain:+.3f}, {gain_low:+.3f}"]) + " |"


def sparse_enough(run: Run, n: int, least: float) -> Point:
    """Of the front's points with `least` zeros, the best mean of the first `n` objectives."""
    return max(
        (p for p in run.front if p.means("validation")[n] >= least),
        key=lambda p: float(np.mean(p.means("validation")[:n])),
    )


def in_order(bank: Bank, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Scores of a bank's `test` questions in the order that runs have."""
    return scores[np.argsort([item.id for item in bank.split("test")])]


def searched(kind: str, options: argparse.Namespace, seed: int) -> Any:
    made = recipe(kind, options, seed)
    name = f"{kind}-{options.most:g}-{seed}" if kind == "sparse" else f"{kind}-{seed}"
    borrow(resolve(made), options.folder, name)
    return evomerge.search(made, options.folder / name)


def recipe(kind: str, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    objectives: dict[str, Any] = {
        skill: {"bank": f"tiny_{skill}", "signal": "probability"} for skill in SKILLS
    }
    made: dict[str, Any] = {
        "name": kind, "base": "zoo:tiny/base",
        "experts": {skill: f"zoo:tiny/{skill}" for skill in SKILLS},
        "operator": "task_arithmetic", "space": {"blocks": 2}, "objectives": objectives,
        "fidelity": {"name": "first", "items": options.items},
        "budget": {"candidates": options.candidates}, "shortlist": 6, "seed": seed,
        "executor": "inline",
    }  # fmt: skip
    if kind == "sparse":
        objectives["sparsity"] = {"measure": "sparsity"}
        made |= {"operator": "prune", "strategy": {"name": "sae", "most": options.most}}
    return made


def one_sided(a: Sequence[Any], b: Sequence[Any]) -> tuple[float, float]:
    """The difference of means over banks, and the lower end of its one-sided 95 % interval."""
    both = [np.stack([x, y]) for x, y in zip(a, b, strict=True)]
    means = intervals.resampled_means(both, 10000, 0).mean(axis=2)
    measured = float(np.mean([x.mean() - y.mean() for x, y in both]))
    return measured, float(np.quantile(means[:, 0] - means[:, 1], 0.05))


def pruned(winner: Plan, density: float) -> Plan:
    """The winner with the largest `density` of its task vector's entries alone, by tensor."""
    item = Input(name="winner", sha256="", plan=winner)
    frame = Template(
        base=winner.base, experts=(item,), layers=winner.layers, groups=tuple(winner.groups),
        operators=("prune",), dtype=winner.dtype, seed=winner.seed,
    )  # fmt: skip
    kept = {gene.key: density for gene in frame.genes() if gene.name == "density"}
    whole = {gene.key: 1.0 for gene in frame.genes() if gene.name == "weight"}
    return frame.plan(kept | whole)


if __name__ == "__main__":
    main()
