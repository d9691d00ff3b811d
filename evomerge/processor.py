"""What the processor at hand can multiply."""

from __future__ import annotations


def multiplies_bfloat16() -> bool:
    """Whether torch has a kernel for products of bfloat16 here; without one it goes entry by
    entry, which takes ten times as long as float32."""
    import torch

    # what torch itself goes by; a build without oneDNN has no such question
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is not None and bool(supported())
