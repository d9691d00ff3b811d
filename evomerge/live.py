"""Where merged tensors end up: a model in memory or a model folder, with the same bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from evomerge import errors
from evomerge.files import writer
from evomerge.materialize import Merged, Workshop, leaves
from evomerge.plan import Plan


class Live:
    """A model in memory whose weights are overwritten by one plan after another."""

    def __init__(self, parameters: Mapping[str, torch.Tensor], workshop: Workshop) -> None:
        self.parameters = parameters
        self.workshop = workshop
        self._keys: dict[str, str] = {}

    def build(self, plan: Plan) -> None:
        """Write the tensors that differ from what the model holds.

        Raises EvaluationError, naming the tensor, where a merged value is not finite.
        """
        merged = Merged(plan, self.workshop)
        for name in merged.tensors:
            key = merged.tensor_key(name)
            if self._keys.get(name) == key:
                continue
            self._keys.pop(name, None)
            self._write(merged, name)
            self._keys[name] = key

    @torch.no_grad()
    def _write(self, merged: Merged, name: str) -> None:
        flat = self.parameters[name].view(-1)
        for start, stop in merged.tiles(name):
            tile = merged.unrounded(name, start, stop)
            check_finite(name, tile, merged)
            flat[start:stop].copy_(tile)


def check_finite(name: str, tile: torch.Tensor, merged: Merged) -> None:
    if not tile.numel():
        return
    bounds = torch.stack(torch.aminmax(tile)).to(merged.stored_dtype(name))
    if not bounds.isfinite().all():  # rounding keeps the order: all others lie between
        raise errors.EvaluationError(f"weights of {name} are not finite")


def save(plan: Plan, workshop: Workshop, folder: Path, **details: Any) -> Path:
    """Write a plan's model as a Hugging Face folder; `details` as in files.writer.write."""
    merged = Merged(plan, workshop)
    base = next(leaves(plan))

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for name in merged.tensors:
            tensor = merged.read(name)
            check_finite(name, tensor, merged)
            yield name, tensor

    sizes = {name: info.shape for name, info in merged.tensors.items()}
    kept = {name: merged.stored_dtype(name) for name in merged.tensors}
    source = workshop.checkpoints[base.sha256].folder
    return writer.write(
        folder, tensors(), source=source, dtype=merged.dtype, sizes=sizes, dtypes=kept, **details
    )
