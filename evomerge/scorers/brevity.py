"""How short the greedy continuation of the prompt is: fewer tokens score more.

An item scores 1 - n / N for a text of n of at most N tokens, and 0 for one that is degenerate:
blank, or endless repetition. It is no skill: without one beside it, the best merge says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from typing_extensions import Unpack

from evomerge import errors, generation, plugins
from evomerge.files.bank import Bank
from evomerge.files.items import Item

SIGNAL = "length"
"""The signal of an objective that has any bank of generated texts scored so."""

SKILL = False
NEEDS_CAUSAL = True


def of(bank: Bank) -> Bank:
    """A bank of texts that are generated as its own scorer has them, scored by their length.

    Raises RecipeError for one whose scorer generates none.
    """
    if plugins.load("scorer", bank.scorer).score is not generation.score:
        raise errors.RecipeError(
            f"signal: '{SIGNAL}' is of generated texts, and bank '{bank.name}' is scored by "
            f"'{bank.scorer}'"
        )
    known = generation.Options.__annotations__
    options = {key: value for key, value in bank.options.items() if key in known}
    sha256 = f"{bank.sha256}:{SIGNAL}"  # another score of the same items is another bank
    return replace(bank, scorer="brevity", options=options, sha256=sha256)


def signals(items: Sequence[Item]) -> tuple[str, ...]:
    """What an objective may name of the answers to these items, beside `score`."""
    return ()


def prepare(
    tokenizer: Any, items: Sequence[Item], **options: Unpack[generation.Options]
) -> generation.Batch:
    """Tokenise a block of items; whether a text is right is not asked."""
    return generation.prepare(tokenizer, items, lambda text, accepted: True, options)


def score(model: Any, batch: generation.Batch) -> dict[str, list[float]]:
    found = generation.score(model, batch)
    broken = found[generation.DEGENERATE]
    scores = [
        (1 - length / batch.max_new_tokens) * (1 - is_broken)
        for length, is_broken in zip(found["length"], broken, strict=True)
    ]
    return {"score": scores, generation.DEGENERATE: broken}
