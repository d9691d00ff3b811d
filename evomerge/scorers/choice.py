"""Which of several continuations the model finds most likely, as lm-eval scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from evomerge import likelihood, prompts
from evomerge.files.items import Item

NEEDS_CAUSAL = True


@dataclass(frozen=True)
class Batch:
    """One block of I items; `answers` (I,) are the indices of the right choices."""

    asked: likelihood.Batch
    answers: torch.Tensor
    normalize: bool


def check(item: Item) -> None:
    """Raises ValueError for an item that can not be marked."""
    if not item.choices:
        raise ValueError("has no choices")


def chance(items: Sequence[Item]) -> float:
    """The mean score of guessing."""
    return sum(1 / len(item.choices) for item in items) / len(items)


def signals(items: Sequence[Item]) -> tuple[str, ...]:
    """What an objective may name of the answers to these items, beside `score`."""
    return ("plain", "probability")


def prepare(
    tokenizer: Any, items: Sequence[Item], *, normalize: bool = True, chat: bool = False
) -> Batch:
    """Tokenise a block of items; `normalize` divides log-likelihoods by the bytes of a choice.

    With `chat`, the question is put through the model's chat template, and a choice is what the
    assistant says. Raises InputError for an item that is longer than the model reads.
    """
    asked = likelihood.prepare(
        tokenizer,
        [item.id for item in items],
        [prompts.text(tokenizer, item, chat=chat) for item in items],
        [item.choices for item in items],
        chat=chat,
    )
    lengths = asked.prompt_mask.sum(1), asked.tail_mask.sum(2).amax(1)
    for item, before, longest in zip(items, *(n.tolist() for n in lengths), strict=True):
        prompts.check_length(tokenizer, item, before, longest)
    return Batch(asked, torch.tensor([int(item.answer) for item in items]), normalize)


def score(model: Any, batch: Batch) -> dict[str, list[float]]:
    """Per item: `score` and `plain` (0 or 1, with and without normalisation), `margin` and
    `probability` of the right choice.

    Raises EvaluationError, naming the item, where a log-likelihood is not finite.
    """
    found = likelihood.log_likelihoods(model, batch.asked)
    per_byte = found / batch.asked.lengths if batch.normalize else found
    right = batch.answers[:, None]
    wrong = per_byte.scatter(1, right, -torch.inf).amax(1)
    return {
        "score": (per_byte.argmax(1) == batch.answers).double().tolist(),
        "plain": (found.argmax(1) == batch.answers).double().tolist(),
        "margin": (per_byte.gather(1, right)[:, 0] - wrong).tolist(),
        "probability": found.softmax(1).gather(1, right)[:, 0].tolist(),
    }
