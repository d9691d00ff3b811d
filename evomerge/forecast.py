"""What a search will need of the machine: memory, disk, and by one probe its time."""

from __future__ import annotations

import inspect
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from evomerge import confirm, errors, heap, plugins, sanity
from evomerge.answers import Answers
from evomerge.blocks import Place, places
from evomerge.budget import Deadline
from evomerge.files.ledger import Ledger
from evomerge.materialize import KEPT, TILE, Merged, Workshop
from evomerge.pace import Pace
from evomerge.plan import Plan
from evomerge.recipe import Problem
from evomerge.saving import size
from evomerge.worker import Job, Result, Worker

BUFFERS = 3
"""Arrays as large as a tile, in float32, that merging needs beside base and experts."""

PROBED = 50
"""Questions of each bank that base and experts answer in a probe, rounded up to whole blocks."""

ROW, EVENT = 160, 2048
"""Bytes that the ledger takes for an answer, and for a candidate besides."""


def _places(problem: Problem, split: str, items: int | None = None) -> list[Place]:
    return places(problem.banks, split, problem.recipe.batch, items)


def workers(problem: Problem) -> int:
    """How many the recipe asks for, or the executor has by default; `auto` is one a processor."""
    named = problem.recipe.executor
    call = plugins.load("executor", named.name).Executor.__init__
    default = inspect.signature(call).parameters.get("workers")
    asked = named.options.get("workers", 1 if default is None else default.default)
    return asked if isinstance(asked, int) else os.cpu_count() or 1


def memory(problem: Problem) -> dict[str, Any]:
    """Bytes of the parts of a search, and where base and experts will be read from.

    Not counted: activations, and what operators prepare once, which depends on the operator
    (counts and Gram matrices are small beside the model).
    """
    live = sum(info.numel * _width(problem, info.dtype) for info in problem.base.tensors.values())
    staging = 4 * _tile(problem) * (len(problem.experts) + 1 + BUFFERS)
    models = [problem.base, *problem.experts.values()]
    stored = sum(info.bytes for m in models for info in m.tensors.values())
    n, free = workers(problem), heap.memory().get("available")
    each = live + staging
    fits = free is None or stored + n * each <= free
    return {
        "live model": live,
        "staging tiles": staging,
        **_cache(problem),
        "kept of what operators derive, at most": KEPT,
        "workers": n,
        "base and experts": stored,
        "available": free,
        "regime": "base and experts are streamed from "
        + ("RAM (the page cache holds them)" if fits else "disk for each candidate"),
    }


