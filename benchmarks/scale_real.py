"""Two Ray workers against one on zoo:tiny: the same number of new candidates, answered in turn.

    python benchmarks/scale_real.py

One torch thread a worker; five rounds of both, interleaved, medians. Answers are recorded in a
ledger as in a search; starting the workers is not timed.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from evomerge.answers import Answers
from evomerge.desk import Desk
from evomerge.files.ledger import Ledger
from evomerge.pace import Pace
from evomerge.recipe import Problem, resolve

ROUNDS, CANDIDATES, ITEMS = 5, 6, 25


def rounds(problem: Problem, answers: Answers) -> dict[int, list[tuple[float, float]]]:
    """Seconds, and the share of them that the driver's processor was busy, by workers."""
    desks = {n: Desk(answers, ("ray", {"workers": n}), Pace(problem.setup)) for n in (1, 2)}
    points = iter(
        np.random.default_rng(0).random((2 * (ROUNDS + 1) * CANDIDATES, len(problem.space)))
    )
    places = answers.places("search", ITEMS)
    found: dict[int, list[tuple[float, float]]] = {n: [] for n in desks}
    for _ in range(ROUNDS + 1):
        for n, desk in desks.items():
            plans = [
                problem.plan(problem.space.canonical(next(points))) for _ in range(CANDIDATES)
            ]
            begun, busy = time.perf_counter(), time.process_time()
            desk.answer(plans, places, lambda result: None)
            seconds = time.perf_counter() - begun
            found[n].append((seconds, (time.process_time() - busy) / seconds))
    for desk in desks.values():
        desk.close()
    return {n: rows[1:] for n, rows in found.items()}  # workers start in the first round


def main() -> None:
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # servers bind to loopback
    import ray

    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="error")
    problem = resolve("quickstart")
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder), write=True)
        found = rounds(problem, Answers(ledger, problem.setup))
        ledger.close()
    ray.shutdown()
    medians = {n: statistics.median(seconds for seconds, _ in rows) for n, rows in found.items()}
    for n, rows in found.items():
        each = ", ".join(f"{seconds:.1f}" for seconds, _ in rows)
        share = statistics.median(share for _, share in rows)
        print(f"{n} workers: {medians[n]:.2f} s ({each}), driver busy {share:.1%}")
    print(f"two are {medians[1] / medians[2]:.2f} times as fast as one; "
          f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
