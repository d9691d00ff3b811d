"""How many questions a candidate must answer: signal, choice of questions and estimator compared.

    python benchmarks/fitness.py [FILE] [--repeats 20] [--smoke] [--full]
    python benchmarks/fitness.py --collect RUN... -o FILE [--first 55] [--last 40]

Answers of real searches are replayed: the last 40 candidates of each run are ranked by what they
answered to a few questions of each bank, and the ranking is compared with that by all questions.
What is known beforehand are all answers of base, experts and the run's first candidates, which
are never among those ranked. Two truths, both in scores of 0 or 1: the mean over all questions of
the bank, the asked ones among them; and over a half of them, drawn anew each time, which cannot
be asked. Everybody answers the same questions.

FILE defaults to benchmarks/data/fitness.npz. Its narrow populations are the last candidates of
`python benchmarks/quickstart_seeds.py`, its wide ones those of the recipe `quickstart` with
`strategy: sobol`, `space: {blocks: 1, genes: {weight: [0, 1]}}` and `budget: {candidates: 100}`.
Runs of one's own are collected in the same way.

Intervals (95 %) are percentiles of a bootstrap of populations and of draws of questions within
them, the reference being resampled along.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

import fitness_data
import fitness_replay as replays
import numpy as np
from fitness_replay import METRICS, REFERENCE, REFERENCE_ASKED, RISING, Case

FILE = Path(__file__).parent / "data" / "fitness.npz"
ROWS = (20, 60)
"""Models of the calibration: base, experts and 15 or 55 candidates."""
DRAWS = 1000
PEER = ("score", "random", "gmp-IRT")
"""What MERGE^3 (Mencattini et al. 2025) does."""
SHOWN = (
    ("score", "random", "mean"), ("score", "random", "stratified mean"),
    ("score", "random", "p-IRT"), PEER, ("score", "anchors", "gp-IRT"),
    ("score", "informative", "p-IRT"), ("score", "covariance", "regression"),
    ("probability", "random", "mean"), ("probability", "random", "p-IRT"),
    ("probability", "informative", "p-IRT"), ("probability", "random", "regression"),
    ("probability", "covariance", "regression"), ("margin", "random", "mean"),
    ("margin", "informative", "p-IRT"), ("margin", "random", "regression"),
    ("margin", "covariance", "regression"),
)  # fmt: skip
"""Rows of the short table, chosen before the first whole replay."""


class Results:
    """Metrics by kind of population and case: (populations, repeats, METRICS)."""

    def __init__(self, found: dict[tuple[str, Case], list[list[np.ndarray]]]) -> None:
        self.tables = {key: np.array(rows) for key, rows in found.items()}
        self.kinds = sorted({kind for kind, _ in found})
        self._weights: dict[tuple[int, int], np.ndarray] = {}

    def draws(self, kind: str, case: Case, metric: str) -> np.ndarray:
        """The mean, then its bootstrap (1 + DRAWS,)."""
        values = self.tables[kind, case][..., METRICS.index(metric)]
        shape = values.shape
        if shape not in self._weights:
            drawn = replays.resampled(shape, DRAWS)
            self._weights[shape] = np.vstack([np.full(values.size, 1 / values.size), drawn])
        return np.asarray(self._weights[shape] @ values.ravel())

    def equivalents(self, kind: str, case: Case, metric: str) -> np.ndarray:
        """Equivalent numbers of random questions answered by 0 or 1, like `draws`."""
        sign = 1 if metric in RISING else -1
        asked = [n for n in REFERENCE_ASKED if (kind, _reference(case, n)) in self.tables]
        curves = [sign * self.draws(kind, _reference(case, n), metric) for n in asked]
        values = sign * self.draws(kind, case, metric)
        pairs = zip(np.array(curves).T, values, strict=True)
        return np.array([replays.equivalent(curve, asked, value) for curve, value in pairs])


def _reference(case: Case, n: int) -> Case:
    return Case(case.protocol, case.rows, *REFERENCE, n)


def measure(file: Path, repeats: int, rows: Iterable[int]) -> Results:
    """Replay every population of a file."""
    found: dict[tuple[str, Case], list[list[np.ndarray]]] = {}
    for number, population in enumerate(fitness_data.load(file)):
        for r in rows:
            ready = replays.tasks(population, r)
            for protocol in replays.PROTOCOLS:
                here: dict[tuple[str, Case], list[np.ndarray]] = {}
                for repeat in range(repeats):
                    seed = 1000 * number + repeat  # the same draws for both calibrations
                    for case, values in replays.replay(ready, protocol, r, seed):
                        here.setdefault((population.kind, case), []).append(values)
                for key, values in here.items():
                    found.setdefault(key, []).append(values)
    return Results(found)


def table(results: Results, kind: str, protocol: str, rows: int, n: int, full: bool) -> str:
    head = (
        "| signal | questions | estimator | error | Spearman | top 8 | regret "
        "| as many random ones by Spearman | by top 8 | by regret |"
    )
    lines = [head, "|" + "---|" * 10]
    cases = [
        c for k, c in results.tables if k == kind and (c.protocol, c.rows) == (protocol, rows)
    ]
    for case in cases:
        if case.n == n and (full or case[2:5] in SHOWN):
            lines.append(_row(results, kind, case))
    return "\n".join(lines)


def _row(results: Results, kind: str, case: Case) -> str:
    values = [
        f"{results.draws(kind, case, metric)[0]:.{digits}f}"
        for metric, digits in (("error", 3), ("Spearman", 2), ("top 8", 2), ("regret", 4))
    ]
    equal = [
        _between(results.equivalents(kind, case, metric), case)
        for metric in ("Spearman", "top 8", "regret")
    ]
    return f"| {case.signal} | {case.choice} | {case.estimator} | {' | '.join(values + equal)} |"


def _between(draws: np.ndarray, case: Case) -> str:
    """A number with its interval; the ends of the curve as what they are, bounds."""
    most = max(REFERENCE_ASKED) if case.protocol == "same" else 100

    def word(value: float) -> str:
        if value >= most * 0.999:
            return f">{most}"
        return "<5" if value <= REFERENCE_ASKED[0] * 1.001 else f"{value:.0f}"

    low, high = np.percentile(draws[1:], [2.5, 97.5])
    return f"{word(draws[0])} ({word(low)} to {word(high)})"


def claims(results: Results, kind: str, protocol: str, rows: int) -> Iterator[str]:
    """Regret against 50 random questions, and against the peer's method, at 30 questions."""
    rivals = {
        "50 random, score, mean": Case(protocol, rows, *REFERENCE, 50),
        "30 random, score, gmp-IRT": Case(protocol, rows, *PEER, 30),
    }
    for signal, choice, estimator in SHOWN:
        case = Case(protocol, rows, signal, choice, estimator, 30)
        cells = []
        for rival in rivals.values():
            draws = 1e3 * (
                results.draws(kind, case, "regret") - results.draws(kind, rival, "regret")
            )
            low, high = np.percentile(draws[1:], [2.5, 97.5])
            cells.append(f"{draws[0]:+.1f} ({low:+.1f} to {high:+.1f})")
        yield f"| {signal} | {choice} | {estimator} | {' | '.join(cells)} |"


