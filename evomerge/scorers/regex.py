"""Whether what a pattern finds in the greedy continuation of the prompt is the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator
from typing_extensions import Unpack

from evomerge import generation
from evomerge.files.items import Item

check, chance, score = generation.check, generation.chance, generation.score
signals = generation.signals
NEEDS_CAUSAL = True


def _compiles(pattern: str) -> str:
    if not pattern.strip():
        raise ValueError("matches nothing but blanks, which no answer is")
    try:
        re.compile(pattern)
    except re.error as error:
        place = "" if error.pos is None else f" at position {error.pos}"
        raise ValueError(f"is no regular expression: {error.msg}{place}") from None
    return pattern


def prepare(
    tokenizer: Any,
    items: Sequence[Item],
    *,
    pattern: Annotated[str, AfterValidator(_compiles)],
    match: Literal["first", "last"] = "first",
    **options: Unpack[generation.Options],
) -> generation.Batch:
    """Tokenise a block of items.

    `pattern` is a regular expression of Python. What its first group that took part has found is
    compared, without groups all of it; blanks at the ends aside. A text that it does not match
    is wrong. `match`: which of several places counts.
    """
    mark = partial(_found, re.compile(pattern), 0 if match == "first" else -1)
    return generation.prepare(tokenizer, items, mark, options)


def _found(pattern: re.Pattern[str], which: int, text: str, accepted: Sequence[str]) -> bool:
    places = list(pattern.finditer(text))
    if not places:
        return False
    place = places[which]
    groups = [group for group in place.groups() if group is not None]
    found = groups[0] if groups else place[0]
    return any(found.strip() == answer.strip() for answer in accepted)
