"""What building one merged model costs: in memory against a copy, on disk against mergekit.

    python benchmarks/materialize.py [--repeats 5] [--only ties dare] [--no-disk] [--no-live]
    python benchmarks/materialize.py --memory [--plot runs/memory.html]

A random Llama of 135M parameters, three experts, bfloat16, one torch thread. All sides take turns;
medians of processor seconds are printed, a build beside the copies made right before. A copy reads
base and experts and writes one model, tile by tile, bfloat16 to bfloat16, on the same thread. What
an operator prepares once a run is the rest of its first build. Merges to disk prepare everything
anew; both sides have opened the models before, and evomerge has their sha256. The environment
variable EVOMERGE_MERGEKIT_PYTHON names the interpreter of an environment with mergekit. `--memory`
is memory.py: what a merge to disk holds at its peak.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from random_family import Plans, Shape, build

from evomerge.live import Live, save
from evomerge.materialize import TILE, Workshop

CACHE = Path(os.environ.get("EVOMERGE_HOME", tempfile.gettempdir())) / "benchmark-135m"
LIVE = {
    "linear": 5, "task_arithmetic": 5, "ties": 15, "dare": 20, "della": 30, "breadcrumbs": 30,
    "sce": 30, "tsv": 60, "star": 60, "iso_c": 150,
}  # fmt: skip
"""Operators, and how many times a copy a build may take."""
DISK = {"linear": 2, "ties": 8, "breadcrumbs": 8, "della": 12}
"""Operators, and how many times faster than mergekit a merge to disk should be."""
MERGEKIT = {
    "linear": {}, "ties": {"density": 51 / 256},
    "breadcrumbs": {"density": 38 / 256, "gamma": 0.01},
    "della": {"density": 0.5, "epsilon": 0.07, "lambda": 1.1},
}  # fmt: skip
"""What the operators' defaults are called there."""


def timed(action: Callable[[], object]) -> float:
    """Processor seconds: on an idle machine those of the clock, on a busy one still the same."""
    begun = time.process_time()
    action()
    return time.process_time() - begun


def empty(plans: Plans) -> dict[str, torch.Tensor]:
    """The parameters of a model in memory, all written to once."""
    return {
        name: torch.zeros(info.shape, dtype=torch.bfloat16) for name, info in plans.tensors.items()
    }


def copier(plans: Plans, parameters: dict[str, torch.Tensor]) -> Callable[[], None]:
    sources = plans.found.sources
    tile = torch.empty(TILE, dtype=torch.bfloat16)

    def copy() -> None:
        for name, info in plans.tensors.items():
            target = parameters[name].view(-1)
            for start in range(0, info.numel, TILE):
                stop = min(start + TILE, info.numel)
                part = tile[: stop - start]
                for source in sources:
                    part.copy_(source.read_flat(name, start, stop))
                target[start:stop].copy_(part)

    return copy


def live(plans: Plans, operators: list[str], repeats: int) -> None:
    """Operators come one after the other, or all statistics would be in memory at a time."""
    parameters = empty(plans)
    copy = copier(plans, parameters)
    copy()
    print(f"\n{torch.get_num_threads()} thread, {repeats} repeats\n")
    print("| operator | build | copy | times a copy | target | once a run |")
    print("|---|---|---|---|---|---|", flush=True)
    for name in operators:
        workshop, copied, built = Workshop(plans.files), [], []
        for repeat in range(repeats + 1):  # the first build prepares
            plan, model = plans.plan(name, repeat), Live(parameters, workshop)
            copied += [timed(copy), timed(copy)]
            built.append(timed(lambda: model.build(plan)))  # noqa: B023
        copies, build = statistics.median(copied), statistics.median(built[1:])
        print(
            f"| `{name}` | {build:.2f} s | {copies:.3f} s | {build / copies:.1f} | {LIVE[name]} "
            f"| {max(0.0, built[0] - build):.1f} s |",
            flush=True,
        )


