"""Steps of torch's Muon on processors that cannot multiply bfloat16."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

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


def step(optimizer: torch.optim.Optimizer) -> None:
    """One step, with the processor's own products of bfloat16 where it has them."""
    if torch.cpu.get_capabilities().get("avx512_f", False):
        optimizer.step()
        return
    with ByFloat32():
        optimizer.step()
