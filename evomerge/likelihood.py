"""Log-likelihoods of continuations, as lm-eval defines them.

A prompt is computed once per item; its keys and values are branched to the continuations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from evomerge import errors, modules, prompts

NUMBERS = 2**22
"""Logits of which there is a second copy at a time; a vocabulary is large, and texts are long."""


@dataclass(frozen=True)
class Batch:
    """One block of I items with C continuations: prompts left-padded (I, P), tails right-padded.

    `tails` (I, C, L) are the tokens of the continuations, `valid` (I, C) those that exist,
    `lengths` (I, C) their UTF-8 bytes.
    """

    ids: tuple[str, ...]
    prompts: torch.Tensor
    prompt_mask: torch.Tensor
    tails: torch.Tensor
    tail_mask: torch.Tensor
    valid: torch.Tensor
    lengths: torch.Tensor


Row = tuple[list[int], list[list[int]]]
"""What all continuations of an item follow, and the tokens of each, at least one."""


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
    n_bytes = [[len(text.encode()) for text in texts] for texts in continuations]
    return assemble(tokenizer, ids, rows, n_bytes)


def assemble(
    tokenizer: Any, ids: Sequence[str], rows: Sequence[Row], n_bytes: Sequence[Sequence[int]]
) -> Batch:
    """A block of rows that are tokens already; `n_bytes` are those of each continuation."""
    pad = prompts.padding(tokenizer)
    n_items, n_choices = len(ids), max(len(tails) for _, tails in rows)
    depth = max(len(tail) for _, tails in rows for tail in tails)
    tails = torch.full((n_items, n_choices, depth), pad)
    tail_mask = torch.zeros((n_items, n_choices, depth), dtype=torch.long)
    lengths = torch.ones((n_items, n_choices))
    valid = torch.zeros((n_items, n_choices), dtype=torch.bool)
    for i, (_, found) in enumerate(rows):
        for c, tail in enumerate(found):
            tails[i, c, : len(tail)] = torch.tensor(tail)
            tail_mask[i, c, : len(tail)] = 1
            valid[i, c] = True
            lengths[i, c] = n_bytes[i][c]
    given, mask = prompts.left_padded([prefix for prefix, _ in rows], pad)
    return Batch(tuple(ids), given, mask, tails, tail_mask, valid, lengths)


def _split(tokenizer: Any, context: str, continuations: Sequence[str], chat: bool) -> Row:
    before = prompts.tokens(tokenizer, context, chat=chat)
    wholes = [prompts.tokens(tokenizer, context + text, chat=chat) for text in continuations]
    if any(whole[: len(before)] != before for whole in wholes):
        # a token reaches across the end: blanks there are counted, as lm-eval does
        before = prompts.tokens(tokenizer, context.rstrip(), chat=chat)
    begin = len(before)
    tails = {tuple(whole[begin:]) for whole in wholes}
    if () in tails or len(tails) < len(set(map(tuple, wholes))):
        # it is all of a continuation, or all in which two differ: all count from where they part
        columns = zip(before, *(whole[:-1] for whole in wholes), strict=False)
        begin = [*(len(set(column)) == 1 for column in columns), False].index(False)
    if begin < 1:
        return prompts.start(tokenizer), wholes
    return before[:begin], [whole[begin:] for whole in wholes]


@torch.inference_mode()
def log_likelihoods(model: Any, batch: Batch) -> torch.Tensor:
    """Summed log-probability of each continuation: (I, C) float32 on the CPU.

    -inf where an item has no such continuation. Raises EvaluationError, naming the item, where
    one is not finite.
    """
    return _summed(_read(model, batch, _log_p), batch)


@torch.inference_mode()
def greedy(model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Beside the log-likelihoods, whether each continuation is the greedy one: (I, C) booleans."""
    log_p, best = _read(model, batch, _log_p_and_best).unbind(-1)
    missed = batch.tail_mask.bool() & (best.cpu() == 0)
    return _summed(log_p, batch), batch.valid & ~missed.any(2)


