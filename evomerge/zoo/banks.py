"""The item banks: which of four continuations is the real one, and facts to be begun.

An item shows PROMPT bytes and asks for the CONTINUATION bytes after them; wrong choices are right
ones of other items of the same domain and split. All is ASCII, so that a byte is a character.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from evomerge.errors import MachineError
from evomerge.zoo import texts

PROMPT, CONTINUATION, CHOICES = 40, 16, 4
QUOTAS = {"search": 300, "validation": 300, "test": 600}
_SPLITS = ("search", "validation", "test", "test")


class Passage(NamedTuple):
    """`answer` is what a wrong choice must not begin with."""

    prompt: str
    continuation: str
    answer: str

    @property
    def split(self) -> str:
        return split_of(self.prompt + self.continuation)


def split_of(text: str) -> str:
    """A quarter to search, a quarter to validation, half to test, by the text's sha256."""
    return _SPLITS[int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) % 4]


def _legible(text: str, least: int) -> bool:
    return text.isascii() and sum(not char.isspace() for char in text) >= least


def _windows(pieces: Iterable[str], rng: random.Random) -> Iterator[Passage]:
    """Passages which do not overlap, each at a random distance from the one before."""
    for piece in pieces:
        at = rng.randrange(PROMPT)
        while at + PROMPT + CONTINUATION <= len(piece):
            prompt = piece[at : at + PROMPT]
            continuation = piece[at + PROMPT : at + PROMPT + CONTINUATION]
            if _legible(prompt, 24) and _legible(continuation, 11):
                yield Passage(prompt, continuation, continuation)
                at += PROMPT + CONTINUATION
            at += rng.randrange(8)


def _fact_passages(held: list[tuple[str, str]]) -> Iterator[Passage]:
    """The continuation begins at the answer; short answers, mostly the next line, are left out."""
    # In threes, so that no fact is seen in two items.
    for before, (question, answer), after in zip(held[::3], held[1::3], held[2::3], strict=False):
        if len(answer) >= 12:
            prompt = f"{''.join(before)}\n{question}"
            continuation = f"{answer}\n{after[0]}"
            yield Passage(prompt[-PROMPT:], continuation[:CONTINUATION], answer[:CONTINUATION])


def _chosen(domain: str, passages: Iterable[Passage], trained: bytes) -> dict[str, list[Passage]]:
    """Fill every split's quota, without what is repeated or also trained on (licences, say)."""
    chosen: dict[str, list[Passage]] = {split: [] for split in QUOTAS}
    prompts: set[str] = set()
    for passage in passages:
        split = chosen[passage.split]
        if (
            len(split) < QUOTAS[passage.split]
            and passage.prompt not in prompts
            and (passage.prompt + passage.continuation).encode() not in trained
        ):
            split.append(passage)
            prompts.add(passage.prompt)
    for name, quota in QUOTAS.items():
        if len(chosen[name]) < quota:
            raise MachineError(
                f"zoo: the texts of this Python give only {len(chosen[name])} of {quota} "
                f"{name} items of '{domain}'"
            )
    return chosen


def _shuffled(passages: Iterable[Passage], domain: str) -> list[Passage]:
    held = list(passages)
    random.Random(f"order of {domain}").shuffle(held)
    return held


def item(content: dict[str, object], split: str) -> dict[str, object]:
    """An item of a bank, its id from the content."""
    text = json.dumps(content, sort_keys=True)
    return {"id": hashlib.sha256(text.encode()).hexdigest()[:16], **content, "split": split}


def choice_item(passage: Passage, chosen: list[Passage], split: str) -> dict[str, object]:
    """An item whose wrong choices are continuations of other passages of those chosen."""
    rng = random.Random(passage.prompt + passage.continuation)
    wrong = (other.continuation for other in chosen)
    rivals = dict.fromkeys(text for text in wrong if not text.startswith(passage.answer))
    choices = rng.sample(list(rivals), CHOICES - 1)
    answer = rng.randrange(CHOICES)
    choices.insert(answer, passage.continuation)
    return item({"prompt": passage.prompt, "choices": choices, "answer": answer}, split)


def passages(domain: str, sides: texts.Sides) -> list[Passage]:
    """All passages of the held-out texts, in the order in which banks take them."""
    if domain == "facts":
        held = texts.held_facts()
        return _shuffled(_fact_passages(held[: len(held) // 2]), domain)
    rng = random.Random(f"windows of {domain}")
    return _shuffled(_windows(sides.held, rng), domain)


def choice_items(domain: str, sides: texts.Sides) -> Iterator[dict[str, object]]:
    trained = "".join(sides.train).encode()
    for split, chosen in _chosen(domain, passages(domain, sides), trained).items():
        for passage in chosen:
            yield choice_item(passage, chosen, split)


def exact_items() -> Iterator[dict[str, object]]:
    """First words of facts which are not in the choice bank; a completed one is shown first.

    Whole answers of several words are beyond a model of this size.
    """
    held = texts.held_facts()
    held = held[len(held) // 2 :]
    found = (
        Passage(f"{''.join(before)}\n{question}", word, word)
        for before, (question, answer) in zip(held[::2], held[1::2], strict=False)
        for word in [answer.replace(",", " ").split()[0]]
    )
    quotas = dict.fromkeys(QUOTAS, 0)
    for passage in _shuffled(found, "facts_exact"):
        split = passage.split
        if quotas[split] < QUOTAS[split]:
            quotas[split] += 1
            yield item({"prompt": passage.prompt, "answer": passage.continuation}, split)


def write(folder: Path, sides: dict[str, texts.Sides]) -> None:
    """Write every bank as one JSON object a line; the same bytes for the same Python."""
    folder.mkdir(parents=True)
    banks = {domain: choice_items(domain, both) for domain, both in sides.items()}
    for name, items in {**banks, "facts_exact": exact_items()}.items():
        lines = (json.dumps(item, ensure_ascii=False) + "\n" for item in items)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
