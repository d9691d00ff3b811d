"""Random numbers as a pure function of (seed, names, position): the order of asking is irrelevant.

SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators") over a
counter, keyed by a sha256 of what the stream belongs to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


def key(*parts: object) -> int:
    """A 64-bit key for a stream, from the text of `parts`."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def uniform(stream: int, start: int, count: int, device: torch.device) -> torch.Tensor:
    """Numbers `start` to `start + count` of a stream: (count,) float32 in [0, 1), 24 bits each."""
    bits = torch.arange(start + 1, start + count + 1, dtype=torch.int64, device=device)
    bits = bits.mul_(_signed(_GOLDEN)).add_(_signed(stream))
    bits = bits.bitwise_xor_(_shift(bits, 30)).mul_(_signed(_MIX_1))
    bits = bits.bitwise_xor_(_shift(bits, 27)).mul_(_signed(_MIX_2))
    top = _shift(bits.bitwise_xor_(_shift(bits, 31)), 40)
    return top.to(torch.float32) * 2.0**-24


def _signed(value: int) -> int:
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def _shift(bits: torch.Tensor, by: int) -> torch.Tensor:
    return (bits >> by).bitwise_and_(2 ** (64 - by) - 1)


@dataclass(frozen=True)
class Noise:
    """The random numbers that belong to the elements `start` onwards of one tensor."""

    seed: int
    tensor: str
    experts: Sequence[str]
    start: int = 0

    def uniform(self, like: torch.Tensor) -> torch.Tensor:
        """(K, *S) float32 in [0, 1) for the elements of `like` (K, *S), a stream an expert."""
        count = like[0].numel()
        rows = [
            uniform(key(self.seed, name, self.tensor), self.start, count, like.device)
            for name in self.experts
        ]
        return torch.stack(rows).view(like.shape)
