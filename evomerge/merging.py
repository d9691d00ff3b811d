"""The commands that write one model: `evomerge merge` and `evomerge export`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from evomerge import errors

out = Console()
err = Console(stderr=True)

Folder = Annotated[Path, typer.Option("-o", "--out", help="folder to write")]
ShardSize = Annotated[str, typer.Option(help="most bytes of a weight file: 5GB, 500MB")]


def merge(
    source: Annotated[
        str, typer.Argument(help="a plan (JSON) or a recipe", metavar="PLAN|RECIPE")
    ],
    folder: Folder = Path("merged"),
    gene: Annotated[
        list[str] | None, typer.Option("--set", help="gene value for a recipe: weight=0.3")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16, if not as the plan says")
    ] = None,
    shard_size: ShardSize = "5GB",
) -> None:
    """Build a plan, or a recipe at its defaults, without a search."""
    from evomerge import api, progress, saving

    saving.size(shard_size, "--shard-size")
    values = dict(_assignment(text) for text in gene or [])
    if source.endswith(".json"):
        if values:
            raise errors.RecipeError("--set: a plan has all its values; only a recipe takes more")
        plan = api.read_plan(source)
    else:
        plan = api.plan_of_recipe(source, values)
    if dtype is not None:
        plan = saving.in_dtype(plan, dtype)
    with progress.stream(err, "writing", str(folder)) as told:
        written = saving.write(
            plan, folder, command=shlex.join(["evomerge", *sys.argv[1:]]),
            shard_size=shard_size, told=told,
        )  # fmt: skip
    out.print(str(written), highlight=False, soft_wrap=True)


def _assignment(text: str) -> tuple[str, float | str]:
    name, sign, value = text.partition("=")
    if not sign:
        raise errors.RecipeError(f"--set: expected gene=value, got '{text}'")
    try:
        return name, float(value)
    except ValueError:
        return name, value


def export(
    run: Annotated[Path, typer.Argument(help="folder of a run", metavar="RUN")],
    point: Annotated[str, typer.Argument(help="best, knee, or a point's label")] = "best",
    folder: Folder = Path("merged"),
    plan: Annotated[bool, typer.Option("--plan", help="print the plan instead")] = False,
    shard_size: ShardSize = "5GB",
) -> None:
    """Save a point of the front as an ordinary model folder."""
    from evomerge import progress, saving
    from evomerge.run import Run

    saving.size(shard_size, "--shard-size")
    opened = Run(run)
    if plan:
        print(opened.plan(point).model_dump_json(indent=1))
        return
    with progress.stream(err, "writing", str(folder)) as told:
        written = opened.save(point, folder, shard_size=shard_size, told=told)
    out.print(str(written), highlight=False, soft_wrap=True)
