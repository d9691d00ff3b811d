"""The command line: search, status, front, between, report, calibrate, export, rebuild, merge,
compare, import, evaluate, plan, doctor, list, bank, zoo.

Exit codes: 0 done, 2 usage or recipe, 3 inputs unusable, 4 environment, 5 ended unconfirmed,
6 too many failures, 75 interrupted and resumable.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.text import Text

from evomerge import calibrating, choosing, comparing, errors, examining, merging, shelves
from evomerge.budget import endings
from evomerge.console import Table, err, out
from evomerge.options import Json, RunFolder

app = typer.Typer(
    help="Search for the best way to merge fine-tuned language models.",
    no_args_is_help=True, pretty_exceptions_enable=False,
)  # fmt: skip
app.add_typer(shelves.bank_app, name="bank", no_args_is_help=True)
app.add_typer(shelves.zoo_app, name="zoo", no_args_is_help=True)
CTRL_C = 130
"""What typer makes of a KeyboardInterrupt."""


RecipeFile = Annotated[str, typer.Argument(help="recipe file, or the name of a shipped one")]


def main() -> None:
    """Run the command line; every expected error is one message and an exit code."""
    # Set before numpy loads: threads fighting for busy cores made an eigendecomposition of
    # cma_es 30 times slower.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if not sys.warnoptions:  # a library's advice to programmers is none to a user
        warnings.simplefilter("ignore")
    for number in endings():
        signal.signal(number, _terminated)
    try:
        app(prog_name="evomerge")
    except errors.EvomergeError as error:
        _stop(str(error), error.exit_code)
    except SystemExit as leaving:
        if leaving.code != CTRL_C:
            raise
        err.print("interrupted: run the same command again to go on")
        sys.exit(errors.INTERRUPTED)
    except Exception as error:
        if os.environ.get("EVOMERGE_TRACEBACK"):
            raise
        advice = "this should not happen; EVOMERGE_TRACEBACK=1 shows where it did"
        _stop(f"{type(error).__name__}: {error} ({advice})", 1)


def _stop(message: str, code: int) -> NoReturn:
    text = Text.assemble(("error:", "red"), f" {errors.public(message)}")
    err.print(text, highlight=False, soft_wrap=True)
    sys.exit(code)


def _terminated(number: int, frame: Any) -> None:
    """Before and after a search, which has its own way to stop, these are like Ctrl-C."""
    raise KeyboardInterrupt


@app.command()
def search(
    recipe: RecipeFile,
    folder: Annotated[Path | None, typer.Option("-o", "--out", help="run folder")] = None,
    amount: Annotated[
        str | None,
        typer.Option("--budget", help="8h, 500 (candidates) or 200k-items, not the recipe's"),
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="end by 07:00, local time, front confirmed")
    ] = None,
    candidates: Annotated[int | None, typer.Option(help="another budget of candidates")] = None,
    seconds: Annotated[float | None, typer.Option(help="another budget of seconds")] = None,
    seed: Annotated[int | None, typer.Option(help="another seed")] = None,
    executor: Annotated[str | None, typer.Option(help="inline or ray")] = None,
    workers: Annotated[int | None, typer.Option(help="workers of the executor")] = None,
    allow_change: Annotated[
        bool,
        typer.Option("--allow-change", help="go on with other inputs or libraries, and record it"),
    ] = False,
    as_json: Json = False,
) -> None:
    """Search as a recipe says; started again, go on, or extend to a larger budget."""
    from evomerge import api, progress, tables

    changes: dict[str, Any] = {} if seed is None else {"seed": seed}
    changes |= _budget(recipe, amount, until, {"candidates": candidates, "seconds": seconds})
    changes |= _executor(recipe, executor, workers)
    with progress.Shown(err) as shown:
        run = api.search(recipe, folder, report=shown, allow_change=allow_change, **changes)
    if as_json:
        print(run.to_json())
    else:
        tables.show(out, run, reports=True)
    run.report()


def _budget(
    recipe: str, amount: str | None, until: str | None, others: dict[str, float | None]
) -> dict[str, Any]:
    """The recipe's budget with single keys changed, or with an amount or an hour in its place."""
    from evomerge import budget
    from evomerge.recipe import read

    given = {key: value for key, value in others.items() if value is not None}
    if amount is None and until is None:
        known = read(recipe)[0].budget.model_dump()
        return {"budget": {**known, **given}} if given else {}
    found = {} if amount is None else budget.parse(amount)
    for key in found.keys() & given.keys():
        raise errors.RecipeError(f"--budget {amount} and --{key} {given[key]:g}: give one of them")
    return {"budget": {**found, **given, "until": until}}


