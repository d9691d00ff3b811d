"""Whether a model that classifies texts gives an item its label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from evomerge import errors, prompts
from evomerge.files.items import Item


@dataclass(frozen=True)
class Batch:
    """Texts of I items, padded by the tokenizer; answers are numbers or names of labels."""

    ids: tuple[str, ...]
    inputs: dict[str, torch.Tensor]
    answers: tuple[int | str, ...]


def check(item: Item) -> None:
    """Raises ValueError for an item that can not be marked."""
    if item.choices or item.also:
        raise ValueError("expected one answer, the number or name of a label, and no choices")
    if not item.accepted:
        raise ValueError("has no answer, the number or name of a label")
    if item.shots:
        raise ValueError("has examples, which a model that classifies has no use for")


def prepare(tokenizer: Any, items: Sequence[Item]) -> Batch:
    """Tokenise a block of items; InputError for a text that is longer than the model reads."""
    texts = [item.prompt for item in items]
    inputs = tokenizer(texts, padding=len(texts) > 1, return_tensors="pt")
    for item, length in zip(items, inputs["attention_mask"].sum(1).tolist(), strict=True):
        prompts.check_length(tokenizer, item.id, length)
    return Batch(tuple(i.id for i in items), dict(inputs), tuple(i.answer for i in items))


@torch.inference_mode()
def score(model: Any, batch: Batch) -> dict[str, list[float]]:
    """Per item: `score` (0 or 1), `margin` of the right label's logit, `probability` of the label.

    Raises EvaluationError where a logit is not finite, and for a label that the model has not.
    """
    inputs = {key: value.to(model.device) for key, value in batch.inputs.items()}
    logits = model(**inputs).logits.float().cpu()
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise errors.EvaluationError(
            "the scorer 'label' wants a model that classifies whole texts into two or more labels"
        )
    for name, row in zip(batch.ids, logits, strict=True):
        if not row.isfinite().all():
            raise errors.EvaluationError(f"logits of item {name} are not finite")
    asked = zip(batch.ids, batch.answers, strict=True)
    right = torch.tensor([[_index(model, name, answer)] for name, answer in asked])
    wrong = logits.scatter(1, right, -torch.inf).amax(1)
    return {
        "score": (logits.argmax(1, keepdim=True) == right)[:, 0].double().tolist(),
        "margin": (logits.gather(1, right)[:, 0] - wrong).tolist(),
        "probability": logits.softmax(1).gather(1, right)[:, 0].tolist(),
    }


def _index(model: Any, name: str, answer: int | str) -> int:
    known = model.config.label2id
    found = known.get(answer, -1) if isinstance(answer, str) else answer
    if not 0 <= found < model.config.num_labels:
        labels = [str(label) for label in known]
        where = f"item {name}"
        raise errors.EvaluationError(errors.unknown(where, "label", str(answer), labels))
    return int(found)
