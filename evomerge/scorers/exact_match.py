"""Whether the greedy continuation of the prompt, up to a stop string, is the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typing_extensions import Unpack

from evomerge import errors, generation, prompts
from evomerge.files.items import Item

check, chance, score = generation.check, generation.chance, generation.score
signals = generation.signals
NEEDS_CAUSAL = True


def prepare(
    tokenizer: Any, items: Sequence[Item], **options: Unpack[generation.Options]
) -> generation.Batch:
    """Tokenise a block of items; right is a text equal to an accepted answer, blanks at the ends
    aside.

    Raises InputError for an item of which each accepted answer takes more tokens than a text has.
    """
    most = options.get("max_new_tokens", generation.DEFAULTS["max_new_tokens"])
    for item in items:
        fewest = min(_length(tokenizer, answer.strip(), most) for answer in item.accepted)
        if fewest > most:
            raise errors.InputError(
                f"{item.named}: answer: takes {fewest} tokens, a text has at most {most}: raise "
                "the scorer's option 'max_new_tokens'"
            )
    return generation.prepare(tokenizer, items, _equal, options)


def _length(tokenizer: Any, answer: str, most: int) -> int:
    """Tokens of an answer, or `most` where it may be that few.

    A token has a byte at least. The first may begin before the answer, and be longer for that;
    U+FFFD is what bytes are read as that are no character, one or several.
    """
    if len(answer.encode()) <= most or "\ufffd" in answer:
        return most
    n = min(len(prompts.tokens(tokenizer, f"{a}{answer}", chat=True)) for a in ("", " "))
    return n if n > most + 1 else most


def _equal(text: str, accepted: Sequence[str]) -> bool:
    return any(text == answer.strip() for answer in accepted)
