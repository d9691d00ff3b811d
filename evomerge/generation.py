"""Greedy continuations of a block of prompts, which scorers mark by their text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from pydantic import Field
from typing_extensions import TypedDict

from evomerge import errors, modules, prompts
from evomerge.files import plain
from evomerge.files.items import Item, constant_score


class Options(TypedDict, total=False):
    """What every scorer of generated text takes.

    A text ends after `max_new_tokens` tokens, before the first of the texts `stop`, or where the
    model ends it. With `chat`, prompts are put through the model's chat template.
    """

    max_new_tokens: Annotated[int, Field(ge=1)]
    stop: Sequence[Annotated[str, Field(min_length=1)]]
    chat: bool


DEFAULTS: Options = {"max_new_tokens": 32, "stop": ("\n",), "chat": False}

chance = constant_score
"""What guessing scores, for scorers of generated text."""

DEGENERATE = "degenerate"
"""The signal of a text that is none."""

CYCLE, TURNS = 8, 4
"""Tokens of the longest cycle that is looked for, and how often it has to be there."""

Mark = Callable[[str, Sequence[str]], bool]
"""Whether a text, without blanks at its ends, is right, given the item's accepted answers."""


def signals(items: Sequence[Item]) -> tuple[str, ...]:
    """What an objective may name of the answers to these items, beside `score`."""
    return ("length",)


@dataclass(frozen=True)
class Batch:
    """Prompts of I items, left-padded (I, P), and how their continuations are marked."""

    ids: tuple[str, ...]
    prompts: torch.Tensor
    mask: torch.Tensor
    accepted: tuple[tuple[str, ...], ...]
    mark: Mark
    tokenizer: Any
    max_new_tokens: int
    stop: tuple[str, ...]


def check(item: Item, *, stop: Sequence[str] = DEFAULTS["stop"]) -> None:
    """Raises ValueError for an item whose answer no text can be compared with, or no text has.

    That is when each accepted answer has one of the texts `stop` in it.
    """
    if not item.accepted or not all(answer.strip() for answer in item.accepted):
        raise ValueError("has no answer, or a blank one, with which to compare a text")
    ends = [[text for text in stop if text in answer.strip()] for answer in item.accepted]
    if all(ends):
        raise ValueError(
            f"answer: has {plain.shown(ends[0][0])} in it, before which a text ends: change the "
            "scorer's option 'stop', a list, or empty it: []"
        )


def prepare(tokenizer: Any, items: Sequence[Item], mark: Mark, options: Options) -> Batch:
    """Tokenise a block of items.

    Raises InputError for one that the model can not read whole with all it may have to write.
    """
    chat = options.get("chat", DEFAULTS["chat"])
    texts = [prompts.text(tokenizer, item, chat=chat) for item in items]
    rows = [prompts.tokens(tokenizer, text, chat=chat) for text in texts]
    made = options.get("max_new_tokens", DEFAULTS["max_new_tokens"])
    for item, row in zip(items, rows, strict=True):
        prompts.check_length(tokenizer, item, len(row), made)
    return assemble(tokenizer, items, rows, mark, options)


def assemble(
    tokenizer: Any,
    items: Sequence[Item],
    rows: Sequence[list[int]],
    mark: Mark,
    options: Options,
) -> Batch:
    """A block of items whose prompts are these tokens."""
    chosen: Options = {**DEFAULTS, **options}
    given, mask = prompts.left_padded(
        [row or prompts.start(tokenizer) for row in rows], prompts.padding(tokenizer)
    )
    return Batch(
        tuple(item.id for item in items), given, mask, tuple(item.accepted for item in items),
        mark, tokenizer, chosen["max_new_tokens"], tuple(chosen["stop"]),
    )  # fmt: skip


def score(model: Any, batch: Batch) -> dict[str, list[float]]:
    """Per item: `score` (0 or 1), `length` in tokens, and `degenerate` (0 or 1): whether the text
    is blank, or repeats itself to the last token that it may have.

    Raises EvaluationError, naming the item, where logits are not finite.
    """
    made = tokens(model, batch)
    texts = _texts(model, batch, made)
    marks = [
        batch.mark(text.strip(), accepted)
        for text, accepted in zip(texts, batch.accepted, strict=True)
    ]
    broken = [
        not text.strip() or (len(row) == batch.max_new_tokens and repeats(row))
        for text, row in zip(texts, made, strict=True)
    ]
    return {
        "score": [float(mark) for mark in marks],
        "length": [float(len(row)) for row in made],
        DEGENERATE: [float(is_broken) for is_broken in broken],
    }


