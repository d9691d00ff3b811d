"""Whether the greedy continuation of the prompt, up to a stop string, is the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typing_extensions import Unpack

from evomerge import generation
from evomerge.files.items import Item

check, chance, score = generation.check, generation.chance, generation.score


def prepare(
    tokenizer: Any, items: Sequence[Item], **options: Unpack[generation.Options]
) -> generation.Batch:
    """Tokenise a block of items; right is a text equal to an accepted answer, blanks at the ends
    aside."""
    return generation.prepare(tokenizer, items, _equal, options)


def _equal(text: str, accepted: Sequence[str]) -> bool:
    return any(text == answer.strip() for answer in accepted)