Reading = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""What is read of logits (R, L, V), or (R, 1, V) for all L, at tokens (R, L): (R, L, ...)."""


def _log_p(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    log_p = logits.float().log_softmax(-1)
    # nan where the logit of a token that is not read is -inf, which alone leaves the others finite
    nothing = 0.0 * log_p.amin(-1)
    log_p = log_p.expand(*tokens.shape, -1)
    return log_p.gather(2, tokens[:, :, None])[:, :, 0] + nothing


def _log_p_and_best(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    best = logits.argmax(-1) == tokens
    return torch.stack([_log_p(logits, tokens), best.float()], -1)


def _read(model: Any, batch: Batch, reading: Reading) -> torch.Tensor:
    """A reading of every tail token, (I, C, L, ...)."""
    if not modules.is_padded(model):
        return _read_whole(model, batch, reading)
    device = model.device
    mask = batch.prompt_mask.to(device)
    first = model(
        input_ids=batch.prompts.to(device), attention_mask=mask,
        position_ids=prompts.positions(mask), use_cache=True, logits_to_keep=1,
    )  # fmt: skip
    n_items, n_choices, depth = batch.tails.shape
    tails = batch.tails.to(device)
    found = reading(first.logits[:, -1:], tails[:, :, 0]).flatten(0, 1)[:, None]
    if depth > 1:
        tails = tails.view(-1, depth)
        cache = first.past_key_values
        cache.batch_repeat_interleave(n_choices)
        tail_mask = batch.tail_mask.to(device).view(-1, depth)
        mask = mask.repeat_interleave(n_choices, 0)
        # what fills rows up stands where the last token that counts does: no model has more places
        places = prompts.positions(torch.cat([mask, tail_mask[:, 1:]], 1))[:, 1 - depth :]
        rest = model(
            input_ids=tails[:, :-1], attention_mask=torch.cat([mask, tail_mask[:, :-1]], 1),
            position_ids=places, past_key_values=cache,
        )  # fmt: skip
        found = torch.cat([found, _in_parts(rest.logits, tails[:, 1:], reading)], 1)
    return found.view(n_items, n_choices, *found.shape[1:])


def _read_whole(model: Any, batch: Batch, reading: Reading) -> torch.Tensor:
    """The same without a cache, item by item: what fills rows up comes after all that counts."""
    found, depth = [], batch.tails.shape[2]
    for given, mask, tails in zip(batch.prompts, batch.prompt_mask, batch.tails, strict=True):
        rows = torch.cat([given[mask.bool()].expand(len(tails), -1), tails], 1).to(model.device)
        out = model(input_ids=rows[:, :-1], use_cache=False, logits_to_keep=depth)
        found.append(_in_parts(out.logits[:, -depth:], rows[:, -depth:], reading))
    return torch.stack(found)


def _in_parts(logits: torch.Tensor, tokens: torch.Tensor, reading: Reading) -> torch.Tensor:
    """A reading of logits (R, L, V), some rows at a time."""
    rows = max(1, NUMBERS // logits[0].numel())
    return torch.cat(
        [reading(logits[i : i + rows], tokens[i : i + rows]) for i in range(0, len(logits), rows)]
    )


def _summed(log_p: torch.Tensor, batch: Batch) -> torch.Tensor:
    counted = batch.tail_mask.bool().to(log_p.device)
    return _checked(torch.where(counted, log_p, 0.0).sum(2).cpu(), batch)


def _checked(likelihood: torch.Tensor, batch: Batch) -> torch.Tensor:
    bad = (batch.valid & ~likelihood.isfinite()).any(1)
    if bad.any():
        name = batch.ids[int(bad.nonzero()[0])]
        raise errors.EvaluationError(f"log-likelihood of item {name} is not finite")
    return likelihood.masked_fill(~batch.valid, -torch.inf)
