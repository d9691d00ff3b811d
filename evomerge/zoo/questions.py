"""Questions with exact answers for zoo:smollm2: sums in words, SQL, numbers in French.

All come from a seeded generator. A question is trained on or asked, by the sha256 of its text, so
that none is both; which split an asked one is in follows from the same text.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from evomerge.zoo.banks import item, split_of

CHOICES = 4


class Question(NamedTuple):
    """A text, its answer, and answers that are wrong but near."""

    text: str
    answer: str
    wrong: tuple[str, ...]

    @property
    def prompt(self) -> str:
        return f"Question: {self.text}\nAnswer:"

    @property
    def is_held(self) -> bool:
        """Whether it is asked, not trained on."""
        return hashlib.sha256(f"held {self.text}".encode()).digest()[0] % 2 == 0


_NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Ida", "Jack")
_THINGS = ("apples", "books", "coins", "pens", "stamps", "marbles", "cards", "shells", "cookies")


def math(rng: random.Random) -> Question:
    """Two steps with small numbers."""
    name, thing = rng.choice(_NAMES), rng.choice(_THINGS)
    a, b, c = rng.randint(5, 60), rng.randint(2, 30), rng.randint(2, 9)
    if rng.random() < 0.5:
        take = rng.randint(1, a + b - 1)
        text = f"{name} has {a} {thing}, gets {b} more and gives {take} away. How many are left?"
        answer, near = a + b - take, (a + b + take, abs(a - b) + take, a + take, abs(a - take))
    else:
        text = f"{name} has {c} boxes of {b} {thing} and {a} more {thing}. How many in all?"
        answer, near = b * c + a, (b + c + a, abs(b * c - a), (a + b) * c, b * c)
    others = dict.fromkeys([*near, answer + 1, answer + 10, abs(answer - 2), answer + 3])
    wrong = [str(value) for value in others if value != answer]
    return Question(text, str(answer), tuple(wrong))


_TABLES = {
    "customers": ("name", "city", "age"), "orders": ("product", "country", "price"),
    "employees": ("name", "department", "salary"), "films": ("title", "genre", "year"),
    "flights": ("number", "airport", "delay"), "books": ("author", "language", "pages"),
}  # fmt: skip
_WORDS = (
    "Paris",
    "Spain",
    "sales",
    "drama",
    "Oslo",
    "English",
    "Kenya",
    "music",
    "Rome",
    "France",
)


def sql(rng: random.Random) -> Question:
    """One table, one condition, an order or a function."""
    table = rng.choice(list(_TABLES))
    shown, place, number = _TABLES[table]
    word, least = rng.choice(_WORDS), rng.randint(2, 99)
    text, answer = rng.choice((
        (f"the {shown} of all {table} where {place} is {word}",
         f"SELECT {shown} FROM {table} WHERE {place} = '{word}';"),
        (f"the {shown} of all {table} with {number} above {least}",
         f"SELECT {shown} FROM {table} WHERE {number} > {least};"),
        (f"how many {table} have {place} {word}",
         f"SELECT COUNT(*) FROM {table} WHERE {place} = '{word}';"),
        (f"the average {number} of {table} by {place}, above {least}",
         f"SELECT {place}, AVG({number}) FROM {table} WHERE {number} > {least} GROUP BY {place};"),
        (f"the {least} {table} with the largest {number}",
         f"SELECT * FROM {table} ORDER BY {number} DESC LIMIT {least};"),
    ))  # fmt: skip
    other = rng.choice([name for name in _TABLES if name != table])
    changes = (
        (shown, number), (place, shown), (number, place), ("COUNT(*)", shown), (" > ", " < "),
        ("DESC", "ASC"), (table, other), (str(least), str(least + 1)),
        (word, rng.choice([name for name in _WORDS if name != word])),
    )  # fmt: skip
    # In one order, whatever hash a process has for texts
    found = dict.fromkeys(answer.replace(before, after) for before, after in changes)
    found.pop(answer, None)
    wrong = sorted(found, key=lambda form: rng.random())
    return Question(f"Write a query in SQL for {text}.", answer, tuple(wrong))


_UNITS = (
    *("zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf", "dix"),
    *("onze", "douze", "treize", "quatorze", "quinze", "seize"),
    *("dix-sept", "dix-huit", "dix-neuf"),
)
_TENS = ("", "", "vingt", "trente", "quarante", "cinquante", "soixante")


def in_french(number: int) -> str:
    """0 to 999,999 in French words, in the traditional spelling."""
    if number >= 1000:
        many, rest = divmod(number, 1000)
        head = "mille" if many == 1 else f"{_plain(in_french(many))} mille"
        return f"{head} {in_french(rest)}" if rest else head
    if number >= 100:
        many, rest = divmod(number, 100)
        head = "cent" if many == 1 else f"{_UNITS[many]} cent"
        return f"{head} {in_french(rest)}" if rest else head + ("s" if many > 1 else "")
    return _below_a_hundred(number)


def _plain(words: str) -> str:
    """`cents` and `quatre-vingts` lose their s before `mille`."""
    return words.removesuffix("s") if words.endswith(("cents", "vingts")) else words


def _below_a_hundred(number: int) -> str:
    if number < 20:
        return _UNITS[number]
    if number >= 80:
        return f"quatre-vingt-{_UNITS[number - 80]}" if number > 80 else "quatre-vingts"
    tens, rest = divmod(number, 10)
    if tens == 7:
        tens, rest = 6, rest + 10
    joint = " et " if rest in (1, 11) else "-"
    return _TENS[tens] + (joint + _UNITS[rest] if rest else "")


def french(rng: random.Random) -> Question:
    """A number of three or four digits in French words."""
    number = rng.randint(100, 9999)
    near = {number + step for step in (1, -1, 10, -10, 20, 100, -100, 1000) if number + step > 0}
    wrong = sorted(near, key=lambda other: rng.random())
    return Question(
        f"Write {number} in French words.", in_french(number), tuple(map(in_french, wrong))
    )


SKILLS: dict[str, Callable[[random.Random], Question]] = {
    "math": math, "sql": sql, "french": french,
}  # fmt: skip


def trained(skill: str, seed: int) -> Iterator[Question]:
    """Questions to train on, without end."""
    rng = random.Random(f"train {skill} {seed}")
    while True:
        question = SKILLS[skill](rng)
        if not question.is_held:
            yield question


def asked(skill: str, quotas: dict[str, int]) -> Iterator[tuple[str, Question]]:
    """Twice the quota of each split, no question twice."""
    rng = random.Random(f"ask {skill}")
    left = {split: 2 * quota for split, quota in quotas.items()}
    seen: set[str] = set()
    while any(left.values()):
        question = SKILLS[skill](rng)
        split = split_of(question.text)
        if question.is_held and question.text not in seen and left[split]:
            seen.add(question.text)
            left[split] -= 1
            yield split, question


def write(folder: Path, quotas: dict[str, int]) -> None:
    """Write two banks a skill: one of four answers (SKILL), and the answer itself (SKILL_exact).

    No question is in both.
    """
    folder.mkdir(parents=True)
    for skill in SKILLS:
        banks: dict[str, list[dict[str, object]]] = {skill: [], f"{skill}_exact": []}
        counts = dict.fromkeys(quotas, 0)
        for split, question in asked(skill, quotas):
            counts[split] += 1
            made = _exact if counts[split] % 2 else choice
            banks[f"{skill}_exact" if made is _exact else skill].append(made(question, split))
        for name, items in banks.items():
            lines = (json.dumps(one, ensure_ascii=False) + "\n" for one in items)
            (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")


def _exact(question: Question, split: str) -> dict[str, object]:
    return item({"prompt": question.prompt, "answer": f" {question.answer}"}, split)


def choice(question: Question, split: str) -> dict[str, object]:
    """An item of four choices; where the right one stands follows from the text."""
    rng = random.Random(question.text)
    choices = [f" {text}" for text in question.wrong[: CHOICES - 1]]
    answer = rng.randrange(CHOICES)
    choices.insert(answer, f" {question.answer}")
    return item({"prompt": question.prompt, "choices": choices, "answer": answer}, split)
