"""The commands `evomerge status`, `evomerge doctor` and `evomerge rebuild`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from evomerge import errors
from evomerge.console import out
from evomerge.options import Json, RunFolder


def status(
    run: RunFolder,
    watch: Annotated[bool, typer.Option("--watch", help="look again until it ends")] = False,
    as_json: Json = False,
) -> None:
    """Say how far a run is, from another shell too, while it works."""
    from evomerge.status import show

    show(out, run, watch=watch, as_json=as_json)


def rebuild(
    run: RunFolder,
    point: Annotated[str, typer.Argument(help="best, knee, or a point's label")] = "best",
    against: Annotated[
        Path | None, typer.Option(help="a model folder that has to have the same weights")
    ] = None,
    as_json: Json = False,
) -> None:
    """Build a point twice, with other tiles and threads, and compare the bits."""
    from evomerge import rebuilding, tables
    from evomerge.run import Run

    found = rebuilding.rebuild(Run(run).plan(point), against)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        tables.facts(out, found)


def doctor(
    ray: Annotated[bool, typer.Option(help="start a local Ray cluster and end it")] = True,
    as_json: Json = False,
) -> None:
    """Say what a bug report needs: versions, devices, memory, space, whether Ray starts."""
    from evomerge import tables
    from evomerge.doctor import examine

    found = examine(Path("runs"), ray=ray)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        tables.facts(out, found)
    if found["problems"]:
        raise errors.MachineError("; ".join(found["problems"]))
