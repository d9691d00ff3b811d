"""The commands about one merge: `evomerge merge`, `evomerge export` and `evomerge import`."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from evomerge import errors
from evomerge.console import err, out
from evomerge.options import Json

Folder = Annotated[Path, typer.Option("-o", "--out", help="folder to write")]
ShardSize = Annotated[str, typer.Option(help="most bytes of a weight file: 5GB, 500MB")]
OwnSize = Annotated[str | None, typer.Option(help="most bytes of a weight file (5GB): 500MB")]


def merge(
    source: Annotated[
        str, typer.Argument(help="a plan (JSON) or a recipe", metavar="PLAN|RECIPE")
    ],
    folder: Folder = Path("merged"),
    gene: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="gene value for a recipe: weight=0.3, or each expert's: [0.3,1]"
        ),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16, if not as the plan says")
    ] = None,
    shard_size: ShardSize = "5GB",
) -> None:
    """Build a plan, or a recipe at its defaults, without a search."""
    from evomerge import api, progress, saving

    saving.size(shard_size, "--shard-size")
    values = _assigned(gene or [])
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
            plan, folder, command=_command(), shard_size=shard_size, told=told,
        )  # fmt: skip
    out.print(str(written), highlight=False, soft_wrap=True)


def _assigned(texts: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in map(_assignment, texts):
        if name in found:
            raise errors.RecipeError(f"--set: '{name}' stands twice")
        found[name] = value
    return found


def _assignment(text: str) -> tuple[str, Any]:
    """A gene and its value: a number, a name, or in JSON a list or mapping of each expert's."""
    name, sign, value = text.partition("=")
    if not sign:
        raise errors.RecipeError(f"--set: expected gene=value, got '{text}'")
    try:
        return name, json.loads(value) if value[:1] in ("[", "{") else float(value)
    except json.JSONDecodeError as error:
        raise errors.RecipeError(f"--set: '{value}' is not JSON: {error}") from None
    except ValueError:
        return name, value


def export(
    run: Annotated[Path, typer.Argument(help="run folder, or a plan (JSON)", metavar="RUN|PLAN")],
    point: Annotated[str, typer.Argument(help="best, knee, or a point's label")] = "best",
    folder: Folder = Path("merged"),
    plan: Annotated[bool, typer.Option("--plan", help="print the plan instead")] = False,
    mergekit: Annotated[
        Path | None, typer.Option(help="write a YAML for mergekit instead", metavar="FILE")
    ] = None,
    adapter: Annotated[int | None, typer.Option(help="save a LoRA adapter of this rank")] = None,
    shard_size: OwnSize = None,
) -> None:
    """Save a point of the front as an ordinary model folder, an adapter, or for mergekit."""
    from evomerge import api, progress, saving, tables
    from evomerge.run import Run

    others = {"--plan": plan or None, "--mergekit": mergekit, "--adapter": adapter}
    _one_of({**others, "--shard-size": shard_size})
    shard_size = saving.SHARD if shard_size is None else shard_size
    saving.size(shard_size, "--shard-size")
    opened = None if run.suffix == ".json" else Run(run)
    if opened is None and point != "best":
        raise errors.RecipeError(f"{run}: is a plan, which is one point; leave out '{point}'")
    found = api.read_plan(str(run)) if opened is None else opened.plan(point)
    if plan:
        print(found.model_dump_json(indent=1))
        return
    if mergekit is not None:
        from evomerge.files.writer import atomic_text
        from evomerge.interop.export import to_mergekit

        atomic_text(mergekit, to_mergekit(found))
        out.print(f"mergekit-yaml {mergekit} {folder}", highlight=False, soft_wrap=True)
        return
    with progress.stream(err, "writing", str(folder)) as told:
        options: dict[str, Any] = {"shard_size": shard_size, "told": told, "adapter": adapter}
        if opened is None:
            written = saving.write(found, folder, command=_command(), **options)
        else:
            written = opened.save(point, folder, **options)
    tables.saved(out, written)


def import_(
    file: Annotated[Path, typer.Argument(help="YAML of mergekit or mergekit-evolve")],
    target: Annotated[
        Path | None, typer.Option("-o", "--out", help="plan (.json) or recipe (.yaml) to write")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a plan of mergekit's merge, or a recipe of mergekit-evolve's search."""
    from evomerge.interop import files

    found = files.convert(file, target)
    if as_json:
        row = {"kind": found.kind, "path": str(found.path), "notes": list(found.notes)}
        print(json.dumps(row, indent=1))
        return
    for note in found.notes:
        err.print(note, style="yellow", highlight=False, soft_wrap=True)
    out.print(str(found.path), highlight=False, soft_wrap=True)


def _one_of(options: dict[str, Any]) -> None:
    """Raise RecipeError where more than one option is given."""
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise errors.RecipeError(
            f"{' and '.join(given)} exclude each other: each is for another thing to write"
        )


def _command() -> str:
    return shlex.join(["evomerge", *sys.argv[1:]])