def report(results: Results, rows: Iterable[int], full: bool) -> None:
    for kind in results.kinds:
        for r in rows:
            for protocol in (p.name for p in replays.PROTOCOLS):
                for n in replays.ASKED if full else (30,):
                    print(f"\n### {kind}, truth on {protocol} questions, {r} models, n = {n}\n")
                    print(table(results, kind, protocol, r, n, full))
                print(f"\n{kind}, {protocol}, {r}: regret at 30 less that of a rival, in .001\n")
                print("\n".join(claims(results, kind, protocol, r)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="?", type=Path, default=FILE)
    parser.add_argument("--repeats", type=int, default=20, help="draws of questions")
    parser.add_argument("--smoke", action="store_true", help="two draws, one calibration")
    parser.add_argument("--full", action="store_true", help="every case, all numbers of questions")
    parser.add_argument("--collect", nargs="+", type=Path, metavar="RUN", default=[])
    parser.add_argument("-o", "--output", type=Path, default=FILE)
    parser.add_argument("--first", type=int, default=55, help="candidates to calibrate on")
    parser.add_argument("--last", type=int, default=40, help="candidates to rank")
    options = parser.parse_args()
    if options.collect:
        fitness_data.collect(options.collect, options.output, options.first, options.last)
        return
    rows = ROWS[:1] if options.smoke else ROWS
    results = measure(options.file, 2 if options.smoke else options.repeats, rows)
    report(results, rows, options.full)


if __name__ == "__main__":
    main()
