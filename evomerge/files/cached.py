"""What an expert answered, kept: the likeliest next tokens of each place and their probabilities.

One safetensors file holds the items as well, so that the two can not part.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save

from evomerge import errors
from evomerge.files import plain
from evomerge.files.items import SPLITS, Item
from evomerge.files.writer import atomic_bytes

FORMAT = "evomerge cached answers 1"
MAX_BYTES = 4_000_000_000


@dataclass(frozen=True)
class Answer:
    """Of one item: tokens (n,), and for each of the last c of them what was expected there.

    `top` (c, k) are the ids of the k likeliest tokens, the likeliest first; `log_p` (c, k + 1)
    their log-probabilities and that of all others together.
    """

    tokens: torch.Tensor
    top: torch.Tensor
    log_p: torch.Tensor


@dataclass(frozen=True)
class Cached:
    """The answers of one expert; `vocabulary` is the sha256 of its tokens that are used."""

    items: tuple[Item, ...]
    answers: Mapping[str, Answer]
    expert: str
    vocabulary: str
    sha256: str = ""

    @cached_property
    def used(self) -> list[int]:
        """The ids of the tokens that stand somewhere in the answers, sorted."""
        parts = [t for a in self.answers.values() for t in (a.tokens, a.top.flatten())]
        return sorted(set(torch.cat(parts).tolist()))


def vocabulary(tokenizer: Any, ids: Sequence[int]) -> str:
    """The sha256 of the texts of tokens: equal ids of other tokens would be other answers."""
    return sha256(json.dumps(tokenizer.convert_ids_to_tokens(list(ids))).encode()).hexdigest()


def write(path: Path, cached: Cached) -> None:
    """Write a file of cached answers, whole or not at all."""
    answers = [cached.answers[item.id] for item in cached.items]
    tensors = {
        "tokens": torch.cat([a.tokens for a in answers]).int(),
        "lengths": torch.tensor([len(a.tokens) for a in answers], dtype=torch.int32),
        "places": torch.tensor([len(a.top) for a in answers], dtype=torch.int32),
        "top": torch.cat([a.top for a in answers]).int(),
        "log_p": torch.cat([a.log_p for a in answers]).float(),
    }
    rows = [[item.id, item.prompt, item.split] for item in cached.items]
    about = {"expert": cached.expert, "vocabulary": cached.vocabulary}
    atomic_bytes(path, save(tensors, {"format": FORMAT, **about, "items": json.dumps(rows)}))


def is_one(path: Path) -> bool:
    """Whether a file says of itself that it holds cached answers."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (OSError, SafetensorError):
        return False


def read(path: Path) -> Cached:
    """The answers in a file; InputError for one that is not whole."""
    data = plain.read_bytes(path, MAX_BYTES, str(path), errors.InputError)
    try:
        tensors = load(data)
        size = int.from_bytes(data[:8], "little")
        about = plain.parse_json(data[8 : 8 + size])["__metadata__"]
        if about["format"] != FORMAT:
            raise ValueError(f"its format is {plain.shown(about['format'])}")
        items = tuple(_item(row) for row in plain.parse_json(about["items"].encode()))
        answers = _answers(tensors)
        named = dict(zip((item.id for item in items), answers, strict=True))
        if len(named) != len(answers):
            raise ValueError("an id stands twice")
        digest = sha256(data).hexdigest()
        return Cached(items, named, about["expert"], about["vocabulary"], digest)
    except (SafetensorError, ValueError, LookupError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise errors.InputError(f"{path}: is no file of cached answers: {reason}") from error


def _item(row: Any) -> Item:
    name, prompt, split = row
    if not all(isinstance(part, str) for part in row) or split not in SPLITS:
        raise ValueError(f"item {plain.shown(row)}")
    return Item(name, prompt, (), "", split)


def _answers(tensors: Mapping[str, torch.Tensor]) -> list[Answer]:
    lengths, places = tensors["lengths"].tolist(), tensors["places"].tolist()
    tokens, top, log_p = tensors["tokens"].long(), tensors["top"].long(), tensors["log_p"]
    if any(not 1 <= c < n for n, c in zip(lengths, places, strict=True)):
        raise ValueError("an answer has no place, or nothing before it")
    if (torch.cat([tokens, top.flatten()]) < 0).any() or log_p.shape[1] != top.shape[1] + 1:
        raise ValueError("tokens and probabilities do not fit")
    if not (log_p.double().exp().sum(1) - 1).abs().le(1e-3).all():
        raise ValueError("probabilities do not sum to 1")
    rows = (torch.split(tokens, lengths), torch.split(top, places), torch.split(log_p, places))
    return [Answer(*row) for row in zip(*rows, strict=True)]