def depth(plans: Plans, repeats: int) -> None:
    """One of eight groups of layers has other weights."""
    parameters = empty(plans)
    print("\n| one of eight groups changed | share of a whole build | target |\n|---|---|---|")
    for name in ("linear", "ties"):
        workshop, whole, part = Workshop(plans.files), [], []
        Live(parameters, workshop).build(plans.plan(name, blocks=8))
        for repeat in range(repeats):
            model = Live(parameters, workshop)
            before = plans.plan(name, repeat, blocks=8)
            after = plans.plan(name, repeat, blocks=8, changed="4")
            whole.append(timed(lambda: model.build(before)))  # noqa: B023
            part.append(timed(lambda: model.build(after)))  # noqa: B023
        share = statistics.median(part) / statistics.median(whole)
        print(f"| `{name}` | {share:.3f} | 0.2 |")


class Mergekit:
    """A child process that has imported mergekit already."""

    def __init__(self, python: str) -> None:
        command = [python, str(Path(__file__).with_name("mergekit_child.py"))]
        self.child = subprocess.Popen(
            [*command, str(torch.get_num_threads())], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        )  # fmt: skip
        assert self.child.stdout is not None
        if self.child.stdout.readline() != "ready\n":
            raise SystemExit(f"{python}: mergekit can not be imported")

    def seconds(self, name: str, folders: list[Path], target: Path) -> float:
        models: list[dict[str, Any]] = [
            {"model": str(folder), "parameters": {"weight": 0.3 + 0.1 * k, **MERGEKIT[name]}}
            for k, folder in enumerate(folders[1:])
        ]
        config = {"merge_method": name, "models": models, "dtype": "bfloat16"}
        if name != "linear":
            config["base_model"] = str(folders[0])
        assert self.child.stdin is not None and self.child.stdout is not None
        print(
            json.dumps({"config": config, "folder": str(target)}),
            file=self.child.stdin,
            flush=True,
        )
        answer = self.child.stdout.readline()
        if not answer:
            raise SystemExit(f"mergekit failed on {name}")
        return float(answer)

    def close(self) -> None:
        assert self.child.stdin is not None
        self.child.stdin.close()
        self.child.wait()


def disk(plans: Plans, folders: list[Path], operators: list[str], repeats: int) -> None:
    python = os.environ.get("EVOMERGE_MERGEKIT_PYTHON")
    other = Mergekit(python) if python else None
    if other is None:
        print("\nmergekit: left out, EVOMERGE_MERGEKIT_PYTHON names no interpreter that has it")
    print("\n| to disk | evomerge | mergekit | times as fast | target |\n|---|---|---|---|---|")
    for name in operators:
        ours, theirs = [], []
        for repeat in range(repeats):
            target = CACHE / "merged"
            shutil.rmtree(target, ignore_errors=True)
            plan, workshop = plans.plan(name, repeat), Workshop(plans.files, kept=0, once=True)
            ours.append(timed(partial(save, plan, workshop, target)))
            shutil.rmtree(target)
            if other is not None:
                theirs.append(other.seconds(name, folders, target))
        mine = statistics.median(ours)
        if other is None:
            print(f"| `{name}` | {mine:.2f} s | | | |")
        else:
            its = statistics.median(theirs)
            print(
                f"| `{name}` | {mine:.2f} s | {its:.2f} s | {its / mine:.1f} | {DISK[name]} |",
                flush=True,
            )
    if other is not None:
        other.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=LIVE, default=list(LIVE))
    parser.add_argument("--no-disk", action="store_true")
    parser.add_argument("--no-live", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--plot", type=Path, default=Path("runs/memory.html"))
    options = parser.parse_args()
    if options.memory:
        import memory

        memory.main(options.plot)
        return
    torch.set_num_threads(options.threads)
    folders = build(CACHE, Shape(), 3)
    plans = Plans(folders)
    if not options.no_live:
        live(plans, options.only, options.repeats)
        depth(plans, options.repeats)
    if not options.no_disk:
        disk(plans, folders, [name for name in options.only if name in DISK], options.repeats)


if __name__ == "__main__":
    sys.exit(main())
