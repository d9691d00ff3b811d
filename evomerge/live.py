"""Where merged tensors end up: a model in memory or a model folder, with the same bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from evomerge import errors
from evomerge.ancestry import not_finite
from evomerge.files import writer
from evomerge.materialize import Merged, Source, Workshop
from evomerge.maths import totals
from evomerge.maths.totals import Totals
from evomerge.plan import Plan


class Live:
    """A model in memory whose weights are overwritten by one plan after another.

    With a `reference` it is counted what of each tensor differs from there.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.Tensor],
        workshop: Workshop,
        reference: Source | None = None,
    ) -> None:
        self.parameters = parameters
        self.workshop = workshop
        self.reference = reference
        self._keys: dict[str, str] = {}
        self._totals: dict[str, Totals] = {}

    @property
    def totals(self) -> Totals:
        """Of all tensors of floating point, as the last plan left them."""
        return sum(self._totals.values(), Totals())

    def build(self, plan: Plan) -> None:
        """Write the tensors that differ from what the model holds.

        Raises EvaluationError, naming the tensor, where a merged value is not finite.
        """
        merged = Merged(plan, self.workshop)
        missing = sorted(set(merged.tensors) - set(self.parameters))
        if missing:
            raise errors.InputError(
                f"{plan.base.name}: transformers does not load {len(missing)} tensors under their "
                f"names, such as '{missing[0]}'"
            )
        for name in merged.tensors:
            key = merged.tensor_key(name)
            if self._keys.get(name) == key:
                continue
            self._keys.pop(name, None)
            self._totals.pop(name, None)
            self._write(merged, name)
            self._keys[name] = key

    @torch.no_grad()
    def _write(self, merged: Merged, name: str) -> None:
        parameter, dtype = self.parameters[name], merged.stored_dtype(name)
        if not parameter.is_contiguous():  # a part of a fused tensor
            tensor = merged.read(name)
            check_finite(name, tensor, merged)
            parameter.copy_(tensor)  # `read` has rounded it
            self._count(name, parameter.reshape(-1), 0)
            return
        flat = parameter.view(-1)
        for start, stop in merged.tiles(name):
            tile = merged.merge(name, start, stop)
            check_finite(name, tile, merged)
            # transformers keeps some parameters in float32, and fills them from a narrower file
            flat[start:stop].copy_(tile if parameter.dtype == dtype else tile.to(dtype))
            self._count(name, flat[start:stop], start)

    def _count(self, name: str, stored: torch.Tensor, start: int) -> None:
        if self.reference is None or not stored.is_floating_point():
            return
        base = self.reference.read_flat(name, start, start + stored.numel())
        self._totals[name] = self._totals.get(name, Totals()) + totals.of(stored, base)


def check_finite(name: str, tile: torch.Tensor, merged: Merged) -> None:
    """Raise EvaluationError for a value that is not finite as it is stored.

    It says where the first one stands in an input, if that is where it came from.
    """
    dtype = merged.stored_dtype(name)
    if not tile.numel() or not dtype.is_floating_point:
        return
    bounds, largest = torch.aminmax(tile), torch.finfo(dtype).max
    if all(-largest <= bound.item() <= largest for bound in bounds):
        return
    if not torch.stack(bounds).to(dtype).isfinite().all():  # all others lie between, rounded too
        reason = "; ".join(_not_finite(name, merged)) or "in no input"
        raise errors.EvaluationError(f"weights of {name} are not finite: {reason}")


def _not_finite(name: str, merged: Merged) -> Iterator[str]:
    info = merged.tensors[name]
    for item, source in zip(merged.plan.inputs(), (merged.base, *merged.experts), strict=True):
        if odd := not_finite(source.read_flat(name, 0, info.numel), info.shape):
            yield f"{item.name} has {odd}"


@torch.inference_mode()
def save(
    plan: Plan,
    workshop: Workshop,
    folder: Path,
    *,
    told: Callable[[int, int], None] = lambda done, total: None,
    **details: Any,
) -> Path:
    """Write a plan's model as a Hugging Face folder; `details` as in files.writer.write.

    `told` is called with the bytes that are written, and those of the whole.
    """
    merged = Merged(plan, workshop)
    sizes = {name: info.shape for name, info in merged.tensors.items()}
    kept = {name: merged.stored_dtype(name) for name in merged.tensors}
    total = sum(info.numel * kept[name].itemsize for name, info in merged.tensors.items())

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        done = 0
        for name, info in merged.tensors.items():
            if not info.numel:
                yield name, torch.empty(info.shape, dtype=kept[name])
            for start, stop in merged.tiles(name):
                tile = merged.merge(name, start, stop)
                check_finite(name, tile, merged)
                yield name, tile.to(kept[name])
            done += info.numel * kept[name].itemsize
            told(done, total)

    return writer.write(
        folder, tensors(), source=workshop.checkpoints.form(plan), dtype=merged.dtype,
        sizes=sizes, dtypes=kept, **details,
    )  # fmt: skip
