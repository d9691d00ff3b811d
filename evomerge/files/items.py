"""The items of a bank, checked one by one and against each other."""

from __future__ import annotations

import difflib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from evomerge import errors
from evomerge.files import plain, sources

SPLITS = ("search", "validation", "test")
KEYS = ("id", "prompt", "question", "text", "pixels", "choices", "answer", "split")
SHOWN = 10
"""Items that are wrong by themselves of which a message tells, the first of them."""
ASKED = ("prompt", "question", "text", "pixels")
Pixels = tuple[tuple[tuple[float, ...], ...], ...]


@dataclass(frozen=True)
class Item:
    """One question; `answer` is the index of a choice, or the expected text, number or label.

    `also` are further texts that are right; `shots` solved examples that stand before the
    question, as (prompt, answer). A text without a question has the answer "". `pixels` are those
    of an image, as (channels, height, width); its prompt is the same as JSON. `place` says for
    messages where it stands, such as file:line, and its id if it was given one.
    """

    id: str
    prompt: str
    choices: tuple[str, ...]
    answer: int | str
    split: str
    also: tuple[str, ...] = ()
    shots: tuple[tuple[str, str], ...] = ()
    pixels: Pixels = ()
    place: str = field(default="", compare=False)

    @property
    def named(self) -> str:
        """How a message begins that is about it."""
        return self.place or f"item {self.id}"

    @property
    def accepted(self) -> tuple[str, ...]:
        """The texts that are right; none if nothing is asked."""
        if self.choices:
            return (self.choices[int(self.answer)],)
        return () if self.answer == "" else (str(self.answer), *self.also)


def read_file(
    path: Path, shares: Mapping[str, float] | None = None, *, unanswered: bool = False
) -> list[Item]:
    """The items of a JSONL, CSV or Parquet file; InputError with file:line for bad ones.

    `unanswered`: a prompt needs no answer, whatever others have.
    """
    return _items(sources.rows(path), str(path), shares, unanswered)


def read_rows(
    rows: Iterable[sources.Row], where: str, shares: Mapping[str, float] | None = None
) -> list[Item]:
    """The items of rows, each with the place that messages call it by."""
    return _items(rows, where, shares)


def read_list(
    entries: Sequence[object],
    where: str,
    shares: Mapping[str, float] | None = None,
    key: str = "items",
) -> list[Item]:
    """The items written out in a YAML file, under one of its keys."""
    return _items([(f"{where}: {key}[{i}]", e) for i, e in enumerate(entries)], where, shares)


def reworded(item: Item, template: str) -> Item:
    """The item with its prompt put into a template; id and split stay."""
    return item if template == "{prompt}" else replace(item, prompt=_fill(template, item.prompt))


def constant(items: Sequence[Item]) -> tuple[int | str, float] | None:
    """The most frequent answer, and what giving always that one would score; None where nothing
    is asked. Of choices, it is their places that count."""
    answers = Counter(item.answer for item in items if item.accepted)
    return next(((answer, n / len(items)) for answer, n in answers.most_common(1)), None)


def constant_score(items: Sequence[Item]) -> float:
    """What giving always the most frequent answer would score, whatever is asked."""
    found = constant(items)
    return 0.0 if found is None else found[1]


def _fill(template: str, prompt: str) -> str:
    return template.format(prompt=prompt)


def _items(
    entries: Iterable[tuple[str, object]],
    where: str,
    shares: Mapping[str, float] | None,
    unanswered: bool = False,
) -> list[Item]:
    found: list[tuple[str, Item]] = []
    wrong: list[str] = []
    for place, entry in entries:
        try:
            item = _item(entry, shares, unanswered)
        except ValueError as error:
            wrong.append(f"{_named(place, entry)}: {error}")
            if len(wrong) == SHOWN:
                break
        else:
            found.append((place, replace(item, place=_named(place, entry))))
    if wrong:
        raise errors.InputError("\n".join(wrong))
    if not found:
        raise errors.InputError(f"{where}: has no items")
    if not unanswered:
        _check_alike(found)
    _check_together(found)
    return [item for _, item in found]


def _named(place: str, entry: object) -> str:
    """A row's place, with the id if it has its own: no one knows a row by another."""
    name = entry.get("id") if isinstance(entry, dict) else None
    return place if name is None else f"{place}: item {plain.shown(name)}"


def _item(entry: object, shares: Mapping[str, float] | None, unanswered: bool) -> Item:
    if not isinstance(entry, dict):
        raise ValueError(f"expected an object with prompt and answer, got {plain.shown(entry)}")
    if unanswered and entry.get("answer", "") is None:
        entry = {key: value for key, value in entry.items() if key != "answer"}
    _check_keys(entry)
    if not unanswered and "answer" not in entry and "text" not in entry:
        raise ValueError("has no answer")
    pixels = _pixels(entry["pixels"]) if "pixels" in entry else ()
    asked = next(entry[key] for key in ASKED if key in entry)
    prompt = json.dumps(pixels) if pixels else _text(asked, "prompt")
    choices = _choices(entry["choices"]) if "choices" in entry else ()
    first, also = _answers(entry.get("answer", ""), choices)
    answer = _answer(first, choices) if "answer" in entry else ""
    content = json.dumps([prompt, choices, answer, *also], separators=(",", ":"))
    digest = sha256(content.encode()).hexdigest()
    split = entry["split"] if "split" in entry else split_of(digest, shares)
    if split not in SPLITS:
        raise ValueError(f"split {plain.shown(split)} is not one of {', '.join(SPLITS)}")
    name = _text(entry.get("id", digest[:16]), "id")
    return Item(name, prompt, choices, answer, split, also, pixels=pixels)


