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
    return fill(torch.empty(count, device=device), stream, start)


def fill(found: torch.Tensor, stream: int, start: int) -> torch.Tensor:
    """The same, written into a float32 vector (count,)."""
    count, device = len(found), found.device
    block, offset = divmod(start, 2**32)
    if offset + count > 2**32:  # each 2^32 numbers have a key of their own
        here = 2**32 - offset
        fill(found[:here], stream, start)
        fill(found[here:], stream, start + here)
        return found
    mixed = splitmix64((stream + block * _GOLDEN) % 2**64)
    step, begin = mixed >> 32 | 1, mixed & 0xFFFFFFFF

    def number(value: int) -> torch.Tensor:
        return _number(value, device)

    first = torch.tensor(_signed(begin + offset * step), dtype=torch.int32, device=device)
    bits = torch.add(first, _counters(count, device), alpha=_signed(step))
    moved = torch.empty_like(bits)
    for by, factor in _ROUNDS:
        torch.bitwise_right_shift(bits, number(by), out=moved)
        moved.bitwise_and_(number(2 ** (32 - by) - 1))
        bits.bitwise_xor_(moved).mul_(number(factor))
    # the top 24 bits, signed: from -1/2 to 1/2
    found.copy_(bits.bitwise_right_shift_(number(8)))
    return torch.add(_half(device), found, alpha=2.0**-24, out=found)  # exact


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
def _number(value: int, device: torch.device) -> torch.Tensor:
    """Python's numbers are made tensors of another type at each call, and converted."""
    return torch.tensor(value, dtype=torch.int32, device=device)


@functools.cache
def _half(device: torch.device) -> torch.Tensor:
    return torch.tensor(0.5, device=device)


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
        """(*S) float32 in [0, 1) for each row of `like` (K, *S), a stream an expert."""
        for row, name in zip(like, self.experts, strict=True):
            drawn = torch.empty(row.numel(), device=row.device)
            yield fill(drawn, key(self.seed, name, self.tensor), self.start).view(row.shape)
