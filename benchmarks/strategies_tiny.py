"""Strategies on zoo:tiny, all in a race, with the same number of answers: test hypervolume.

    python benchmarks/strategies_tiny.py [FOLDER] [--seeds 5] [--answers 9000] [--only ROW...]

Four skills, task arithmetic in five groups (`sae` has `prune`, whose densities are genes too).
After a quarter, a half and all of the answers, some of those candidates that the search then
held for the best (of the front among those with most items the SHORT that cover most, taken one
by one) answer the first TESTED `test` questions of each bank. Answers of base and experts to all
of `search`, which are the scale, are not counted. Shown are the hypervolume of these candidates
on that scale, and the best mean of the skills: means over seeds with 95 % intervals (Student's
t), and the difference to `sobol`, paired by seed, with p-values of the paired t-test, adjusted
by Holm. A search never sees what it is shown by here. Finished runs are kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from digits import interval
from operators import borrow
from scipy import stats

import evomerge
from evomerge.answers import Answers
from evomerge.desk import Desk
from evomerge.files.ledger import Ledger
from evomerge.maths import intervals, pareto
from evomerge.pace import Pace
from evomerge.plan import Plan
from evomerge.plugins import REFERENCE_POINT
from evomerge.recipe import resolve
from evomerge.run import Run

SKILLS = ("code", "docs", "unicode", "facts")
POPULATION = 16
"""Of the population strategies: with their defaults, so few candidates would be all parents."""
INNER: dict[str, dict[str, Any]] = {
    "sobol": {"name": "sobol"},
    "cma_es": {"name": "cma_es"},
    "nsga2": {"name": "nsga2", "population": POPULATION},
    "smsemoa": {"name": "smsemoa", "population": POPULATION},
    "m2n2": {"name": "m2n2"},
    "sae": {"name": "sae"},
}
OPERATORS = {"sae": "prune"}
RUNGS, SHORT, TESTED = [10, 30], 6, 150
SHARES = (0.25, 0.5, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/strategies-tiny"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--answers", type=int, default=9_000)
    parser.add_argument("--only", nargs="+", choices=INNER, default=list(INNER))
    options = parser.parse_args()
    rows: dict[str, list[Any]] = {name: [] for name in options.only}
    for seed in range(options.seeds):
        for name in rows:
            rows[name].append(curve(searched(name, seed, options), options))
            print(f"{name}, seed {seed}: {rows[name][-1]}", flush=True)
    print("", *table({name: np.array(found) for name, found in rows.items()}), sep="\n")


def searched(name: str, seed: int, options: argparse.Namespace) -> Run:
    recipe = {
        "name": name, "base": "zoo:tiny/base",
        "experts": {skill: f"zoo:tiny/{skill}" for skill in SKILLS},
        "operator": OPERATORS.get(name, "task_arithmetic"),
        "space": {"blocks": 4, "genes": {"weight": [0, 0.6]}},
        "objectives": {s: {"bank": f"tiny_{s}", "signal": "probability"} for s in SKILLS},
        "strategy": {"name": "racing", "inner": INNER[name], "rungs": RUNGS},
        "fidelity": {"name": "first", "items": RUNGS[-1]}, "batch": 10,
        "shortlist": 1, "seed": seed, "executor": "inline",
    }  # fmt: skip
    place, problem = f"{name}-{seed}", resolve(recipe)
    borrow(problem, options.folder, place)
    anchors = sum(len(b.split("search")) for b in problem.banks.values()) * (1 + len(SKILLS))
    budget = {"items": anchors + options.answers}
    return evomerge.search(recipe, options.folder / place, budget=budget)


def curve(run: Run, options: argparse.Namespace) -> list[tuple[float, float]]:
    """(hypervolume, best mean) on `test` at each of SHARES of the answers."""
    picked = [known(run, share * options.answers) for share in SHARES]
    plans = {label: run.plan(label) for labels in picked for label in labels}
    scores = tested(run, plans, options.folder / "test")
    found = []
    for labels in picked:
        losses = [run.losses.of_scores(scores[label]) for label in labels]
        volume = pareto.hypervolume(np.array(losses), REFERENCE_POINT)
        found.append((volume, max(float(np.mean(scores[label])) for label in labels)))
    return found


def known(run: Run, answers: float) -> list[str]:
    """Labels of SHORT candidates at most, by what the search knew after so many answers."""
    latest = {id: (items, losses) for id, items, losses in told(run, answers)}
    most = max(items for items, _ in latest.values())
    left = {f"c{id}": losses for id, (items, losses) in latest.items() if items == most}
    kept: dict[str, list[float]] = {}
    while left and len(kept) < SHORT:
        volumes = {
            label: pareto.hypervolume([*kept.values(), losses], REFERENCE_POINT)
            for label, losses in left.items()
        }
        best = max(volumes, key=lambda label: volumes[label])
        if kept and volumes[best] <= pareto.hypervolume([*kept.values()], REFERENCE_POINT):
            break
        kept[best] = left.pop(best)
    return list(kept)


def told(run: Run, answers: float) -> Iterator[tuple[int, int, list[float]]]:
    """(id, its items, losses) of what was told within so many answers."""
    mine: dict[int, int] = {}
    before = 0
    for id, items, losses in run.history():
        if items > answers:
            return
        mine[id], before = mine.get(id, 0) + items - before, items
        yield id, mine[id], losses


def tested(run: Run, plans: Mapping[str, Plan], folder: Path) -> dict[str, list[float]]:
    """Mean `test` scores (M,) by label; answers of all runs lie in one folder."""
    problem = resolve(run.recipe)
    ledger = Ledger(folder, write=True)
    answers = Answers(ledger, problem.setup)
    desk = Desk(answers, ("inline", {}), Pace(problem.setup))
    places = answers.places("test", TESTED)
    desk.answer(plans.values(), places, lambda result: None)
    found = {
        label: [float(answers.column(plan.key, s, places).mean()) for s in problem.objectives]
        for label, plan in plans.items()
    }
    desk.close()
    ledger.close()
    return found


def table(rows: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Rows (seeds, shares, 2) by strategy."""
    shares = " | ".join(f"hypervolume at {share:.0%}" for share in SHARES)
    yield f"| strategy | {shares} | less sobol, p | best mean | less sobol, p |"
    yield "|---" * (len(SHARES) + 4) + "|"
    others = [name for name in rows if name != "sobol"]
    apart = [rows[name][:, -1] - rows["sobol"][:, -1] for name in others]
    cells = [compared([a[:, kind] for a in apart]) for kind in (0, 1)]
    for name, found in rows.items():
        volumes = [interval(list(found[:, i, 0])) for i in range(len(SHARES))]
        place = others.index(name) if name in others else None
        both = ["" if place is None else cells[kind][place] for kind in (0, 1)]
        mean = interval(list(found[:, -1, 1]))
        yield f"| `{name}` | {' | '.join(volumes)} | {both[0]} | {mean} | {both[1]} |"


def compared(apart: Sequence[np.ndarray]) -> list[str]:
    chances = [float(stats.ttest_1samp(a, 0).pvalue) if a.any() else 1.0 for a in apart]
    adjusted = intervals.holm(chances)
    return [f"{interval(list(a))}, {p:.3f}" for a, p in zip(apart, adjusted, strict=True)]


if __name__ == "__main__":
    main()