def _check_keys(entry: Mapping[str, Any]) -> None:
    for key in entry:
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, n=1, cutoff=0.5)
            guess = f", did you mean '{near[0]}'" if near else ""
            raise ValueError(f"unknown key {plain.shown(key)}{guess}; known: {', '.join(KEYS)}")
    if sum(key in entry for key in ASKED) != 1:
        raise ValueError(
            "expected one of 'prompt' and 'question', a 'text' without a question, or 'pixels'"
        )
    if "text" in entry and ("answer" in entry or "choices" in entry):
        raise ValueError("a 'text' has no answer and no choices: nothing is asked")


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not value:
        text = _written(value)
        hint = f': write it as "{text}"' if text is not value else ""
        raise ValueError(
            f"{what}: expected a text that is not empty, got {plain.shown(value)}{hint}"
        )
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{what}: half a surrogate pair can not be encoded as UTF-8")
    return value


def _pixels(value: object) -> Pixels:
    """Rows of numbers, or a list of such for several channels, as (channels, height, width)."""
    try:
        numbers = np.array(value, dtype=np.float64)
        plain_numbers = np.array(value).dtype.kind in "iuf"
    except (TypeError, ValueError, OverflowError):  # lists of several lengths, texts
        plain_numbers = False
    if not plain_numbers or numbers.ndim not in (2, 3) or not numbers.size:
        raise ValueError(
            "pixels: expected rows of numbers, all of one length, or a list of such for channels; "
            f"got {plain.shown(value)}"
        )
    if not np.isfinite(numbers).all():
        raise ValueError("pixels: a number is not finite")
    channels = numbers[None] if numbers.ndim == 2 else numbers
    return tuple(tuple(tuple(row) for row in channel) for channel in channels.tolist())


def _choices(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) < 2:
        raise ValueError(f"choices: expected at least two, got {plain.shown(value)}")
    choices = tuple(_text(choice, f"choices[{i}]") for i, choice in enumerate(value))
    twice = [choice for choice in choices if choices.count(choice) > 1]
    if twice:
        raise ValueError(f"choices: {plain.shown(twice[0])} stands twice")
    return choices


def _answers(value: object, choices: tuple[str, ...]) -> tuple[object, tuple[str, ...]]:
    """The first of several right answers, and the others."""
    if not isinstance(value, list):
        return value, ()
    if choices or not value:
        raise ValueError(f"answer: expected one, got {plain.shown(value)}")
    texts = tuple(_text(_written(text), f"answer[{i}]") for i, text in enumerate(value))
    return texts[0], texts[1:]


def _written(value: object) -> object:
    """A number as a text that is right; whatever else as it is."""
    is_number = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return repr(value) if is_number and not isinstance(value, bool) else value


def _answer(value: object, choices: tuple[str, ...]) -> int | str:
    value = _written(value) if isinstance(value, float) and not choices else value
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"answer: expected an index or a text, got {plain.shown(value)}")
    if not choices:
        return value if isinstance(value, int) else _text(value, "answer")
    if isinstance(value, int):
        if not 0 <= value < len(choices):
            raise ValueError(f"answer: {value} is not an index of {len(choices)} choices (from 0)")
        return value
    if value not in choices:
        raise ValueError(f"answer: {plain.shown(value)} is not one of the choices")
    return choices.index(value)


def split_of(digest: str, shares: Mapping[str, float] | None) -> str:
    """The split of an item whose content has this sha256; `shares` say how large each is."""
    number = int(digest[:8], 16)
    if shares is None:
        return SPLITS[min(number % 4, 2)]
    place, edge = number / 2**32, 0.0
    for name in SPLITS:
        edge += shares[name]
        if place < edge:
            return name
    return max(SPLITS, key=lambda name: shares[name])


def _check_alike(found: Sequence[tuple[str, Item]]) -> None:
    first = found[0][1]
    for _, item in found:
        here = item.named
        if bool(item.choices) != bool(first.choices):
            have = "has choices" if item.choices else "has no choices"
            raise errors.InputError(f"{here}: {have}, unlike the first item of the bank")
        if bool(item.accepted) != bool(first.accepted):
            have = "has an answer" if item.accepted else "has no answer"
            raise errors.InputError(f"{here}: {have}, unlike the first item of the bank")
        if bool(item.pixels) != bool(first.pixels):
            have = "is an image" if item.pixels else "is a text"
            raise errors.InputError(f"{here}: {have}, unlike the first item of the bank")


def _check_together(found: Sequence[tuple[str, Item]]) -> None:
    ids: dict[str, str] = {}
    contents: dict[tuple[str, tuple[str, ...]], tuple[str, Item]] = {}
    for where, item in found:
        here = item.named
        place, twin = contents.setdefault((item.prompt, item.choices), (where, item))
        if twin.split != item.split:
            raise errors.InputError(
                f"{here}: stands in two splits, '{item.split}' and '{twin.split}' ({place})"
            )
        if twin is not item:
            what = "pixels" if item.pixels else "prompt and choices"
            raise errors.InputError(f"{here}: same {what} as {place}")
        if item.id in ids:
            raise errors.InputError(f"{here}: the id is already that of {ids[item.id]}")
        ids[item.id] = where
