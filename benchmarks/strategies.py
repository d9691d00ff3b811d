"""Every strategy on landscapes that look like merges: hypervolume, mean skill, overhead.

    python benchmarks/strategies.py [FOLDER] [--seeds 10] [--candidates 200] [--only ROW...]
    python benchmarks/strategies.py --tenth [--seeds 10] [--candidates 400]
    python benchmarks/strategies.py --overhead

All strategies with their defaults, the same landscapes, questions and number of answers, asked for
eight at a time; where a table says so, other options. Strategies see the answers to 200 questions
a skill, or to as many as they want; a budget of N candidates is one of N times 200 answers. What
is reported is the true hypervolume, below the reference point 1.1, of those candidates that are
nondominated by the answers, as a share of the front's; and how far the candidate with the best
mean by the answers is, truly, above the lowest mean loss there is. Where numbers of answers
differ, those with most of them count.
Intervals (95 %) are of Student's t over seeds; p-values of Wilcoxon's signed-rank test over seeds
(each seed the mean over landscapes), against `sobol` on the same ones, adjusted by Holm.

Measured rows are kept in FOLDER, by strategy: the same command goes on. `--tenth`: MAP after a
tenth of the candidates that a direct search has, with one global weight for each of a few experts.
`--overhead` times ask
and tell at 256 genes after 5,000 candidates. `--smoke` is one seed, to see that everything runs.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from strategies_landscapes import FEW, ITEMS, SHAPES, Landscape

from evomerge import errors, plugins
from evomerge.genome import Gene, Space
from evomerge.maths import intervals, pareto
from evomerge.plugins import REFERENCE_POINT, Observation, Strategy

CHUNK = 8
SHARES = (8, 4, 2, 1)
"""Of the budget, at which a search is looked at: an eighth of it, a quarter, ..."""
FIRST = {name: (name, {}) for name in plugins.known("strategy")}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    **FIRST,
    "nsga2 steady": ("nsga2", {"steady": True}),
    "smsemoa steady": ("smsemoa", {"steady": True}),
    "seeded with nsga2": ("seeded", {"inner": {"name": "nsga2"}}),
    "seeded with smsemoa steady": ("seeded", {"inner": {"name": "smsemoa", "steady": True}}),
    "staged with smsemoa": ("staged", {"then": {"name": "smsemoa"}}),
}
BASELINE = "sobol"
GENES, TOLD, TIMED = 256, 5000, 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/strategies"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--overhead", action="store_true")
    parser.add_argument("--tenth", action="store_true")
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    if options.smoke:
        options.seeds, options.candidates = 2, 40
    if options.overhead:
        overhead([n for n in options.only if n in FIRST], 200 if options.smoke else TOLD)
        return
    if options.tenth:
        tenth(options.seeds, options.candidates)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    landscapes = {(s, seed): Landscape(s, seed) for s in SHAPES for seed in range(options.seeds)}
    rows = {}
    for label in dict.fromkeys([*options.only, BASELINE]):
        kept = options.folder / f"{label}-{options.seeds}-{options.candidates}.json"
        if not kept.exists():
            started = time.process_time()
            found = [
                [curve(*ROWS[label], landscapes[s, seed], seed, options.candidates)
                 for seed in range(options.seeds)]
                for s in SHAPES
            ]  # fmt: skip
            kept.write_text(json.dumps(found))
            print(f"{label}: {time.process_time() - started:.0f} s", flush=True)
        rows[label] = json.loads(kept.read_text())
    print("", by_landscape(rows), "", overall(rows, options.candidates), sep="\n")


def begun(name: str, options: Mapping[str, Any], space: Space, skills: int, seed: int) -> Strategy:
    objectives = [f"skill {m}" for m in range(skills)]
    plugins.check_strategy(name, options, space, objectives, "strategy", seed=seed)
    return plugins.begin(name, options, space, objectives, seed=seed, where="strategy")


def curve(
    name: str, options: Mapping[str, Any], landscape: Landscape, seed: int, budget: int
) -> dict[str, list[float]] | None:
    """At each of SHARES the share of the volume and the distance of the mean; None: refused."""
    try:
        strategy = begun(name, options, landscape.space, landscape.shape.skills, seed)
    except errors.RecipeError:
        return None
    needed = "answers" in plugins.strategy_needs(name, options)
    done: dict[int, int] = {}
    rows: list[tuple[int, int, int, tuple[float, ...], list[float]]] = []
    spent = 0
    while spent < budget * ITEMS:
        asked = strategy.ask(CHUNK)
        if not asked:  # it has no more to propose: nothing is out
            break
        told = []
        for p in asked:
            items = min(ITEMS, p.items or ITEMS)
            answers = landscape.answers(np.array([p.point]))[..., :items]
            f = landscape.asked(answers)[0].tolist()
            spent += items - done.get(p.id, 0)
            done[p.id] = items
            rows.append((spent, p.id, items, p.point, f))
            given = by_item(answers[0]) if needed else None
            told.append(Observation(p.id, p.point, tuple(f), (), items, given))
        strategy.tell(told)
    found: dict[str, list[float]] = {"volume": [], "mean": []}
    for n in (budget // share for share in SHARES):
        points, seen = known(rows, n * ITEMS)
        true = landscape.true(points)
        front = true[pareto.nondominated(seen)]
        found["volume"].append(pareto.hypervolume(front, REFERENCE_POINT) / landscape.volume)
        best = true[seen.mean(axis=1).argmin()]
        found["mean"].append(float(best.mean()) - landscape.least_mean)
    return found


def known(
    rows: Sequence[tuple[int, int, int, tuple[float, ...], list[float]]], answers: int
) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, D) and losses (N, M) of the candidates with most items, after some answers."""
    latest = {id: (items, point, f) for spent, id, items, point, f in rows if spent <= answers}
    most = max(items for items, _, _ in latest.values())
    kept = [(point, f) for items, point, f in latest.values() if items == most]
    return np.array([point for point, _ in kept]), np.array([f for _, f in kept])