def repeats(made: Sequence[int]) -> bool:
    """Whether tokens end in a cycle of at most CYCLE, which makes up half of them, and is there
    at least TURNS times. Of fewer than twice TURNS tokens nothing is said."""
    for n in range(1, CYCLE + 1):
        tail = max(TURNS * n, -(-len(made) // 2))
        if len(made) >= max(tail, 2 * TURNS) and made[-tail:-n] == made[n - tail :]:
            return True
    return False


def generate(model: Any, batch: Batch) -> tuple[list[str], list[int]]:
    """The likeliest texts, up to where they end, and how many tokens each took.

    The token that ends a text counts. Raises EvaluationError where logits are not finite.
    """
    made = tokens(model, batch)
    return _texts(model, batch, made), [len(row) for row in made]


def _texts(model: Any, batch: Batch, made: Sequence[Sequence[int]]) -> list[str]:
    ends = _ends(model, batch)
    return [_until(_decoded(batch.tokenizer, row, ends), batch.stop) for row in made]


@torch.inference_mode()
def tokens(model: Any, batch: Batch) -> list[list[int]]:
    """The likeliest tokens after each prompt, with that which ends a text.

    Rows that have ended leave the block once they are half of it: each time costs a copy of the
    cache. Raises EvaluationError where logits are not finite.
    """
    if len(batch.ids) > 1 and not modules.is_padded(model):
        return [made for row in _alone(batch) for made in tokens(model, row)]
    given, mask = batch.prompts.to(model.device), batch.mask.to(model.device)
    unread, cache = given.shape[1], None
    made: list[list[int]] = [[] for _ in batch.ids]
    rows = going = list(range(len(batch.ids)))
    ends = _ends(model, batch)
    for _ in range(batch.max_new_tokens):
        positions = prompts.positions(mask)
        out = model(
            input_ids=given[:, -unread:], attention_mask=mask, position_ids=positions[:, -unread:],
            past_key_values=cache, use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        cache = getattr(out, "past_key_values", None)
        step = _likeliest(out.logits[:, -1], [batch.ids[i] for i in rows])
        for i, token in zip(rows, step[:, 0].tolist(), strict=True):
            if i in going:
                made[i].append(token)
        going = [i for i in going if not _ended(batch, made[i], ends)]
        if not going:
            break
        given, mask = torch.cat([given, step], 1), torch.cat([mask, torch.ones_like(step)], 1)
        unread = given.shape[1] if cache is None else 1
        if cache is not None and 2 * len(going) <= len(rows):
            kept = torch.tensor([rows.index(i) for i in going], device=mask.device)
            given, mask, rows = given[kept], mask[kept], going
            cache.batch_select_indices(kept)
    return made


def _alone(batch: Batch) -> Iterator[Batch]:
    """Each row of a block as a block of its own, without padding."""
    for i, name in enumerate(batch.ids):
        given = batch.prompts[i][batch.mask[i].bool()][None]
        yield replace(batch, ids=(name,), prompts=given, mask=torch.ones_like(given))


def _ended(batch: Batch, made: Sequence[int], ends: frozenset[int]) -> bool:
    if made[-1] in ends or not batch.stop:
        return made[-1] in ends
    text = _decoded(batch.tokenizer, made, ends)
    return any(stop in text for stop in batch.stop)


def _likeliest(logits: torch.Tensor, ids: Sequence[str]) -> torch.Tensor:
    finite = logits.isfinite().all(1)
    if not finite.all():
        bad = int((~finite).nonzero()[0])
        raise errors.EvaluationError(f"logits of item {ids[bad]} are not finite")
    return logits.argmax(-1, keepdim=True)


def _ends(model: Any, batch: Batch) -> frozenset[int]:
    """Tokens that end a text: those with which the model says that it has finished, of which it
    may have several, and texts `stop` that are special tokens, which no decoded text shows."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    several = own if isinstance(own, list) else [own]
    added = batch.tokenizer.added_tokens_decoder.items()
    stops = [t for t, token in added if token.special and token.content in batch.stop]
    return frozenset(t for t in (batch.tokenizer.eos_token_id, *several, *stops) if t is not None)


def _decoded(tokenizer: Any, tokens: Sequence[int], ends: frozenset[int]) -> str:
    shown = tokens[:-1] if tokens[-1] in ends else tokens
    return str(tokenizer.decode(shown, skip_special_tokens=True))


def _until(text: str, stops: Sequence[str]) -> str:
    return min((text.split(stop)[0] for stop in stops if stop in text), key=len, default=text)
