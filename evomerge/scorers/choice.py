"""Which of several continuations the model finds most likely (log-likelihood, as lm-eval scores).

The prompt is computed once per item and its keys and values are branched to the choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from evomerge import errors
from evomerge.files.items import Item


@dataclass(frozen=True)
class Batch:
    """One block of I items with C choices: prompts left-padded (I, P), tails right-padded.

    `tails` (I, C, L) are the tokens after the shared prompt, `counted` marks those that are part
    of the choice, `valid` (I, C) the choices that exist, `lengths` (I, C) their UTF-8 bytes.
    """

    ids: tuple[str, ...]
    prompts: torch.Tensor
    prompt_mask: torch.Tensor
    tails: torch.Tensor
    tail_mask: torch.Tensor
    counted: torch.Tensor
    valid: torch.Tensor
    lengths: torch.Tensor
    answers: torch.Tensor
    normalize: bool


def prepare(tokenizer: Any, items: Sequence[Item], *, normalize: bool = True) -> Batch:
    """Tokenise a block of items; `normalize` divides log-likelihoods by the bytes of a choice."""
    rows = [_split(tokenizer, item) for item in items]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    n_items, n_choices = len(items), max(len(item.choices) for item in items)
    width = max(len(prefix) for prefix, _, _ in rows)
    depth = max(len(tail) for _, tails, _ in rows for tail in tails)
    prompts = torch.full((n_items, width), pad)
    prompt_mask = torch.zeros((n_items, width), dtype=torch.long)
    tails = torch.full((n_items, n_choices, depth), pad)
    tail_mask = torch.zeros((n_items, n_choices, depth), dtype=torch.long)
    counted = torch.zeros((n_items, n_choices, depth), dtype=torch.bool)
    lengths = torch.ones((n_items, n_choices))
    valid = torch.zeros((n_items, n_choices), dtype=torch.bool)
    for i, (prefix, tokens, skipped) in enumerate(rows):
        prompts[i, width - len(prefix) :] = torch.tensor(prefix)
        prompt_mask[i, width - len(prefix) :] = 1
        for c, tail in enumerate(tokens):
            tails[i, c, : len(tail)] = torch.tensor(tail)
            tail_mask[i, c, : len(tail)] = 1
            counted[i, c, skipped : len(tail)] = True
            valid[i, c] = True
            lengths[i, c] = len(items[i].choices[c].encode())
    return Batch(
        tuple(item.id for item in items), prompts, prompt_mask, tails, tail_mask, counted, valid,
        lengths, torch.tensor([int(item.answer) for item in items]), normalize,
    )  # fmt: skip


def _split(tokenizer: Any, item: Item) -> tuple[list[int], list[list[int]], int]:
    """Shared prefix, one tail a choice, and how many tail tokens still belong to the prompt."""
    context: list[int] = tokenizer(item.prompt)["input_ids"]
    wholes = [tokenizer(item.prompt + choice)["input_ids"] for choice in item.choices]
    shared = len(context)
    for whole in wholes:
        same = (a == b for a, b in zip(context, whole, strict=False))
        shared = min(shared, next((i for i, equal in enumerate(same) if not equal), shared))
    shared = min(shared, *(len(whole) - 1 for whole in wholes))
    if shared < 1:
        start = tokenizer.bos_token_id
        start = tokenizer.eos_token_id if start is None else start
        return [start], wholes, 0
    return context[:shared], [whole[shared:] for whole in wholes], len(context) - shared


@torch.inference_mode()
def score(model: Any, batch: Batch) -> dict[str, list[float]]:
    """Per item: `score` and `plain` (0 or 1, with and without normalisation), `margin` and
    `probability` of the right choice.

    Raises EvaluationError, naming the item, where a log-likelihood is not finite.
    """
    likelihood = log_likelihoods(model, batch)
    for i, row in enumerate(likelihood):
        if not row[batch.valid[i].to(row.device)].isfinite().all():
            raise errors.EvaluationError(f"log-likelihood of item {batch.ids[i]} is not finite")
    likelihood = likelihood.masked_fill(~batch.valid.to(likelihood.device), -torch.inf).cpu()
    per_byte = likelihood / batch.lengths if batch.normalize else likelihood
    right = batch.answers[:, None]
    wrong = per_byte.scatter(1, right, -torch.inf).amax(1)
    return {
        "score": (per_byte.argmax(1) == batch.answers).double().tolist(),
        "plain": (likelihood.argmax(1) == batch.answers).double().tolist(),
        "margin": (per_byte.gather(1, right)[:, 0] - wrong).tolist(),
        "probability": likelihood.softmax(1).gather(1, right)[:, 0].tolist(),
    }


def log_likelihoods(model: Any, batch: Batch) -> torch.Tensor:
    """Summed log-probability of each choice: (I, C) float32."""
    device = model.device
    mask = batch.prompt_mask.to(device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    first = model(
        input_ids=batch.prompts.to(device), attention_mask=mask, position_ids=positions,
        use_cache=True, logits_to_keep=1,
    )  # fmt: skip
    n_items, n_choices, depth = batch.tails.shape
    tails = batch.tails.to(device).view(-1, depth)
    log_p = first.logits[:, -1:].float().log_softmax(-1).repeat_interleave(n_choices, 0)
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
        log_p = torch.cat([log_p, rest.logits.float().log_softmax(-1)], 1)
    token = log_p.gather(2, tails[:, :, None])[:, :, 0].view(n_items, n_choices, depth)
    return torch.where(batch.counted.to(device), token, 0.0).sum(2)