def by_item(rows: np.ndarray) -> dict[str, dict[str, float]]:
    """Answers (M, items) by objective and item."""
    return {
        f"skill {m}": {str(i): float(right) for i, right in enumerate(row)}
        for m, row in enumerate(rows)
    }


def values(rows: Mapping[str, Any], label: str, kind: str, place: int = -1) -> np.ndarray:
    """(landscapes, seeds) of one row; NaN where a landscape was refused."""
    return np.array(
        [[c[kind][place] if c else math.nan for c in runs] for runs in rows[label]], dtype=float
    )


def interval(samples: np.ndarray) -> str:
    """Mean and half the width of its 95 % interval over seeds."""
    if np.isnan(samples).any():
        return "refused"
    half = stats.sem(samples) * stats.t.ppf(0.975, len(samples) - 1)
    return f"{samples.mean():.3f} ± {half:.3f}"


def by_landscape(rows: Mapping[str, Any]) -> str:
    lines = [
        "| strategy | " + " | ".join(s.name for s in SHAPES) + " |",
        "|---" * (len(SHAPES) + 1) + "|",
    ]
    for label in ranked(rows):
        cells = [interval(samples) for samples in values(rows, label, "volume")]
        lines.append(f"| {titled(label)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def overall(rows: Mapping[str, Any], budget: int) -> str:
    """Means over the landscapes that a strategy can search, and differences to the baseline.

    Rows over different landscapes compare by their differences alone.
    """
    against: dict[str, list[tuple[str, float]]] = {"volume": [], "mean": []}
    labels = ranked(rows)
    for kind, found in against.items():
        for label in labels:
            difference = np.nanmean(values(rows, label, kind) - values(rows, BASELINE, kind), 0)
            p = stats.wilcoxon(difference).pvalue if difference.any() else 1.0
            found.append((interval(difference), p))
    head = ["landscapes", *(f"volume at {budget // share}" for share in SHARES)]
    head += ["against sobol, p", "mean loss above the least", "against sobol, p"]
    lines = ["| strategy | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    adjusted = {kind: intervals.holm([p for _, p in found]) for kind, found in against.items()}
    for i, label in enumerate(labels):
        cells = [str(sum(run[0] is not None for run in rows[label]))]
        cells += [
            interval(np.nanmean(values(rows, label, "volume", k), 0)) for k in range(len(SHARES))
        ]
        cells.append(f"{against['volume'][i][0]}, {adjusted['volume'][i]:.3f}")
        cells.append(interval(np.nanmean(values(rows, label, "mean"), 0)))
        cells.append(f"{against['mean'][i][0]}, {adjusted['mean'][i]:.3f}")
        lines.append(f"| {titled(label)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ranked(rows: Mapping[str, Any]) -> list[str]:
    """Best first, by the difference to the baseline on what both can search."""
    base = values(rows, BASELINE, "volume")
    return sorted(rows, key=lambda label: -np.nanmean(values(rows, label, "volume") - base))


def titled(label: str) -> str:
    name, *rest = label.split(" ")
    return " ".join([f"`{name}`", *rest])


def tenth(seeds: int, budget: int) -> None:
    """What is covered by direct searches of a budget, and by others of a tenth of it."""
    direct, others = ("smsemoa", "nsga2"), ("map", "smsemoa", "sobol")
    runs = [(name, budget) for name in direct] + [(name, budget // 10) for name in others]
    print("| landscape |", *(f"`{name}`, {n} |" for name, n in runs), "`map` less `smsemoa` |")
    print("|---" * (len(runs) + 2) + "|")
    for shape in FEW:
        landscapes = [Landscape(shape, seed) for seed in range(seeds)]
        found = {
            (name, n): np.array([(curve(name, {}, landscapes[seed], seed, n) or {})["volume"][-1]
                                 for seed in range(seeds)])
            for name, n in runs
        }  # fmt: skip
        apart = found["map", budget // 10] - found["smsemoa", budget]
        cells = [interval(samples) for samples in (*found.values(), apart)]
        print(f"| {shape.name} | " + " | ".join(cells) + " |", flush=True)


def overhead(names: Sequence[str], told: int) -> None:
    """Milliseconds per candidate of ask and tell, at GENES genes after `told` candidates."""
    space = Space([Gene("weight", 0, 1, 0.25, 1 / 256, expert=f"e{d}") for d in range(GENES)])
    print("| strategy | told | ask and tell, mean | longest |", "|---|---|---|---|", sep="\n")
    for name in names:
        if plugins.refusal(plugins.strategy_needs(name, {}), space.genes, ["a", "b"]):
            continue
        strategy, times, count = begun(name, {}, space, 2, 0), [], 0
        limit = time.perf_counter() + 60
        while count < told + TIMED and time.perf_counter() < limit:
            started = time.perf_counter()
            asked = strategy.ask(1)
            if not asked:
                break
            spent = time.perf_counter() - started
            (p,) = asked
            answers = by_item(np.random.default_rng(p.id).random((2, ITEMS)) < 0.5)
            seen = Observation(p.id, p.point, spheres(p.point), answers=answers)
            started = time.perf_counter()
            strategy.tell([seen])
            times.append(1000 * (spent + time.perf_counter() - started))
            count += 1
        last = times[-TIMED:]
        print(
            f"| `{name}` | {count:,} | {statistics.mean(last):.1f} ms | {max(last):.1f} ms |",
            flush=True,
        )


def spheres(point: Sequence[float]) -> tuple[float, float]:
    x = np.array(point)
    return float(((x - 0.3) ** 2).mean()), float(((x - 0.7) ** 2).mean())


if __name__ == "__main__":
    main()
