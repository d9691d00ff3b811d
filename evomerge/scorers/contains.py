"""Whether the greedy continuation of the prompt has an accepted answer in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from typing_extensions import Unpack

from evomerge import generation
from evomerge.files.items import Item

chance, score, signals = generation.chance, generation.score, generation.signals
NEEDS_CAUSAL = True


def check(
    item: Item,
    *,
    ignore_case: bool = False,
    ignore_space: bool = False,
    stop: Sequence[str] = generation.DEFAULTS["stop"],
) -> None:
    """Raises ValueError for an item whose answer is in no text."""
    generation.check(item, stop=() if ignore_case or ignore_space else stop)


def prepare(
    tokenizer: Any,
    items: Sequence[Item],
    *,
    ignore_case: bool = False,
    ignore_space: bool = False,
    whole_words: bool = False,
    **options: Unpack[generation.Options],
) -> generation.Batch:
    """Tokenise a block of items; blanks at the ends of an answer are not looked for.

    `ignore_space`: any run of blanks is as good as another. `whole_words`: the answer does not
    stand inside a longer word; points and commas end words, so 5 is found in 12.5, and `numeric`
    is for numbers.
    """
    mark = partial(_has, case=ignore_case, space=ignore_space, inside=not whole_words)
    return generation.prepare(tokenizer, items, mark, options)


def _has(text: str, accepted: Sequence[str], *, case: bool, space: bool, inside: bool) -> bool:
    flags = re.IGNORECASE if case else 0
    return any(re.search(_pattern(answer, space, inside), text, flags) for answer in accepted)


def _pattern(answer: str, space: bool, inside: bool) -> str:
    words = answer.split() if space else [answer.strip()]
    pattern = r"\s+".join(map(re.escape, words))
    return pattern if inside else rf"(?<!\w){pattern}(?!\w)"
