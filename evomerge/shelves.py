"""The commands about what a search takes in: `evomerge bank` and `evomerge zoo`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from evomerge.console import Table, count, out
from evomerge.options import Json

bank_app = typer.Typer(help="Item banks: check your own questions and answers.")
zoo_app = typer.Typer(help="Small real model families that build themselves.")


@bank_app.command("check")
def bank_check(
    file: Annotated[
        Path, typer.Argument(help="items: JSON lines, CSV or Parquet, or a bank's YAML")
    ],
    base: Annotated[str, typer.Option(help="model to score it with")] = "zoo:tiny/base",
    expert: Annotated[
        list[str] | None, typer.Option(help="further models, name=folder; repeat")
    ] = None,
    split: Annotated[str, typer.Option(help="split to score")] = "search",
    write: Annotated[bool, typer.Option(help="write the bank's YAML beside the items")] = True,
    as_json: Json = False,
) -> None:
    """Validate questions and answers, write the bank, print what base and experts score on it."""
    from evomerge import preview
    from evomerge.files import bank as banks

    told = (lambda found: None) if as_json else _tell
    found = preview.check_bank(file, base, expert, split=split, write=write, told=told)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    table = Table("model", "score", "95 % interval", title=f"on {split}")
    for row in found["scores"]:
        interval = f"{row['low']:.3f} to {row['high']:.3f}"
        table.add_row(row["model"], f"{row['mean']:.3f}", interval)
    out.print(table)
    if found["written"]:
        out.print(f"written: {found['written']}", highlight=False, soft_wrap=True)
    if found["unlike"]:
        out.print(found["unlike"], highlight=False, soft_wrap=True)
    recipe = banks.as_yaml({"objectives": {found["name"]: found["reference"]}}).strip()
    out.print(f"in a recipe:  {recipe}", highlight=False, soft_wrap=True)


def _tell(found: Mapping[str, Any]) -> None:
    """What the items alone say: their splits, a constant answer, near-duplicates across splits."""
    counts = ", ".join(f"{name} {n}" for name, n in found["splits"].items())
    items = count(found["items"], "item")
    out.print(f"{found['name']}: {items} ({counts}), scorer {found['scorer']}")
    if found["origin"]:
        out.print(f"read from: {found['origin']}", highlight=False, soft_wrap=True)
    empty = [name for name, n in found["splits"].items() if not n]
    if empty:
        out.print(f"a search needs all three splits, and {' and '.join(empty)} has no item")
    if answers := found["answers"]:
        kinds = count(answers["different"], "different answer")
        constant = f"the most frequent, {json.dumps(answers['most'], ensure_ascii=False)}"
        out.print(f"{kinds}; {constant}, is right in {answers['share']:.0%}")
    twins = found["near_duplicates"]
    if twins["pairs"]:
        pairs = count(twins["pairs"], "pair")
        out.print(f"nearly equal items in two splits: {pairs} (similarity from 0 to 1), such as")
    for pair in twins["shown"]:
        named = zip(pair["items"], pair["splits"], strict=True)
        both = " and ".join(f"{name} ({split})" for name, split in named)
        out.print(f"  {pair['similarity']:.2f}  {both}", soft_wrap=True)


@bank_app.command("cache")
def bank_cache(
    file: Annotated[
        Path, typer.Argument(help="prompts: JSON lines, CSV or Parquet, or a bank's YAML")
    ],
    expert: Annotated[str, typer.Option(help="the model whose answers are kept")],
    output: Annotated[Path, typer.Option("-o", "--output", help="the bank's YAML")],
    tokens: Annotated[int, typer.Option(help="how far it goes on; 0: not at all")] = 32,
    top: Annotated[int, typer.Option(help="likeliest tokens that are kept a place")] = 32,
    chat: Annotated[bool, typer.Option("--chat", help="through its chat template")] = False,
    as_json: Json = False,
) -> None:
    """Keep what an expert answers to prompts, as a bank without right answers (scorer kl_to)."""
    from evomerge import caching

    made = caching.cache(file, expert, output, tokens=tokens, top=top, chat=chat)
    if as_json:
        print(json.dumps(made, indent=1))
        return
    sizes = f"{made['items']} items, {made['places']} tokens, {made['bytes']:,} bytes"
    out.print(f"{made['bank']}: {sizes}", highlight=False, soft_wrap=True)


@zoo_app.command("build")
def zoo_build(
    family: Annotated[str, typer.Argument(help="name of a family")] = "tiny",
) -> None:
    """Build a family, or do nothing if it is there."""
    from evomerge import zoo

    out.print(str(zoo.path(f"zoo:{family}")), highlight=False, soft_wrap=True)


@zoo_app.command("list")
def zoo_list(as_json: Json = False) -> None:
    """List families and whether they are built."""
    from evomerge import preview

    rows = preview.families()
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    table = Table("family", "members", "built in")
    for row in rows:
        table.add_row(row["family"], ", ".join(row["members"]), row["folder"] or "not built")
    out.print(table)