def _executor(recipe: str, name: str | None, workers: int | None) -> dict[str, Any]:
    from evomerge.recipe import read

    if name is None and workers is None:
        return {}
    known = read(recipe)[0].executor
    options = known.model_dump() if name in (None, known.name) else {"name": name}
    return {"executor": options | ({} if workers is None else {"workers": workers})}


@app.command()
def report(run: RunFolder) -> None:
    """Write the run's report, one HTML file."""
    from evomerge.run import Run

    out.print(str(Run(run).report()), highlight=False, soft_wrap=True)


app.command()(choosing.front)
app.command()(choosing.between)
app.command()(merging.export)
app.command()(merging.merge)
app.command("import")(merging.import_)
app.command()(comparing.compare)
app.command()(calibrating.calibrate)
app.command()(examining.status)
app.command()(examining.doctor)
app.command()(examining.rebuild)


@app.command()
def evaluate(
    model: Annotated[
        str,
        typer.Argument(help="model folder, zoo:family/member, a plan (JSON); with --front a run"),
    ],
    bank: Annotated[list[str], typer.Option("--bank", "-b", help="bank name or file; repeat")],
    split: Annotated[str, typer.Option(help="search, validation or test")] = "test",
    front: Annotated[
        bool, typer.Option("--front", help="MODEL is a run: its front and its baselines")
    ] = False,
    as_json: Json = False,
) -> None:
    """Score one model on banks, or with --front all that a run has confirmed."""
    from evomerge import api

    if front:
        choosing.across(out, Path(model), bank, split, as_json)
        return
    what = api.read_plan(model) if model.endswith(".json") else model
    found = api.evaluate(what, bank, split=split)
    if as_json:
        print(json.dumps({name: score.plain() for name, score in found.items()}, indent=1))
        return
    table = Table("bank", "items", "score", "95 % interval", title=f"{model} on {split}")
    for score in found.values():
        interval = f"{score.low:.3f} to {score.high:.3f}"
        table.add_row(score.bank, str(len(score.scores)), f"{score.mean:.3f}", interval)
    out.print(table)


@app.command()
def plan(
    recipe: RecipeFile,
    folder: Annotated[Path | None, typer.Option("-o", "--out", help="as in search")] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="measure one candidate, ask base and experts a little")
    ] = False,
    amount: Annotated[str | None, typer.Option("--budget", help="as in search")] = None,
    until: Annotated[str | None, typer.Option(help="as in search")] = None,
    as_json: Json = False,
) -> None:
    """Check a recipe and print what it would do and need; exit code 4 if it does not fit."""
    from evomerge import preview, tables

    found = preview.describe(recipe, folder, probe=probe, **_budget(recipe, amount, until, {}))
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        tables.facts(out, found)


@app.command("list")
def list_(
    kind: Annotated[
        str | None,
        typer.Argument(help="operators, strategies, scorers, executors, banks, recipes"),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the plug-ins, banks and recipes that are here."""
    from evomerge import preview

    rows = preview.catalogue(kind)
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    table = Table("kind", "name", "what it is")
    for row in rows:
        table.add_row(row["kind"], row["name"], row["summary"])
    out.print(table)


def version(value: bool) -> None:
    if value:
        from evomerge import __version__

        print(f"evomerge {__version__}")
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Search for the best way to merge fine-tuned language models."""
