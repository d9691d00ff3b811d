"""Log-likelihoods of continuations, as lm-eval defines them.

A prompt is computed once per item; its keys and values are branched to the continuations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from evomerge import errors, prompts

NUMBERS = 2**22
"""Logits of which there is a second copy at a time; a vocabulary is large, and texts are long."""


@dataclass(frozen=True)
class Batch:
    """One block of I items with C continuations: prompts left-padded (I, P), tails right-padded.

    `tails` (I, C, L) are the tokens after the shared prompt, `counted` marks those that are part
    of the continuation, `valid` (I, C) the continuations that exist, `lengths` (I, C) their
    UTF-8 bytes.
    """

    ids: tuple[str, ...]
    prompts: torch.Tensor
    prompt_mask: torch.Tensor
    tails: torch.Tensor
    tail_mask: torch.Tensor
    counted: torch.Tensor
    valid: torch.Tensor
    lengths: torch.Tensor


def prepare(
    tokenizer: Any,
    ids: Sequence[str],
    contexts: Sequence[str],
    continuations: Sequence[Sequence[str]],
    *,
    chat: bool,
) -> Batch:
    """Tokenise a block; `chat`: the contexts have been written by a chat template."""
    rows = [
        _split(tokenizer, context, texts, chat)
        for context, texts in zip(contexts, continuations, strict=True)
    ]
    pad = prompts.padding(tokenizer)
    n_items, n_choices = len(ids), max(len(texts) for texts in continuations)
    depth = max(len(tail) for _, tails, _ in rows for tail in tails)
    tails = torch.full((n_items, n_choices, depth), pad)
    tail_mask = torch.zeros((n_items, n_choices, depth), dtype=torch.long)
    counted = torch.zeros((n_items, n_choices, depth), dtype=torch.bool)
    lengths = torch.ones((n_items, n_choices))
    valid = torch.zeros((n_items, n_choices), dtype=torch.bool)
    for i, (_, found, skipped) in enumerate(rows):
        for c, tail in enumerate(found):
            tails[i, c, : len(tail)] = torch.tensor(tail)
            tail_mask[i, c, : len(tail)] = 1
            counted[i, c, skipped : len(tail)] = True
            valid[i, c] = True
            lengths[i, c] = len(continuations[i][c].encode())
    given, mask = prompts.left_padded([prefix for prefix, _, _ in rows], pad)
    return Batch(tuple(ids), given, mask, tails, tail_mask, counted, valid, lengths)


def _split(
    tokenizer: Any, context: str, continuations: Sequence[str], chat: bool
) -> tuple[list[int], list[list[int]], int]:
    """Shared prefix, one tail a continuation, and how many tail tokens belong to the context."""
    before = prompts.tokens(tokenizer, context, chat=chat)
    wholes = [prompts.tokens(tokenizer, context + text, chat=chat) for text in continuations]
    shared = len(before)
    for whole in wholes:
        same = (a == b for a, b in zip(before, whole, strict=False))
        shared = min(shared, next((i for i, equal in enumerate(same) if not equal), shared))
    shared = min(shared, *(len(whole) - 1 for whole in wholes))
    if shared < 1:
        return prompts.start(tokenizer), wholes, 0
    return before[:shared], [whole[shared:] for whole in wholes], len(before) - shared


@torch.inference_mode()
def log_likelihoods(model: Any, batch: Batch) -> torch.Tensor:
    """Summed log-probability of each continuation: (I, C) float32 on the CPU.

    -inf where an item has no such continuation. Raises EvaluationError, naming the item, where
    one is not finite.
    """
    device = model.device
    mask = batch.prompt_mask.to(device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    first = model(
        input_ids=batch.prompts.to(device), attention_mask=mask, position_ids=positions,
        use_cache=True, logits_to_keep=1,
    )  # fmt: skip
    n_items, n_choices, depth = batch.tails.shape
    tails = batch.tails.to(device).view(-1, depth)
    begun = first.logits[:, -1:].float().log_softmax(-1)[:, 0]
    log_p = begun.gather(1, tails[:, 0].view(n_items, n_choices)).view(-1, 1)
    if depth > 1:
        cache = first.past_key_values
        cache.batch_repeat_interleave(n_choices)
        tail_mask = batch.tail_mask.to(device).view(-1, depth)[:, :-1]
        begin = mask.sum(1).repeat_interleave(n_choices)[:, None]
        rest = model(
            input_ids=tails[:, :-1],
            attention_mask=torch.cat([mask.repeat_interleave(n_choices, 0), tail_mask], 1),
            position_ids=begin + torch.arange(depth - 1, device=device),
            past_key_values=cache,
        )
        log_p = torch.cat([log_p, _of_tokens(rest.logits, tails[:, 1:])], 1)
    token = log_p.view(n_items, n_choices, depth)
    return _checked(torch.where(batch.counted.to(device), token, 0.0).sum(2).cpu(), batch)


def _of_tokens(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (R, L) of tokens (R, L) by logits (R, L, V), some rows at a time."""
    rows = max(1, NUMBERS // logits[0].numel())
    found = [
        logits[i : i + rows].float().log_softmax(-1).gather(2, tokens[i : i + rows, :, None])
        for i in range(0, len(logits), rows)
    ]
    return torch.cat(found)[:, :, 0]


def _checked(likelihood: torch.Tensor, batch: Batch) -> torch.Tensor:
    bad = (batch.valid & ~likelihood.isfinite()).any(1)
    if bad.any():
        name = batch.ids[int(bad.nonzero()[0])]
        raise errors.EvaluationError(f"log-likelihood of item {name} is not finite")
    return likelihood.masked_fill(~batch.valid, -torch.inf)
