"""A plan as a published model folder: weights, model card, and the plan beside them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import get_args

from evomerge import errors
from evomerge.files import writer
from evomerge.live import save
from evomerge.lowrank import save_adapter
from evomerge.materialize import Workshop
from evomerge.plan import Dtype, Input, Plan

SHARD = "5GB"
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]?)(i?)B?", re.IGNORECASE)

Written = Callable[[int, int], None]
"""Told the bytes of the weights that are written, and all there will be."""


def size(text: str, where: str) -> int:
    """Bytes of `5GB`, `500MB` or `2GiB`; RecipeError for what is no size of at least one byte."""
    found = _SIZE.fullmatch(str(text).strip())
    count = 0
    if found:
        number, unit, binary = found.groups()
        count = int(
            float(number) * (1024 if binary else 1000) ** " KMGT".index(unit.upper() or " ")
        )
    if count < 1:
        raise errors.RecipeError(f"{where}: expected a size such as 5GB or 500MB, got '{text}'")
    return count


def in_dtype(plan: Plan, dtype: str) -> Plan:
    """The same merge in another dtype; RecipeError for one that no model is saved in."""
    known = get_args(Dtype)
    if dtype not in known:
        raise errors.RecipeError(errors.unknown("dtype", "dtype", dtype, known))
    # not model_copy: it would keep the cached key of the other plan
    return Plan.parse({**plan.model_dump(), "dtype": dtype}, "plan")


def write(
    plan: Plan,
    folder: str | Path,
    *,
    command: str = "",
    title: str = "",
    base: str = "",
    experts: Sequence[str] = (),
    scores: Sequence[tuple[str, float, float, float]] = (),
    notes: Sequence[str] = (),
    shard_size: str = SHARD,
    adapter: int | None = None,
    told: Written = lambda done, total: None,
) -> Path:
    """Write a plan as a Hugging Face folder with a model card and plan.json; return its path.

    With `adapter`, as a LoRA adapter of that rank, with fit.json on what it leaves out.
    `base` and `experts` are what the card calls them, by default names on the hub or of folders;
    `notes` are those of the card.
    Raises RecipeError for a folder in use, InputError for inputs that changed, EvaluationError
    for a weight that is not finite, MachineError where the disk does not allow it.
    """
    shard_bytes = size(shard_size, "shard size")
    card = partial(
        writer.card, title or Path(folder).name, base=base or _called(plan.base),
        experts=experts or [_called(item) for item in plan.experts], plan=plan.key,
        command=command, scores=scores, notes=notes,
    )  # fmt: skip
    workshop, extra = Workshop.of(plan), {"plan.json": plan.model_dump(mode="json")}
    if adapter is not None:
        target = Path(folder)
        return save_adapter(plan, workshop, target, adapter, card=card, extra_json=extra)
    return save(
        plan, workshop, Path(folder), told=told, card=card(), extra_json=extra,
        shard_bytes=shard_bytes,
    )  # fmt: skip


def _called(item: Input) -> str:
    return item.origin or Path(item.path).name or item.name
