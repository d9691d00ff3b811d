"""What can be said before anything runs: a recipe, the plug-ins there are, a bank."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from evomerge import (
    ancestry,
    checks,
    confirm,
    errors,
    forecast,
    inputs,
    plugins,
    sanity,
    seeds,
    session,
    shelf,
    zoo,
)
from evomerge.answers import Answers
from evomerge.blocks import n_blocks
from evomerge.files import bank as banks
from evomerge.files import plain, sources
from evomerge.files.adapter import Adapter
from evomerge.files.items import Item, constant
from evomerge.files.ledger import Ledger, begun
from evomerge.maths import shingles
from evomerge.plan import Plan
from evomerge.recipe import Problem, dtype_of, named, read, resolve
from evomerge.worker import Worker

SHOWN = 5
"""Pairs of near-duplicates that are named."""


def describe(
    source: str, folder: Path | None = None, *, probe: bool = False, **changes: Any
) -> dict[str, Any]:
    """Check a recipe whole, inputs included, and say what it would do.

    With `probe`, what one candidate takes is measured, and base and experts answer some questions
    of each bank; those that a run in `folder` (by default runs/NAME) has are shown in any case.
    Raises MachineError where it does not fit.
    """
    name = changes.get("name") or read(source)[0].name
    place = folder or Path("runs") / name
    problem = resolve(source, pinned=session.pinned(place), **changes)
    memory, disk = forecast.memory(problem), forecast.disk(problem, place)
    forecast.require(problem, memory, disk)
    found = {**_described(problem, place), "memory (bytes)": memory, "disk (bytes)": disk}
    origins = {name: bank.origin for name, bank in problem.banks.items() if bank.origin}
    found |= {"data sets": origins} if origins else {}
    known = _known(problem, place)
    if probe:
        worker = Worker(problem.setup)
        found["time"] = forecast.probe(problem, worker)
        known = known or forecast.sane(problem, worker)
    for row in (known or {}).values():
        found["notes"] += row.pop("remarks")
    return {**found, "sanity": known or "unknown before base and experts answer (--probe)"}


def _known(problem: Problem, folder: Path) -> dict[str, Any] | None:
    """What base and experts have answered in a run, if all of it is there."""
    if not begun(folder):
        return None
    with closing(Ledger(folder)) as ledger:
        answers, plans = Answers(ledger, problem.setup), confirm.endpoints(problem)
        places = answers.places("search")
        lacking = any(answers.missing(plan.key, places) for plan in plans.values())
        if lacking or session.other_scores(ledger, problem):
            return None
        return sanity.of(answers, plans, places)


def _described(problem: Problem, folder: Path) -> dict[str, Any]:
    recipe, batch = problem.recipe, problem.recipe.batch
    drawn = recipe.fidelity.draws
    allowed = recipe.allow_mismatch
    asked = recipe.fidelity.items
    per_candidate = sum(
        min(n, len(bank.split("search")))
        for bank in problem.banks.values()
        for n in [asked or 0 if drawn else n_blocks(bank, "search", batch, asked) * batch]
    )
    numbers = sum(info.numel for info in problem.base.tensors.values())
    size = sum(info.bytes for info in problem.base.tensors.values())
    return {
        "recipe": recipe.name,
        "base": recipe.base,
        "experts": list(problem.experts),
        "inputs": {
            i.name: f"{i.origin or i.path} sha256 {i.sha256}" for i in problem.inputs.inputs
        },
        "parameters": numbers,
        "megabytes per candidate (reads, write)": [
            round(size * (len(problem.experts) + 1) / 1e6, 1),
            round(size / 1e6, 1),
        ],
        "operators": recipe.operators,
        "genes searched": len(problem.space),
        "groups": list(problem.template.groups),
        "strategy": recipe.strategy.name,
        "objectives": problem.objectives,
        "items per candidate": per_candidate,
        "budget": {k: v for k, v in recipe.budget.model_dump().items() if v is not None},
        "executor": recipe.executor.model_dump(),
        "device": checks.device(recipe),
        "notes": [
            *problem.notes(),
            *ancestry.refuse(problem.inputs.ancestry, allowed),
            *(taken.notes() if (taken := seeds.found(problem, folder)) is not None else ()),
        ],
    }


def catalogue(kind: str | None) -> list[dict[str, str]]:
    """Plug-ins, banks and recipes with a line each; of one kind, or all."""
    found: dict[str, list[tuple[str, str]]] = {
        folder: [(n, _first_line(plugins.load(singular, n))) for n in plugins.known(singular)]
        for singular, folder in plugins.FOLDERS.items()
    }
    for data, key in (("fitness", "banks"), ("recipes", "recipes")):
        files = sorted(banks.shipped(data).glob("*.yaml"))
        found[key] = [(f.stem, plain.read_yaml(f).get("description", "")) for f in files]
    if kind is not None and kind not in found:
        raise errors.RecipeError(errors.unknown("list", "kind", kind, found))
    return [
        {"kind": folder, "name": name, "summary": summary}
        for folder, rows in found.items()
        if kind in (None, folder)
        for name, summary in rows
    ]


def _first_line(module: Any) -> str:
    return (inspect.getdoc(module) or "").split("\n")[0]


def families() -> list[dict[str, Any]]:
    """Families of the zoo, their members, and the folder of those that are built."""
    rows = []
    for family in zoo.families():
        built = sorted((zoo.home() / "zoo").glob(f"{family}-{zoo.recipe_hash(family)[:12]}"))
        rows.append(
            {
                "family": family,
                "members": zoo.members(family),
                "folder": str(built[0]) if built else None,
            }
        )
    return rows


def check_bank(
    file: Path,
    base: str,
    experts: list[str] | None,
    *,
    split: str,
    write: bool,
    told: Callable[[Mapping[str, Any]], None] = lambda found: None,
) -> dict[str, Any]:
    """Validate a bank, score base and experts on it, write its YAML beside a file of items.

    What the items alone say is `told` before any model is opened, or built by the zoo.
    """
    from evomerge import api

    models = {"base": base, **_experts(experts or _siblings(base))}
    bank = shelf.load(file)
    count = Counter(item.split for item in bank.items)
    found = {
        "name": bank.name,
        "origin": bank.origin,
        "items": len(bank.items),
        "splits": {name: count[name] for name in banks.SPLITS},
        "scorer": bank.scorer,
        **look_at(bank.items),
    }
    told(found)
    bank.split(split)
    plans = {name: _plan(base, name, model) for name, model in models.items()}
    scores = []
    for name, plan in plans.items():
        score = api.evaluate(plan, [bank], split=split)[bank.name]
        scores.append({"model": name, "mean": score.mean, "low": score.low, "high": score.high})
    return {**found, **_written(bank, file, write), "scores": scores}


def _plan(base: str, name: str, model: str) -> Plan:
    """The plan that is a model as it is, or an adapter on the base."""
    from evomerge import api

    if not Adapter.is_in(inputs.find(model, Path.cwd())[0]):
        return api.alone(model)
    found = inputs.load(base, {name: model}, Path.cwd())
    dtype = dtype_of(found.base, "")
    return Plan(base=found.inputs[1], dtype=dtype, vocabulary=found.vocabulary)


def _written(bank: banks.Bank, file: Path, write: bool) -> dict[str, str | None]:
    """Write the YAML of a file of items, if there is none; what a recipe can name, and why that
    is not the YAML which is there."""
    target = file.with_suffix(".yaml")
    is_bare = file.suffix in sources.SUFFIXES and not str(file).startswith("zoo:")
    unlike = _unlike(bank, target) if is_bare and target.exists() else None
    written = write and is_bare and not target.exists()
    if written:
        keys = {
            "name": bank.name,
            "version": 1,
            "scorer": {"name": bank.scorer, **bank.options},
            "source": file.name,
        }
        banks.write(target, keys)
    return {
        "written": str(target) if written else None,
        "reference": str(target if is_bare and target.exists() and not unlike else file),
        "unlike": unlike,
    }


def _unlike(bank: banks.Bank, target: Path) -> str | None:
    """Why a YAML is not the bank that was scored; None if it is."""
    try:
        other = shelf.load(target)
    except errors.EvomergeError as error:
        return f"{target}: is there, but can not be used: {error}"
    if (other.scorer, other.options, set(other.items)) == (
        bank.scorer,
        bank.options,
        set(bank.items),
    ):
        return None
    return (
        f"{target}: is there, but is another bank than was scored here (its scorer is "
        f"{other.scorer}): check it by itself with `evomerge bank check {target}`"
    )


def look_at(items: Sequence[Item]) -> dict[str, Any]:
    """What a bank's items tell without a model: near-duplicates across splits, and answers.

    `near_duplicates`: how many, and the most similar; what has one in another split, or among
    the examples, has been seen before it is asked. `answers`: how many different ones, and the
    `share` that giving always the most frequent one would score; of choices, it is their places
    that count.
    """
    asked = [item for item in items if not item.pixels]  # images have no words in common
    named = [(item.id, item.split) for item in asked]
    texts = [" ".join([item.prompt, *item.accepted[:1]]) for item in asked]
    for i, shot in enumerate(items[0].shots):
        named.append((f"example {i + 1}", "examples"))
        texts.append(" ".join(shot))
    pairs = shingles.near_duplicates(texts, [split for _, split in named])
    shown = [
        {
            "items": [named[i][0], named[j][0]],
            "splits": [named[i][1], named[j][1]],
            "similarity": round(similarity, 3),
        }
        for i, j, similarity in pairs[:SHOWN]
    ]
    answers = {item.answer for item in items if item.accepted}
    found = constant(items)
    most = found and {"different": len(answers), "most": found[0], "share": found[1]}
    return {"near_duplicates": {"pairs": len(pairs), "shown": shown}, "answers": most}


def _experts(texts: Sequence[str]) -> dict[str, str]:
    """Folders by the names that are given, else by those of their own.

    Raises RecipeError for a name that stands twice: one of the models would not be scored.
    """
    pairs = [text.split("=", 1) for text in texts if "=" in text]
    pairs += map(list, named(text for text in texts if "=" not in text).items())
    for name, n in Counter(["base", *(name for name, _ in pairs)]).items():
        if n > 1:
            raise errors.RecipeError(f"--expert: '{name}' stands twice; expected name=folder")
    return {name: folder for name, folder in pairs}


def _siblings(base: str) -> list[str]:
    """The experts of a zoo base."""
    if not base.startswith("zoo:"):
        return []
    family = base.removeprefix("zoo:").split("/")[0]
    names = [name for name in zoo.members(family) if "/" not in name and name != "base"]
    return [f"{name}=zoo:{family}/{name}" for name in names]
