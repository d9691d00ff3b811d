"""Whether the last or first number in the greedy continuation of the prompt is the answer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import Unpack

from evomerge import generation
from evomerge.files.items import Item

chance, score, signals = generation.chance, generation.score, generation.signals
NEEDS_CAUSAL = True
LONGEST = 100
"""Characters of a number; a longer row of digits is no answer to anything."""
Tolerance = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=False)]

_WHOLE = r"\d{1,3}(?:[,'\u00a0\u202f]\d{3})+(?!\d)|\d+"
_PLAIN = rf"(?:(?:{_WHOLE})(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{{1,3}}(?!\d))?"
_NUMBER = re.compile(
    # a sign or a digit right after a letter or a digit belongs to a word, such as x-2 or H2O
    rf"(?<![A-Za-z\d])(?P<sign>[-+\u2212]?)[$\u20ac\u00a3\u00a5]?"
    rf"(?:(?P<date>\d+(?:/\d+){{2,}})|(?:(?P<whole>\d+)[ ])?(?P<over>\d+)/(?P<under>\d+)"
    rf"|(?P<plain>{_PLAIN}))"
)


def check(item: Item) -> None:
    """Raises ValueError for an item whose answer is no number."""
    generation.check(item, stop=())  # the same number may be written without
    for answer in item.accepted:
        place = _NUMBER.fullmatch(answer.strip())
        if place is None or place["date"] or _value(place) is None:
            raise ValueError(f"answer: expected a number, got '{answer}'")


def prepare(
    tokenizer: Any,
    items: Sequence[Item],
    *,
    match: Literal["first", "last"] = "last",
    absolute: Tolerance = 0.0,
    relative: Tolerance = 0.0,
    **options: Unpack[generation.Options],
) -> generation.Batch:
    """Tokenise a block of items; right is a number at most max(absolute, relative x |answer|) off.

    Numbers have a point before their decimals and commas, apostrophes or narrow spaces between
    groups of three digits; other commas stand between numbers. `3/4` and `1 1/2` are fractions,
    compared exactly, `3/4/2020` is none; `$5` is 5, `5 %` is 5, `2e3` is 2000.
    """
    # as they are written: 0.1 is not the double that is nearest to it
    mark = partial(_near, match, Fraction(str(absolute)), Fraction(str(relative)))
    return generation.prepare(tokenizer, items, mark, options)


def _near(
    match: str, absolute: Fraction, relative: Fraction, text: str, accepted: Sequence[str]
) -> bool:
    found = list(numbers(text))
    number = found[0 if match == "first" else -1] if found else None
    wanted = [value for answer in accepted for value in numbers(answer)]
    return number is not None and any(
        value is not None and abs(number - value) <= max(absolute, relative * abs(value))
        for value in wanted
    )


def numbers(text: str) -> Iterator[Fraction | None]:
    """The numbers of a text in their order, exactly; None for x/0 and for what is too long."""
    yield from (_value(place) for place in _NUMBER.finditer(text) if not place["date"])


def _value(place: re.Match[str]) -> Fraction | None:
    if len(place[0]) > LONGEST:
        return None
    sign = -1 if place["sign"] in ("-", "\u2212") else 1
    if place["plain"]:
        return sign * Fraction(re.sub("[,'\u00a0\u202f]", "", place["plain"]))
    if not int(place["under"]):
        return None
    return sign * (int(place["whole"] or 0) + Fraction(int(place["over"]), int(place["under"])))
