"""How often an estimate and 1.96 of its standard errors cover the mean of all questions.

    python benchmarks/fitness_errors.py [FILE]

Replayed as in benchmarks/fitness.py, by the package's own estimators: 30 questions of each bank,
5 draws, the last candidates of each search, which the calibration never saw.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import fitness_data
import fitness_methods as methods
import numpy as np
from fitness_replay import tasks

from evomerge.maths import estimates, irt_checks
from fitness import FILE

N, DRAWS = 30, 5
ESTIMATORS = ("stratified", "p_irt", "equated")


def main() -> None:
    found: dict[tuple[object, ...], list[tuple[float, float]]] = {}
    for population in fitness_data.load(Path(sys.argv[1]) if len(sys.argv) > 1 else FILE):
        for rows in (20, 60):
            for task in tasks(population, rows):
                for signal in ("score", "probability"):
                    for case, pair in errors(task.known[signal], task.new[signal]):
                        key = (population.kind, signal, rows, *case)
                        found.setdefault(key, []).append(pair)
    print("| population | signal | known | questions | estimator | covered | error | said to be |")
    print("|---|---|---|---|---|---|---|---|")
    for key, pairs in found.items():
        off, said = np.abs(np.array(pairs)).T
        covered, error = np.mean(off <= 1.96 * said), np.sqrt(np.mean(off**2))
        numbers = f"{covered:.2f} | {error:.3f} | {np.sqrt(np.mean(said**2)):.3f}"
        print(f"| {' | '.join(map(str, key))} | {numbers} |")


def errors(
    known: methods.Known, new: np.ndarray
) -> Iterator[tuple[tuple[str, str], tuple[float, float]]]:
    """Of each estimate how far it is off and its standard error, by choice and estimator."""
    misfit = irt_checks.held_out(known.rows, seen=new.shape[1] // 2).errors["irt"]
    rng, strata = np.random.default_rng(0), estimates.strata(known.means)
    for _ in range(DRAWS):
        for choice in ("random", "informative"):
            items, _ = methods.CHOICES[choice](known, N, rng)
            for row in new:
                seen = np.full(len(row), np.nan)
                seen[items] = row[items]
                theory = (known.items, known.prior)
                read = (
                    estimates.stratified(seen, strata),
                    estimates.p_irt(seen, *theory, known.dispersion, misfit),
                    estimates.equated(seen, *theory, known.means, misfit),
                )
                for name, one in zip(ESTIMATORS, read, strict=True):
                    yield (choice, name), (one.score - row.mean(), one.error)


if __name__ == "__main__":
    main()
