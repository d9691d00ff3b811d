"""A bank without right answers: what an expert says, kept for the scorer kl_to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from evomerge import api, errors, generation, modules, prompts, shelf, zoo
from evomerge.files import bank as banks
from evomerge.files import cached, items, plain, sources
from evomerge.files.items import Item
from evomerge.scorers import kl_to
from evomerge.threads import one_thread

BATCH = 25


def cache(
    file: Path,
    expert: str,
    target: Path,
    *,
    tokens: int = 32,
    top: int = 32,
    chat: bool = False,
) -> dict[str, Any]:
    """Have an expert answer prompts, and write the bank `target` (.yaml) with its answers beside.

    The prompts are those of a bank, or of a file of items, whose answers are not looked at. The
    expert goes on for up to `tokens` tokens, and what it expected at each of them is kept: its
    `top` likeliest tokens and the rest. `tokens=0`: at each token of the prompts, which are texts
    then. Returns numbers of items and places, and bytes. Raises InputError for a prompt
    that can not be asked.
    """
    if tokens < 0 or top < 1:
        raise errors.RecipeError("expected tokens of at least 0, and top of at least 1")
    place = target.with_suffix(".safetensors")
    _check_target(target, place, file)
    kept = _cached(expert, _prompts(file), tokens, top, chat)
    cached.write(place, kept)
    keys = {
        "name": target.stem,
        "version": 1,
        "scorer": {"name": "kl_to", "cache": place.name},
        "description": f"What {expert} expects after {file.name}.",
    }
    banks.write(target, keys)
    places = sum(len(answer.top) for answer in kept.answers.values())
    size = place.stat().st_size
    return {"bank": str(target), "items": len(kept.items), "places": places, "bytes": size}


def _check_target(target: Path, place: Path, file: Path) -> None:
    """Before the expert is asked: what is there and no cache of answers, nothing brings back."""
    if target.suffix not in plain.YAML:
        raise errors.RecipeError(f"{target}: expected a name that ends with .yaml")
    if target.resolve() == file.resolve():
        raise errors.RecipeError(f"{target}: is the bank of the prompts; choose another name")
    there = next((path for path in (place, target) if path.exists()), None)
    if there is not None and not cached.is_one(place):
        raise errors.RecipeError(f"{there}: is there and holds no answers; choose another name")
    if not target.parent.is_dir():
        raise errors.RecipeError(f"{target}: there is no folder {target.parent}; make it first")


def _prompts(file: Path) -> Sequence[Item]:
    if str(file).startswith("zoo:"):
        zoo.check(str(file), "bank")
        file = zoo.path(str(file))
    bare = file.suffix in sources.SUFFIXES
    asked = items.read_file(file, unanswered=True) if bare else shelf.load(str(file)).items
    for item in asked:
        if item.pixels:
            where = banks.where(file, item)
            raise errors.InputError(f"{where}: is an image, which no text follows")
    return asked


def _cached(
    expert: str, asked: Sequence[Item], tokens: int, top: int, chat: bool
) -> cached.Cached:
    plan = api.alone(expert)
    worker = api.worker_for(plan, {})
    if worker.tokenizer is None:
        raise errors.InputError(f"{expert}: has no tokenizer")
    modules.check_causal(worker.model, f"{expert}: a cache of answers")
    answers: dict[str, cached.Answer] = {}
    with one_thread():
        worker.live.build(plan)
        for i in range(0, len(asked), BATCH):
            block = asked[i : i + BATCH]
            found = _answers(worker.model, worker.tokenizer, block, tokens, top, chat)
            answers.update(zip((item.id for item in block), found, strict=True))
    bare = tuple(Item(item.id, item.prompt, (), "", item.split) for item in asked)
    made = cached.Cached(bare, answers, plan.key, "")
    return replace(made, vocabulary=cached.vocabulary(worker.tokenizer, made.used))


def _answers(
    model: Any, tokenizer: Any, block: Sequence[Item], tokens: int, top: int, chat: bool
) -> Iterator[cached.Answer]:
    texts = [prompts.text(tokenizer, item, chat=chat) for item in block]
    given = [prompts.tokens(tokenizer, text, chat=chat) for text in texts]
    if tokens:
        begun = [row or prompts.start(tokenizer) for row in given]
        options: generation.Options = {"max_new_tokens": tokens, "stop": (), "chat": chat}
        batch = generation.prepare(tokenizer, block, lambda text, accepted: True, options)
        made = generation.tokens(model, batch)
        rows = [(row + new, len(new)) for row, new in zip(begun, made, strict=True)]
    else:
        first = prompts.start(tokenizer)
        whole = [row if row[:1] == first else first + row for row in given]
        rows = [(row, len(row) - 1) for row in whole]
    for item, (row, places) in zip(block, rows, strict=True):
        prompts.check_length(tokenizer, item, len(row))
        if not places:
            raise errors.InputError(f"{item.named}: has no token to be expected")
    logits = kl_to.expected(model, rows, prompts.padding(tokenizer))
    for item, (row, _), found in zip(block, rows, logits, strict=True):
        if not found.isfinite().all():
            raise errors.EvaluationError(f"logits of item {item.id} are not finite")
        likeliest = found.topk(min(top, found.shape[1]), 1).indices
        yield cached.Answer(
            torch.tensor(row), likeliest.cpu(), kl_to.merged(found, likeliest).cpu()
        )
