"""What one candidate of zoo:tiny costs on one thread: building it, and answering 4 x 50 items.

    python benchmarks/quick_candidate.py

Operators take turns, medians are printed; beside each the time to copy the same bytes (base and
experts read, one model written), measured in the same run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from evomerge.confirm import textbook
from evomerge.recipe import resolve
from evomerge.threads import one_thread
from evomerge.worker import Job, Worker

REPEATS = 30
OPERATORS = ("linear", "task_arithmetic", "ties", "dare")


def timed(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def copier(worker: Worker) -> Callable[[], None]:
    """What is timed beside a build: base and experts read once, one model written."""
    live = worker.live
    sources = [live.workshop.checkpoints[sha] for sha in worker.setup.folders]
    target = torch.empty(len(sources), max(i.numel for i in sources[0].tensors.values()))

    def copy() -> None:
        for name, info in sources[0].tensors.items():
            for row, source in zip(target, sources, strict=True):
                row[: info.numel].copy_(source.read_flat(name, 0, info.numel))
            live.parameters[name].view(-1).copy_(target[0, : info.numel])

    return copy


def main() -> None:
    problem = resolve("quickstart")
    worker = Worker(problem.setup)
    live, copy = worker.live, copier(worker)
    seconds: dict[str, list[float]] = {name: [] for name in ("copy", *OPERATORS, "answer")}
    blocks = tuple((name, "search", i) for name in problem.banks for i in range(2))
    for repeat in range(REPEATS):
        with one_thread():
            seconds["copy"].append(timed(copy))
            for operator in OPERATORS:
                plan = textbook(problem, operator, 0.3 + 0.01 * repeat)
                seconds[operator].append(timed(lambda plan=plan: live.build(plan)))
        job = Job(plan.model_dump(mode="json"), plan.key, blocks)
        if repeat % 3 == 0:
            seconds["answer"].append(timed(lambda job=job: worker.run(job)))
    copied = statistics.median(seconds["copy"])
    for operator in OPERATORS:
        # The first build of an operator prepares its statistics; that is once a run.
        built = statistics.median(seconds[operator][1:])
        print(f"{operator:16} {built * 1e3:6.1f} ms, {built / copied:5.1f} times a copy")
    answered = statistics.median(seconds["answer"])
    print(f"{'4 x 50 items':16} {answered:6.2f} s, {answered / 200 * 1e3:.2f} ms an item")
    print(f"TIES, once a run {seconds['ties'][0]:6.2f} s")


if __name__ == "__main__":
    main()
