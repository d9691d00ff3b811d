"""Whether the greedy continuation of the prompt, up to a stop string, is the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field

from evomerge import errors
from evomerge.files.items import Item


@dataclass(frozen=True)
class Batch:
    """Prompts of I items, left-padded (I, P)."""

    ids: tuple[str, ...]
    prompts: torch.Tensor
    mask: torch.Tensor
    answers: tuple[str, ...]
    tokenizer: Any
    max_new_tokens: int
    stop: tuple[str, ...]


def prepare(
    tokenizer: Any,
    items: Sequence[Item],
    *,
    max_new_tokens: Annotated[int, Field(ge=1)] = 32,
    stop: Sequence[Annotated[str, Field(min_length=1)]] = ("\n",),
) -> Batch:
    """Tokenise a block of items; generation ends after `max_new_tokens` tokens."""
    rows = [tokenizer(item.prompt)["input_ids"] for item in items]
    width = max(len(row) for row in rows)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    prompts = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    answers = tuple(
        item.choices[int(item.answer)] if item.choices else str(item.answer) for item in items
    )
    ids = tuple(item.id for item in items)
    return Batch(ids, prompts, mask, answers, tokenizer, max_new_tokens, tuple(stop))


@torch.inference_mode()
def score(model: Any, batch: Batch) -> dict[str, list[float]]:
    """Per item: `score` (1 where the text equals the answer, blanks at the ends aside), `length`
    in tokens.

    Raises EvaluationError where logits are not finite.
    """
    device = model.device
    mask = batch.mask.to(device)
    tokens = batch.prompts.to(device)
    cache, step = None, tokens
    texts = [""] * len(batch.ids)
    lengths = [0] * len(batch.ids)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    for made in range(batch.max_new_tokens):
        out = model(
            input_ids=step, attention_mask=mask, position_ids=positions, past_key_values=cache,
            use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        step = _likeliest(out.logits[:, -1], batch.ids)
        tokens, cache = torch.cat([tokens, step], 1), out.past_key_values
        mask = torch.cat([mask, torch.ones_like(step)], 1)
        positions = positions[:, -1:] + 1
        texts = [
            batch.tokenizer.decode(row, skip_special_tokens=True)
            for row in tokens[:, batch.prompts.shape[1] :]
        ]
        ended = [any(s in text for s in batch.stop) for text in texts]
        lengths = [
            n if n else made + 1 if end else 0 for n, end in zip(lengths, ended, strict=True)
        ]
        if all(ended):
            break
    answers = [_until(text, batch.stop).strip() for text in texts]
    return {
        "score": [float(a == b.strip()) for a, b in zip(answers, batch.answers, strict=True)],
        "length": [float(n or batch.max_new_tokens) for n in lengths],
    }


def _likeliest(logits: torch.Tensor, ids: Sequence[str]) -> torch.Tensor:
    finite = logits.isfinite().all(1)
    if not finite.all():
        bad = int((~finite).nonzero()[0])
        raise errors.EvaluationError(f"logits of item {ids[bad]} are not finite")
    return logits.argmax(-1, keepdim=True)


def _until(text: str, stops: Sequence[str]) -> str:
    return min((text.split(stop)[0] for stop in stops if stop in text), key=len, default=text)
