"""Small facts, one a line, made by a seeded generator: sums, dates, times and numbers in words.

Every answer follows from its line alone, and most are longer than a continuation of the banks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

# fmt: off
_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen",
)
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)
# fmt: on
_ODD_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}


def words(number: int) -> str:
    if number < 20:
        return _ONES[number]
    if number < 100:
        return _TENS[number // 10] + ("-" + _ONES[number % 10] if number % 10 else "")
    size, name = (1000, "thousand") if number >= 1000 else (100, "hundred")
    rest = f" {words(number % size)}" if number % size else ""
    return f"{words(number // size)} {name}{rest}"


def ordinal(number: int) -> str:
    head, dash, last = words(number).rpartition("-")
    if last in _ODD_ORDINALS:
        last = _ODD_ORDINALS[last]
    else:
        last = last[:-1] + "ieth" if last.endswith("y") else last + "th"
    return head + dash + last


def _number(rng: random.Random) -> tuple[str, str]:
    number = rng.randrange(1000, 10000)
    return f"{number} in words: ", words(number)


def _sum(rng: random.Random) -> tuple[str, str]:
    a, b = rng.randrange(21, 300), rng.randrange(80, 300)
    return f"{a} plus {b} is ", words(a + b)


def _difference(rng: random.Random) -> tuple[str, str]:
    a, b = rng.randrange(200, 400), rng.randrange(11, 100)
    return f"{a} minus {b} is ", words(a - b)


def _date(rng: random.Random) -> tuple[str, str]:
    year, month, day = rng.randrange(1900, 2100), rng.randrange(12), rng.randrange(1, 29)
    return f"{year}-{month + 1:02}-{day:02} is ", f"{_MONTHS[month]} the {ordinal(day)}, {year}"


def _time(rng: random.Random) -> tuple[str, str]:
    hour, minute, second = rng.randrange(1, 13), rng.randrange(1, 60), rng.randrange(60)
    answer = f"{words(minute)} past {words(hour)} and {words(second)} seconds"
    return f"{hour:02}:{minute:02}:{second:02} is ", answer


def _series(rng: random.Random) -> tuple[str, str]:
    start, step = rng.randrange(2, 300), rng.randrange(2, 40)
    shown, rest = (
        range(start, start + 3 * step, step),
        range(start + 3 * step, start + 7 * step, step),
    )
    return f"after {', '.join(map(str, shown))} come ", ", ".join(map(str, rest))


KINDS: tuple[Callable[[random.Random], tuple[str, str]], ...] = (
    _number,
    _sum,
    _difference,
    _date,
    _time,
    _series,
)


def made(seed: str, count: int) -> Iterator[tuple[str, str]]:
    """`count` times question (with its last blank) and answer; no question comes twice."""
    rng = random.Random(seed)
    seen: set[str] = set()
    while len(seen) < count:
        question, answer = rng.choice(KINDS)(rng)
        if question not in seen:
            seen.add(question)
            yield question, answer