def _cache(problem: Problem) -> dict[str, int]:
    """Bytes of keys and values, for each token that all rows of a batch are long; nothing for what
    is no language model with attention heads of one kind."""
    import torch

    config = problem.base.config.get("text_config", problem.base.config)
    heads, layers = config.get("num_attention_heads"), config.get("num_hidden_layers")
    width = config.get("head_dim") or (config.get("hidden_size", 0) // heads if heads else 0)
    if "vocab_size" not in config or not isinstance(layers, int) or not width:
        return {}
    kept: torch.dtype = getattr(torch, problem.recipe.dtype)
    each = 2 * layers * width * (config.get("num_key_value_heads") or heads) * kept.itemsize
    rows = problem.recipe.batch
    return {f"bytes of keys and values, a token of {rows} rows": rows * each}


def _tile(problem: Problem) -> int:
    """Elements that are merged at a time, at most, by the operators at their defaults."""
    largest = TILE
    for operator in problem.recipe.operators:
        merged = Merged(confirm.textbook(problem, operator), Workshop(problem.inputs.files))
        works = (merged.work(name) for name in merged.tensors)
        whole = [w.place.name for w in works if w is not None and w.scope == "tensor"]
        largest = max([largest, *(merged.tensors[name].numel for name in whole)])
    return largest


def _width(problem: Problem, stored: Any) -> int:
    import torch

    kept: torch.dtype = getattr(torch, problem.recipe.dtype)
    return kept.itemsize if stored.is_floating_point else stored.itemsize


def disk(problem: Problem, folder: Path) -> dict[str, Any]:
    """Bytes that the ledger will take, where the budget says how many candidates, and are free."""
    count, items = problem.recipe.budget.candidates, problem.recipe.fidelity.items
    answers = sum(
        len(bank.split("search")) if items is None else min(items, len(bank.split("search")))
        for bank in problem.banks.values()
    )
    there = folder.absolute()
    while not there.is_dir():
        there = there.parent
    return {
        **({} if count is None else {"ledger": count * (EVENT + answers * ROW)}),
        "reserve": size(problem.recipe.disk_reserve, "disk_reserve"),
        "free": shutil.disk_usage(there).free,
    }


def require(problem: Problem, needs: Mapping[str, Any], space: Mapping[str, Any]) -> None:
    """Raise MachineError, naming the smallest change, where memory or disk do not suffice."""
    each = needs["live model"] + needs["staging tiles"]
    free, n = needs["available"], needs["workers"]
    if problem.recipe.executor.options.get("address") not in (None, "local"):
        free = None  # workers are on other machines
    if free is not None and problem.setup.device == "cpu" and n * each > free:
        lack = f"{n} workers need {n * each / 1e9:.1f} GB, {free / 1e9:.1f} GB are available"
        if each <= free:
            advice = f"use executor.workers: {int(free / each)}"
        elif problem.recipe.dtype == "float32" and each - needs["live model"] / 2 <= free:
            advice = "use dtype: bfloat16"
        else:
            advice = f"a machine with {(each - free) / 1e9:.1f} GB more is needed"
        raise errors.MachineError(f"does not fit into memory: {lack}; {advice}")
    lack_of = space.get("ledger", 0) + space["reserve"] - space["free"]
    if lack_of > 0:
        raise errors.MachineError(
            f"does not fit on the disk: {lack_of / 1e9:.1f} GB are missing for ledger and "
            "reserve; free some, name another folder with -o, or lower disk_reserve"
        )


def probe(problem: Problem, worker: Worker) -> dict[str, Any]:
    """Let the uniform mean answer what a candidate is asked, twice, and extrapolate.

    Raises EvaluationError where it can not be scored.
    """
    recipe, pace = problem.recipe, Pace(problem.setup)
    asked = _places(problem, "search", recipe.fidelity.items)
    for operator in (recipe.operators[0], "linear"):
        plan = confirm.textbook(problem, operator)
        pace.add(_answered(worker, plan, asked, f"the probe, {operator} at its defaults"))
    budget = recipe.budget
    deadline = Deadline.of(budget.seconds, budget.until, 0.0)
    ends = pace.of(_places(problem, "search")) * -(
        -len(confirm.endpoints(problem)) // workers(problem)
    )
    found = times(problem, pace, workers(problem), deadline, first=ends)
    return {**found, "items of each bank in the time of a build": float(f"{pace.build():.2g}")}


def _answered(worker: Worker, plan: Plan, asked: Sequence[Place], what: str) -> Result:
    result = worker.run(Job(plan.model_dump(mode="json"), plan.key, tuple(asked)))
    if result.failed is not None:
        raise errors.EvaluationError(f"{what}: {result.failed}")
    return result


def sane(problem: Problem, worker: Worker) -> dict[str, Any]:
    """What base and experts score on the first items of each bank, as `sanity.of` has it.

    Raises EvaluationError where one of them can not be scored.
    """
    plans, asked = confirm.endpoints(problem), _places(problem, "search", PROBED)
    with tempfile.TemporaryDirectory() as folder, closing(Ledger(Path(folder), write=True)) as one:
        answers = Answers(one, problem.setup)
        answers.add([_answered(worker, plan, asked, label) for label, plan in plans.items()])
        return sanity.of(answers, plans, asked)


def times(
    problem: Problem, pace: Pace, n: int, deadline: Deadline, *, first: float = 0.0
) -> dict[str, Any]:
    """Seconds of a candidate and of the confirmation, and what the budget comes to with `n`
    workers; `first`: seconds of what has to be answered before the first candidate."""
    recipe = problem.recipe
    each = pace.of(_places(problem, "search", recipe.fidelity.items))
    kept = confirm.seconds(problem, pace, n)
    found: dict[str, Any] = {
        "seconds per candidate": float(f"{each:.5g}"),
        "seconds to confirm, at most": round(kept, 1),
    }
    if deadline.is_set:
        found["candidates before the deadline"] = n * deadline.room(each, kept + first)
    if recipe.budget.candidates is not None:
        found["seconds of the search"] = round(recipe.budget.candidates * each / n, 1)
    return found
