"""Strategies on zoo:tiny, all in a race, with the same number of answers: test hypervolume.

    python benchmarks/strategies_tiny.py [FOLDER] [--seeds 5] [--answers 9000] [--only ROW...]
        [--rungs 10 30] [--tested 150] [--space former]

Four skills, task arithmetic in five groups of depth, or in the space of the recipe that `--space`
names (`sae` has `prune`, whose densities are genes too). After a quarter, a half and all of the
answers, some of those candidates that the search then held for the best (of the front among those
with most items the SHORT that cover most, taken one by one) answer the first `test` questions of
each bank. Answers of base and experts to all of `search`, which are the scale, are not counted.
Shown are the hypervolume of these candidates on that scale, their best mean of the skills, and
the mean of the one that the search held for the best in it: means over seeds with 95 % intervals
(Student's t), and the difference to `sobol`, paired by seed, with p-values of the paired t-test,
adjusted by Holm. A search never sees what it is shown by here. Finished runs are kept.
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
    "cma_es-mean": {"name": "cma_es", "weights": [[1, 1, 1, 1]]},
    "nsga2": {"name": "nsga2", "population": POPULATION},
    "smsemoa": {"name": "smsemoa", "population": POPULATION},
    "m2n2": {"name": "m2n2"},
    "sae": {"name": "sae"},
}
OPERATORS = {"sae": "prune"}
FORMER = {"blocks": 4, "genes": {"weight": [0, 0.6]}}
"""The quickstart's space before it had kinds of tensor."""
SHORT, SHARES = 6, (0.25, 0.5, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/strategies-tiny"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--answers", type=int, default=9_000)
    parser.add_argument("--rungs", nargs="+", type=int, default=[10, 30], help="of the race")
    parser.add_argument("--tested", type=int, default=150, help="test questions of each bank")
    parser.add_argument("--space", default="former", help="that of a recipe, such as quickstart")
    parser.add_argument("--only", nargs="+", choices=INNER,
                        default=[name for name in INNER if "-" not in name])  # fmt: skip
    options = parser.parse_args()
    rows: dict[str, list[Any]] = {name: [] for name in options.only}
    for seed in range(options.seeds):
        for name in rows:
            rows[name].append(curve(searched(name, seed, options), options))
            print(f"{name}, seed {seed}: {rows[name][-1]}", flush=True)
    print("", *table({name: np.array(found) for name, found in rows.items()}), sep="\n")


def space(name: str) -> dict[str, Any]:
    return FORMER if name == "former" else resolve(name).recipe.model_dump()["space"]


def searched(name: str, seed: int, options: argparse.Namespace) -> Run:
    recipe = {
        "name": name, "base": "zoo:tiny/base",
        "experts": {skill: f"zoo:tiny/{skill}" for skill in SKILLS},
        "operator": OPERATORS.get(name, "task_arithmetic"),
        "space": space(options.space),
        "objectives": {s: {"bank": f"tiny_{s}", "signal": "probability"} for s in SKILLS},
        "strategy": {"name": "racing", "inner": INNER[name], "rungs": options.rungs},
        "fidelity": {"name": "first", "items": options.rungs[-1]}, "batch": options.rungs[0],
        "shortlist": 1, "seed": seed, "executor": "inline",
    }  # fmt: skip
    place, problem = f"{name}-{seed}", resolve(recipe)
    borrow(problem, options.folder, place)
    anchors = sum(len(b.split("search")) for b in problem.banks.values()) * (1 + len(SKILLS))
    budget = {"items": anchors + options.answers}
    return evomerge.search(recipe, options.folder / place, budget=budget)


def curve(run: Run, options: argparse.Namespace) -> list[tuple[float, float, float]]:
    """(hypervolume, best mean, mean of the leader) on `test` at each of SHARES of the answers."""
    known = [latest(run, share * options.answers) for share in SHARES]
    leaders = [min(found, key=lambda label: sum(found[label])) for found in known]
    picked = [covering(found) for found in known]
    plans = {
        label: run.plan(label) for label in {*leaders, *(n for short in picked for n in short)}
    }
    scores = tested(run, plans, options.folder / "test" / run.folder.name, options.tested)
    found = []
    for labels, leader in zip(picked, leaders, strict=True):
        losses = [run.losses.of_scores(scores[label]) for label in labels]
        volume = pareto.hypervolume(np.array(losses), REFERENCE_POINT)
        means = {label: float(np.mean(row)) for label, row in scores.items()}
        found.append((volume, max(means[label] for label in labels), means[leader]))
    return found


def latest(run: Run, answers: float) -> dict[str, list[float]]:
    """Losses of those with most items, by label, as the search knew them after so many answers."""
    told_last = {id: (items, losses) for id, items, losses in told(run, answers)}
    most = max(items for items, _ in told_last.values())
    return {f"c{id}": losses for id, (items, losses) in told_last.items() if items == most}


def covering(losses: Mapping[str, list[float]]) -> list[str]:
    """Labels of SHORT candidates at most, that cover most when taken one by one."""
    left, kept = dict(losses), dict[str, list[float]]()
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


def tested(run: Run, plans: Mapping[str, Plan], folder: Path, n: int) -> dict[str, list[float]]:
    """Mean scores (M,) on n `test` questions, by label, which are kept in `folder`."""
    problem = resolve(run.recipe)
    ledger = Ledger(folder, write=True)
    answers = Answers(ledger, problem.setup)
    desk = Desk(answers, ("inline", {}), Pace(problem.setup))
    places = answers.places("test", n)
    desk.answer(plans.values(), places, lambda result: None)
    found = {
        label: [float(answers.column(plan.key, s, places).mean()) for s in problem.objectives]
        for label, plan in plans.items()
    }
    desk.close()
    ledger.close()
    return found


def table(rows: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Rows (seeds, shares, 3) by strategy."""
    shares = " | ".join(f"hypervolume at {share:.0%}" for share in SHARES)
    means = " | ".join(f"{what} | less sobol, p" for what in ("best mean", "mean of the leader"))
    yield f"| strategy | {shares} | less sobol, p | {means} |"
    yield "|---" * (len(SHARES) + 6) + "|"
    others = [name for name in rows if name != "sobol"]
    apart = [rows[name][:, -1] - rows["sobol"][:, -1] for name in others]
    cells = [compared([a[:, kind] for a in apart]) for kind in range(3)]
    for name, found in rows.items():
        volumes = [interval(list(found[:, i, 0])) for i in range(len(SHARES))]
        place = others.index(name) if name in others else None
        less = ["" if place is None else column[place] for column in cells]
        best, leader = (interval(list(found[:, -1, kind])) for kind in (1, 2))
        start = f"| `{name}` | {' | '.join(volumes)} | {less[0]}"
        yield f"{start} | {best} | {less[1]} | {leader} | {less[2]} |"


def compared(apart: Sequence[np.ndarray]) -> list[str]:
    chances = [float(stats.ttest_1samp(a, 0).pvalue) if a.any() else 1.0 for a in apart]
    adjusted = intervals.holm(chances)
    return [f"{interval(list(a))}, {p:.3f}" for a, p in zip(apart, adjusted, strict=True)]


if __name__ == "__main__":
    main()
