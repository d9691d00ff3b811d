"""Random numbers as a pure function of (seed, names, position): the order of asking is irrelevant.

A Weyl sequence of 32-bit integers through two rounds of xor, shift and multiply (constants of
Wellons 2018, "Prospecting for hash functions", lowbias32). A sha256 of what the stream belongs to,
through SplitMix64 (Steele, Lea & Flood 2014), gives its step and its start.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

_GOLDEN = 0x9E3779B97F4A7C15
_ROUNDS = ((16, 0x7FEB352D), (15, 0x846CA68B - 2**32))
_TABLE = 2**18


def key(*parts: object) -> int:
    """A 64-bit key for a stream, from the text of `parts`."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def uniform(stream: int, start: int, count: int, device: torch.device) -> torch.Tensor:
    """Numbers `start` to `start + count` of a stream: (count,) float32 in [0, 1), 24 bits each."""
    bits = _words(stream, start, count, device)
    # the top 24 bits, signed: from -1/2 to 1/2
    found = bits.bitwise_right_shift_(_number(8, device)).to(torch.float32)
    half = _number(0.5, device, torch.float32)
    return torch.add(half, found, alpha=2.0**-24, out=found)  # exact


def coarse(stream: int, start: int, count: int, device: torch.device) -> torch.Tensor:
    """The same of 16 bits, two of each 32: (k + 1/2) / 2^16, so that a chance that is a multiple
    of 2^-16 is exact. In half the time."""
    first = start // 2
    bits = _words(stream, first, (start + count + 1) // 2 - first, device)
    _fold(bits, torch.empty_like(bits), 16)  # the lower half of a product depends on too little
    found = bits.view(torch.int16)[start % 2 :][:count].to(torch.float32)
    middle = _number(0.5 + 2.0**-17, device, torch.float32)
    return torch.add(middle, found, alpha=2.0**-16, out=found)  # exact


def _words(stream: int, start: int, count: int, device: torch.device) -> torch.Tensor:
    """32-bit numbers of a stream (count,), int32, of which the upper bits are the better ones."""
    block, offset = divmod(start, 2**32)
    if offset + count > 2**32:  # each 2^32 numbers have a key of their own
        here = 2**32 - offset
        rest = _words(stream, start + here, count - here, device)
        return torch.cat([_words(stream, start, here, device), rest])
    mixed = splitmix64((stream + block * _GOLDEN) % 2**64)
    step, begin = mixed >> 32 | 1, mixed & 0xFFFFFFFF
    first = torch.tensor(_signed(begin + offset * step), dtype=torch.int32, device=device)
    bits = torch.add(first, _counters(count, device), alpha=_signed(step))
    moved = torch.empty_like(bits)
    for by, factor in _ROUNDS:
        _fold(bits, moved, by)
        bits.mul_(_number(factor, device))
    return bits


def _fold(bits: torch.Tensor, moved: torch.Tensor, by: int) -> None:
    """x <- x xor (x >> by), of numbers without a sign."""
    torch.bitwise_right_shift(bits, _number(by, bits.device), out=moved)
    moved.bitwise_and_(_number(2 ** (32 - by) - 1, bits.device))
    bits.bitwise_xor_(moved)


def splitmix64(value: int) -> int:
    """The finaliser of SplitMix64: all 64 bits of the result depend on all of `value`."""
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
    return value ^ value >> 31


def _counters(count: int, device: torch.device) -> torch.Tensor:
    if count > _TABLE:
        return torch.arange(count, dtype=torch.int32, device=device)
    return _table(device)[:count]


@functools.cache
def _table(device: torch.device) -> torch.Tensor:
    return torch.arange(_TABLE, dtype=torch.int32, device=device)


@functools.cache
def _number(value: float, device: torch.device, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    """Python's numbers are made tensors of another type at each call, and converted."""
    return torch.tensor(value, dtype=dtype, device=device)


def _signed(value: int) -> int:
    value &= 2**32 - 1
    return value - 2**32 if value >= 2**31 else value


@dataclass(frozen=True)
class Noise:
    """The random numbers that belong to the elements `start` onwards of one tensor."""

    seed: int
    tensor: str
    experts: Sequence[str]
    start: int = 0

    def rows(self, like: torch.Tensor) -> Iterator[torch.Tensor]:
        """(*S) float32 in (0, 1) for each row of `like` (K, *S), a stream an expert: `coarse`."""
        for row, name in zip(like, self.experts, strict=True):
            stream = key(self.seed, name, self.tensor)
            yield coarse(stream, self.start, row.numel(), row.device).view(row.shape)
