"""The item banks of a family: which of four continuations is the real one, and facts to be completed.

An item shows PROMPT bytes and asks for the CONTINUATION bytes after them; wrong choices are right ones of
other items of the same domain and split. All text is ASCII, so that a byte is a character.
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
    """`kind` limits where wrong choices may come from; with a kind, the answer ends at the line's end."""

    prompt: str
    continuation: str
    kind: str = ""

    @property
    def answer(self) -> str:
        return self.continuation.partition("\n")[0] if self.kind else self.continuation

    @property
    def split(self) -> str:
        digest = hashlib.sha256((self.prompt + self.continuation).encode()).hexdigest()
        return _SPLITS[int(digest[:8], 16) % 4]

    def rivals(self, passages: Iterable[Passage]) -> list[str]:
        """The continuations of the same kind that are wrong here, each once."""
        wrong = (
            other.continuation
            for other in passages
            if other.kind == self.kind and other.answer != self.answer
        )
        return list(dict.fromkeys(wrong))


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
                yield Passage(prompt, continuation)
                at += PROMPT + CONTINUATION
            at += rng.randrange(8)


def _fact_passages(held: list[tuple[str, str, str]]) -> Iterator[Passage]:
    """The continuation begins at the answer; facts with an answer that is mostly the next line are left out."""
    for before, (kind, question, answer), after in zip(held, held[1:], held[2:], strict=False):
        if len(answer) >= 12:
            prompt = f"{before[1]}{before[2]}\n{question}"
            continuation = f"{answer}\n{after[1]}"
            yield Passage(prompt[-PROMPT:], continuation[:CONTINUATION], kind)


def _chosen(domain: str, passages: Iterable[Passage]) -> dict[str, list[Passage]]:
    """Fill every split's quota; a prompt that was taken before is passed over."""
    chosen: dict[str, list[Passage]] = {split: [] for split in QUOTAS}
    prompts: set[str] = set()
    for passage in passages:
        split = chosen[passage.split]
        if len(split) < QUOTAS[passage.split] and passage.prompt not in prompts:
            split.append(passage)
            prompts.add(passage.prompt)
    for name, quota in QUOTAS.items():
        if len(chosen[name]) < quota:
            raise MachineError(
                f"zoo: the texts of this Python give only {len(chosen[name])} of {quota} {name} items "
                f"of '{domain}'"
            )
    return chosen


def _shuffled(passages: Iterable[Passage], domain: str) -> list[Passage]:
    held = list(passages)
    random.Random(f"order of {domain}").shuffle(held)
    return held


def _item(content: dict[str, object], split: str) -> dict[str, object]:
    text = json.dumps(content, sort_keys=True)
    return {"id": hashlib.sha256(text.encode()).hexdigest()[:16], **content, "split": split}


def _choice_item(passage: Passage, chosen: list[Passage], split: str) -> dict[str, object]:
    rng = random.Random(passage.prompt + passage.continuation)
    choices = rng.sample(passage.rivals(chosen), CHOICES - 1)
    answer = rng.randrange(CHOICES)
    choices.insert(answer, passage.continuation)
    return _item({"prompt": passage.prompt, "choices": choices, "answer": answer}, split)


def choice_items(domain: str) -> Iterator[dict[str, object]]:
    if domain == "facts":
        held = texts.held_facts()
        passages = _fact_passages(held[: len(held) // 2])
    else:
        rng = random.Random(f"windows of {domain}")
        passages = _windows(texts.split(domain)[1], rng)
    for split, chosen in _chosen(domain, _shuffled(passages, domain)).items():
        for passage in chosen:
            yield _choice_item(passage, chosen, split)


def exact_items() -> Iterator[dict[str, object]]:
    """Facts of their own, none of them in the choice bank; the prompt shows one solved fact first."""
    held = texts.held_facts()
    held = held[len(held) // 2 :]
    passages = (
        Passage(f"{before[1]}{before[2]}\n{question}", answer)
        for before, (_, question, answer) in zip(held, held[1:], strict=False)
    )
    quotas = dict.fromkeys(QUOTAS, 0)
    for passage in _shuffled(passages, "facts_exact"):
        split = passage.split
        if quotas[split] < QUOTAS[split]:
            quotas[split] += 1
            yield _item({"prompt": passage.prompt, "answer": passage.continuation}, split)


def write(folder: Path) -> None:
    """Write every bank as one JSON object a line; the same bytes for the same Python."""
    folder.mkdir(parents=True)
    banks = {domain: choice_items(domain) for domain in texts.DOMAINS}
    for name, items in {**banks, "facts_exact": exact_items()}.items():
        lines = (json.dumps(item, ensure_ascii=False) + "\n" for item in items)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
