"""How near the model's next tokens are to an expert's: no right answer is needed.

Per item the mean over places of KL(expert || model), Kullback and Leibler (1951), of the expert's
likeliest tokens and of all others taken as one: never more than that of whole vocabularies.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from evomerge import errors, modules, prompts
from evomerge.files import cached
from evomerge.files.bank import Origin
from evomerge.files.items import Item
from evomerge.files.sheet import Sheet

NEEDS_CAUSAL = True


@dataclass(frozen=True)
class Batch:
    """What the expert answered to I items."""

    ids: tuple[str, ...]
    answers: tuple[cached.Answer, ...]
    pad: int
    measure: str


def origin(keys: Sheet, path: Path) -> Origin:
    """The items of the file of cached answers, which stands beside the bank at `path`.

    Raises InputError for a file that is not whole.
    """
    place = str((path.parent / str(keys.options["cache"])).resolve())
    with errors.at(f"{path}: cache"):
        found = _read(place)
    return Origin(found.items, {**keys.options, "cache": place}, found.sha256)


def signals(items: Sequence[Item]) -> tuple[str, ...]:
    """What an objective may name of the answers to these items, beside `score`."""
    return ()


def prepare(
    tokenizer: Any,
    items: Sequence[Item],
    *,
    cache: Annotated[str, Field(min_length=1)],
    measure: Literal["kl", "agreement"] = "kl",
) -> Batch:
    """Look up a block of items in `cache`, which `evomerge bank cache` has written.

    `measure`: whether the score is exp(-KL), or the share of places with the same likeliest token.
    Raises InputError where the expert's tokens are not those of this tokenizer.
    """
    found = _read(cache)
    if cached.vocabulary(tokenizer, found.used) != found.vocabulary:
        raise errors.InputError(f"{cache}: the expert's tokens are not those of this model")
    answers = tuple(found.answers[item.id] for item in items)
    for item, answer in zip(items, answers, strict=True):
        prompts.check_length(tokenizer, item, len(answer.tokens))
    names = tuple(item.id for item in items)
    return Batch(names, answers, prompts.padding(tokenizer), measure)


def score(model: Any, batch: Batch) -> dict[str, list[float]]:
    """Per item: `score`, `kl` in nats a token (0 or more) and `agreement`, from 0 to 1.

    Raises EvaluationError, naming the item, where logits are not finite.
    """
    rows = [(answer.tokens.tolist(), len(answer.top)) for answer in batch.answers]
    kls, agreements = [], []
    for name, logits, answer in zip(
        batch.ids, expected(model, rows, batch.pad), batch.answers, strict=True
    ):
        if not logits.isfinite().all():
            raise errors.EvaluationError(f"logits of item {name} are not finite")
        if int(answer.top.max()) >= logits.shape[1]:
            raise errors.EvaluationError(
                f"item {name}: the model has fewer tokens than the expert"
            )
        top = answer.top.to(logits.device)
        kls.append(divergence(answer.log_p, merged(logits, top).cpu()).mean().item())
        agreements.append((logits.argmax(1) == top[:, 0]).cpu().double().mean().item())
    near = torch.tensor(kls).neg().exp().tolist()
    return {
        "score": near if batch.measure == "kl" else agreements,
        "kl": kls,
        "agreement": agreements,
    }


@torch.inference_mode()
def expected(
    model: Any, rows: Sequence[tuple[Sequence[int], int]], pad: int
) -> list[torch.Tensor]:
    """Logits (c, V) of the last c tokens of each row (tokens, c), in float32."""
    if len(rows) > 1 and not modules.is_padded(model):
        return [logits for row in rows for logits in expected(model, [row], pad)]
    given, mask = prompts.left_padded([tokens[:-1] for tokens, _ in rows], pad)
    most = max(c for _, c in rows)
    mask = mask.to(model.device)
    logits = model(
        input_ids=given.to(model.device), attention_mask=mask,
        position_ids=prompts.positions(mask), logits_to_keep=most, use_cache=False,
    ).logits[:, -most:]  # fmt: skip
    return [logits[i, most - c :].float() for i, (_, c) in enumerate(rows)]


def merged(logits: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (c, k + 1) of the tokens `top` (c, k) and of all others together."""
    whole = logits.logsumexp(1, keepdim=True)
    rest = logits.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat([logits.gather(1, top), rest], 1) - whole


def divergence(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """KL (c,) between rows of log-probabilities, in nats; what has no probability counts 0."""
    log_p, log_q = log_p.double(), log_q.double()
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(1).clamp(min=0)


def _read(place: str) -> cached.Cached:
    path = Path(place)
    stamp = path.stat().st_mtime_ns if path.is_file() else 0
    return _read_once(place, stamp)


@functools.lru_cache(maxsize=8)
def _read_once(place: str, stamp: int) -> cached.Cached:
    return cached.read(Path(place))
