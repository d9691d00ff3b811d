"""How many questions a candidate must answer: signal, choice of questions and estimator compared.

    python benchmarks/fitness.py [FILE] [--repeats 20] [--rows 20 60] [--shown 30] [--full]
    python benchmarks/fitness.py --collect RUN... -o FILE [--first 55] [--last 40]

Answers of real searches are replayed: the last 40 candidates of each run are ranked by what they
answered to a few questions of each bank, and the ranking is compared with that by all questions.
What is known beforehand are all answers of base, experts and the run's first candidates, which
are never among those ranked. Two truths, both in scores of 0 or 1: the mean over all questions of
the bank, the asked ones among them; and over a half of them, drawn anew each time, which cannot
be asked. Everybody answers the same questions.

FILE defaults to benchmarks/data/fitness.npz. Its narrow populations are the last candidates of
the quickstart as it was (`FORMER` of fitness_search.py, 180 candidates), its wide ones those of
the recipe `quickstart` with `strategy: sobol`, `space: {blocks: 1, genes: {weight: [0, 1]}}` and
`budget: {candidates: 100}`.
benchmarks/data/fitness_smollm2.npz has those of zoo:smollm2: the recipe `smollm2` with 52
candidates, and the sparse search of sae_smollm2.py; at `--last 17`. Runs of one's own are
collected in the same way.

Intervals (95 %) are percentiles of a bootstrap of populations and of draws of questions within
them, the reference being resampled along.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable
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
    ("score", "informative", "p-IRT"), ("score", "informative", "equated"),
    ("score", "informative", "stratified mean"), ("score", "covariance", "regression"),
    ("probability", "random", "mean"), ("probability", "random", "p-IRT"),
    ("probability", "informative", "p-IRT"), ("probability", "informative", "equated"),
    ("probability", "informative", "stratified mean"), ("probability", "random", "regression"),
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
        asked = _asked(self, kind, case)
        curves = [sign * self.draws(kind, _reference(case, n), metric) for n in asked]
        values = sign * self.draws(kind, case, metric)
        pairs = zip(np.array(curves).T, values, strict=True)
        return np.array([replays.equivalent(curve, asked, value) for curve, value in pairs])


def _reference(case: Case, n: int) -> Case:
    return Case(case.protocol, case.rows, *REFERENCE, n)


def measure(file: Path, repeats: int, rows: Iterable[int], kinds: Iterable[str]) -> Results:
    """Replay every population of a file."""
    found: dict[tuple[str, Case], list[list[np.ndarray]]] = {}
    for number, population in enumerate(fitness_data.load(file)):
        if population.kind not in kinds:
            continue
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


HEAD = (
    "| signal | questions | estimator | Spearman | top 8 | regret | regret of the mean "
    "| as many random ones by Spearman | by regret | regret less that of 50 random ones "
    "| less that of gmp-IRT |"
)


def table(results: Results, kind: str, protocol: str, rows: int, n: int, full: bool) -> str:
    lines = [HEAD, "|" + "---|" * 11]
    for case in _cases(results, kind, protocol, rows, full):
        if case.n == n:
            lines.append(_row(results, kind, case))
    return "\n".join(lines)


def _cases(results: Results, kind: str, protocol: str, rows: int, full: bool) -> list[Case]:
    found = [c for k, c in results.tables if k == kind and c[:2] == (protocol, rows)]
    shown = {case: SHOWN.index(case[2:5]) for case in found if case[2:5] in SHOWN}
    return found if full else sorted(shown, key=lambda case: (shown[case], case.n))


def _row(results: Results, kind: str, case: Case) -> str:
    values = [
        _interval(results.draws(kind, case, metric), f".{digits}f")
        for metric, digits in (
            ("Spearman", 2),
            ("top 8", 2),
            ("regret", 4),
            ("regret of the mean", 4),
        )
    ]
    equal = [_equal(results, kind, case, metric) for metric in ("Spearman", "regret")]
    rivals = (
        _reference(case, 50),
        case._replace(signal=PEER[0], choice=PEER[1], estimator=PEER[2]),
    )
    less = [_less(results, kind, case, rival) for rival in rivals]
    return f"| {' | '.join([*case[2:5], *values, *equal, *less])} |"


def _interval(draws: np.ndarray, form: str) -> str:
    low, high = np.percentile(draws[1:], [2.5, 97.5])
    return f"{draws[0]:{form}} ({low:{form}} to {high:{form}})"


def _less(results: Results, kind: str, case: Case, rival: Case) -> str:
    if case == rival or (kind, rival) not in results.tables:
        return ""
    draws = results.draws(kind, case, "regret") - results.draws(kind, rival, "regret")
    return _interval(draws, "+.4f")


def _equal(results: Results, kind: str, case: Case, metric: str) -> str:
    """A number with its interval; the ends of the curve as what they are, bounds."""
    draws = results.equivalents(kind, case, metric)
    most = _asked(results, kind, case)[-1]

    def word(value: float) -> str:
        if value >= most * 0.999:
            return f">{most}"
        return "<5" if value <= REFERENCE_ASKED[0] * 1.001 else f"{value:.0f}"

    if case[2:5] == REFERENCE:
        return str(case.n)
    low, high = np.percentile(draws[1:], [2.5, 97.5])
    return f"{word(draws[0])} ({word(low)} to {word(high)})"


def _asked(results: Results, kind: str, case: Case) -> list[int]:
    """Numbers of questions of the curve of random ones."""
    return [n for n in REFERENCE_ASKED if (kind, _reference(case, n)) in results.tables]


def curves(results: Results, kind: str, protocol: str, rows: int, metric: str) -> str:
    """A metric by number of questions."""
    asked = _asked(results, kind, Case(protocol, rows, *REFERENCE, 0))
    lines = [
        f"| signal | questions | estimator | {' | '.join(map(str, asked))} |",
        "|" + "---|" * (3 + len(asked)),
    ]
    for shown in SHOWN:
        cells = []
        for n in asked:
            key = (kind, Case(protocol, rows, *shown, n))
            known = key in results.tables
            cells.append(f"{results.draws(*key, metric)[0]:.3f}" if known else "")
        lines.append(f"| {' | '.join([*shown, *cells])} |")
    return "\n".join(lines)


def across(results: Results, kind: str, n: int, metric: str) -> str:
    """A metric by what the truth is and how many models are known; instead of Spearman, as many
    random questions."""
    columns = dict.fromkeys(c[:2] for k, c in results.tables if k == kind)
    heads = [f"{protocol}, {rows} known" for protocol, rows in columns]
    lines = [
        f"| signal | questions | estimator | {' | '.join(heads)} |",
        "|" + "---|" * (3 + len(heads)),
    ]
    for shown in SHOWN:
        cases = [Case(*column, *shown, n) for column in columns]
        cells = [
            _equal(results, kind, case, metric)
            if metric == "Spearman"
            else _interval(results.draws(kind, case, metric), ".4f")
            for case in cases
        ]
        lines.append(f"| {' | '.join([*shown, *cells])} |")
    return "\n".join(lines)


def report(results: Results, rows: Iterable[int], shown: int, full: bool) -> None:
    """What decides, at `shown` questions; or, if `full`, everything."""
    most, asked = max(rows), replays.ASKED if full else (shown,)
    for kind in results.kinds:
        for r, p in itertools.product(rows, replays.PROTOCOLS):
            if not full and (r, p.name) != (most, "held-out"):
                continue
            where = f"{kind} populations, truth on {p.name} questions, {r} models known"
            for n in asked:
                print(f"\n{where}, {n} questions\n\n{table(results, kind, p.name, r, n, full)}")
            for metric in METRICS if full else ("Spearman",):
                print(f"\n{where}: {metric} by number of questions\n")
                print(curves(results, kind, p.name, r, metric))
        for words, metric in (
            ("as many random ones by Spearman", "Spearman"), ("mean absolute error", "error"),
            ("regret of the mean", "regret of the mean"),
        ):  # fmt: skip
            print(f"\n{kind} populations, {shown} questions: {words}\n")
            print(across(results, kind, shown, metric))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="?", type=Path, default=FILE)
    parser.add_argument("--repeats", type=int, default=20, help="draws of questions")
    parser.add_argument("--smoke", action="store_true", help="two draws, one calibration")
    parser.add_argument("--kinds", nargs="+", default=["narrow", "wide"], help="of populations")
    parser.add_argument("--full", action="store_true", help="every case, all numbers of questions")
    parser.add_argument("--rows", nargs="+", type=int, default=ROWS, help="models known")
    parser.add_argument("--shown", type=int, default=30, help="questions of the tables")
    parser.add_argument("--collect", nargs="+", type=Path, metavar="RUN", default=[])
    parser.add_argument("-o", "--output", type=Path, default=FILE)
    parser.add_argument(
        "--first", type=int, default=55, help="candidates to calibrate on, at most"
    )
    parser.add_argument("--last", type=int, default=40, help="candidates to rank")
    options = parser.parse_args()
    if options.collect:
        fitness_data.collect(options.collect, options.output, options.first, options.last)
        return
    rows = options.rows[:1] if options.smoke else options.rows
    results = measure(options.file, 2 if options.smoke else options.repeats, rows, options.kinds)
    report(results, rows, options.shown, options.full)


if __name__ == "__main__":
    main()
