"""Muon for matrices and AdamW for the rest, also on processors that cannot multiply bfloat16."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from evomerge import processor

Optimizer = torch.optim.Optimizer

_PRODUCTS = (torch.addmm, torch.Tensor.matmul, torch.Tensor.__matmul__)


class ByFloat32(TorchFunctionMode):
    """Products of bfloat16 matrices by way of float32, the same but for the order of sums.

    Where no library has a kernel for them, torch multiplies entry by entry, forty times as long.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func not in _PRODUCTS or args[0].dtype != torch.bfloat16:
            return func(*args, **(kwargs or {}))
        return func(*(matrix.float() for matrix in args), **(kwargs or {})).bfloat16()


def optimizers(model: torch.nn.Module, own: dict[str, Any]) -> list[Optimizer]:
    """Muon for the matrices, in as many parts as there are threads; AdamW for all the rest."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.dim() == 2 and "embed" not in name]
    rest = [p for name, p in named if p.dim() != 2 or "embed" in name]
    return [
        torch.optim.AdamW(
            rest, lr=own["vectors"], betas=(0.9, 0.95), weight_decay=0.1, fused=True
        ),
        *(
            torch.optim.Muon(
                matrices[part :: own["threads"]], own["rate"], adjust_lr_fn="match_rms_adamw"
            )
            for part in range(own["threads"])
        ),
    ]


def step(optimizer: Optimizer) -> None:
    """One step, with the processor's own products of bfloat16 where it has them."""
    with nullcontext() if processor.multiplies_bfloat16() else ByFloat32():
        optimizer.step()
