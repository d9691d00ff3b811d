"""Whether a model that classifies texts or images gives an item its label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from evomerge import errors, prompts
from evomerge.files import sources
from evomerge.files.items import Item, constant_score

NEEDS_TOKENIZER = False
"""Images need none; texts are refused without one when they are prepared."""

chance = constant_score


@dataclass(frozen=True)
class Batch:
    """Texts or images of I items; answers are numbers or names of labels.

    `named`: how messages begin that are about an item. `groups`: what the model reads at a time,
    and the numbers of the items that it is of: texts of one length, which need no padding (many a
    model reads that too), or the pixels (I, C, H, W) of all.
    """

    ids: tuple[str, ...]
    named: tuple[str, ...]
    groups: tuple[tuple[list[int], dict[str, torch.Tensor]], ...]
    answers: tuple[int | str, ...]


def check(item: Item) -> None:
    """Raises ValueError for an item that can not be marked."""
    if item.choices or item.also:
        raise ValueError("expected one answer, the number or name of a label, and no choices")
    if not item.accepted:
        raise ValueError("has no answer, the number or name of a label")
    if item.shots:
        raise ValueError("has examples, which a model that classifies has no use for")


def signals(items: Sequence[Item]) -> tuple[str, ...]:
    """What an objective may name of the answers to these items, beside `score`."""
    return ("probability",)


def prepare(tokenizer: Any, items: Sequence[Item]) -> Batch:
    """Tokenise a block of items, or give pixels to the folder's image processor.

    Without a processor pixels go to the model as they are. Raises InputError for a text that is
    longer than the model reads, for texts where images are read, and the other way round.
    """
    is_image, reads = bool(items[0].pixels), getattr(tokenizer, "model_input_names", [""])[0]
    if is_image and tokenizer is not None and reads != "pixel_values":
        raise errors.InputError(f"{items[0].named}: is an image, and the model reads texts")
    if not is_image and (tokenizer is None or reads == "pixel_values"):
        raise errors.InputError(
            f"{items[0].named}: is a text, and the model's folder has no tokenizer to read it"
        )
    every = list(range(len(items)))
    groups = [(every, _pixels(tokenizer, items))] if is_image else _tokens(tokenizer, items)
    ids, named = tuple(i.id for i in items), tuple(i.named for i in items)
    return Batch(ids, named, tuple(groups), tuple(i.answer for i in items))


def _tokens(tokenizer: Any, items: Sequence[Item]) -> list[tuple[list[int], Any]]:
    rows = tokenizer([item.prompt for item in items], verbose=False)
    alike: dict[int, list[int]] = {}
    for i, (item, ids) in enumerate(zip(items, rows["input_ids"], strict=True)):
        prompts.check_length(tokenizer, item, len(ids))
        alike.setdefault(len(ids), []).append(i)
    return [
        (group, {key: torch.tensor([found[i] for i in group]) for key, found in rows.items()})
        for group in alike.values()
    ]


def _pixels(processor: Any, items: Sequence[Item]) -> dict[str, torch.Tensor]:
    images = [np.array(item.pixels, dtype=np.float32) for item in items]
    if processor is not None:
        first = {"input_data_format": "channels_first", "return_tensors": "pt"}
        return dict(processor(images=images, **first))
    odd = [i for i, image in zip(items, images, strict=True) if image.shape != images[0].shape]
    if odd:
        raise errors.InputError(
            f"{odd[0].named}: its image is of another size than that of {items[0].named}, and the "
            "model's folder has no image processor to resize it"
        )
    return {"pixel_values": torch.from_numpy(np.stack(images))}


@torch.inference_mode()
def score(model: Any, batch: Batch) -> dict[str, list[float]]:
    """Per item: `score` (0 or 1), `margin` of the right label's logit, `probability` of the label.

    Raises EvaluationError where a logit is not finite, for a label that the model has not, and
    for a model that gives an item several labels.
    """
    if model.config.problem_type == "multi_label_classification":
        raise errors.EvaluationError(
            "the scorer 'label' wants one label an item, and this model gives several "
            "(problem_type in its config.json): score it with a function of your own"
        )
    read = list(_inputs(model, batch))
    parts = [model(**inputs).logits.float().cpu() for _, inputs in read]
    if any(logits.ndim != 2 or logits.shape[1] < 2 for logits in parts):
        raise errors.EvaluationError(
            "the scorer 'label' wants a model that classifies whole texts or images, into two or "
            "more labels"
        )
    order = torch.tensor([i for group, _ in read for i in group]).argsort()
    logits = torch.cat(parts)[order]
    for name, row in zip(batch.ids, logits, strict=True):
        if not row.isfinite().all():
            raise errors.EvaluationError(f"logits of item {name} are not finite")
    asked = zip(batch.named, batch.answers, strict=True)
    right = torch.tensor([[_index(model, named, answer)] for named, answer in asked])
    wrong = logits.scatter(1, right, -torch.inf).amax(1)
    return {
        "score": (logits.argmax(1, keepdim=True) == right)[:, 0].double().tolist(),
        "margin": (logits.gather(1, right)[:, 0] - wrong).tolist(),
        "probability": logits.softmax(1).gather(1, right)[:, 0].tolist(),
    }


def _inputs(model: Any, batch: Batch) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
    """Items and what the model gets of them at a time: one text where it knows no padding, since
    it could not tell then where several end."""
    one_by_one = getattr(model.config, "pad_token_id", None) is None
    for group, found in batch.groups:
        inputs = {
            key: value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
            for key, value in found.items()
        }
        if "input_ids" in inputs and one_by_one:
            for row, i in enumerate(group):
                yield [i], {key: value[row : row + 1] for key, value in inputs.items()}
        else:
            yield group, inputs


def _index(model: Any, named: str, answer: int | str) -> int:
    known, found = model.config.label2id, answer
    if isinstance(found, str):  # a CSV has numbers as texts
        is_number = found.isdecimal() and len(found) <= sources.LONGEST_INDEX
        found = int(known.get(found, found if is_number else -1))
    if not 0 <= found < model.config.num_labels:
        labels = [str(label) for label in known]
        raise errors.EvaluationError(errors.unknown(named, "label", str(answer), labels))
    return found
