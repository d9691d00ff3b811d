"""What the processor at hand can multiply."""

from __future__ import annotations


def multiplies_bfloat16() -> bool:
    """Whether torch has fast products of bfloat16 here; otherwise it goes entry by entry, which
    takes ten times as long as float32."""
    import torch

    known = torch.cpu.get_capabilities()
    return bool(known.get("avx512_f") or known.get("bf16"))
