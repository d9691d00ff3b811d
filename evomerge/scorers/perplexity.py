"""How well the model predicts a text: 2^-b for b bits per byte.

That is the geometric mean of the probabilities that the model gives to the text's bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from evomerge import errors, likelihood, prompts
from evomerge.files.items import Item

NEEDS_CAUSAL = True


def check(item: Item) -> None:
    """Raises ValueError for an item that can not be marked."""
    if item.choices:
        raise ValueError("has choices, where one text was expected")
    if item.shots and not item.accepted:
        raise ValueError("has examples, which a text alone is not shown after")


def signals(items: Sequence[Item]) -> tuple[str, ...]:
    """What an objective may name of the answers to these items, beside `score`."""
    return ()


def prepare(tokenizer: Any, items: Sequence[Item], *, chat: bool = False) -> likelihood.Batch:
    """Tokenise a block of items: an item's text, or its answer where that follows a prompt.

    With `chat`, the prompt is put through the model's chat template, and the answer is what the
    assistant says. Raises InputError for that with an item that has a text alone,
    and for one that is longer than the model reads.
    """
    if chat and not all(item.accepted for item in items):
        raise errors.InputError("the scorer's option 'chat' wants a prompt and an answer")
    batch = likelihood.prepare(
        tokenizer,
        [item.id for item in items],
        [prompts.text(tokenizer, item, chat=chat) if item.accepted else "" for item in items],
        [item.accepted[:1] or (item.prompt,) for item in items],
        chat=chat,
    )
    for i, item in enumerate(items):
        length = int(batch.prompt_mask[i].sum() + batch.tail_mask[i].sum())
        prompts.check_length(tokenizer, item, length - 1)  # the last one is not read
    return batch


def score(model: Any, batch: likelihood.Batch) -> dict[str, list[float]]:
    """Per item: `bits_per_byte` (0 or more, less is better) and `score`, 2 to its negative.

    Raises EvaluationError, naming the item, where a log-likelihood is not finite.
    """
    nats = -likelihood.log_likelihoods(model, batch)[:, 0].double() / batch.lengths[:, 0].double()
    return {"score": nats.neg().exp().tolist(), "bits_per_byte": (nats / math.log(2)).tolist()}
