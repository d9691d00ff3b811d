"""Ranks of magnitudes in their rows, which is mostly sorting."""

from __future__ import annotations

import functools

import torch

COARSE = 12
"""Low bits of a float32 that ranks do not look at: 11 of the 23 bits of its mantissa are left, of
which bfloat16 has 7. The place in a row of up to 2^12 takes their room in a key of 32 bits."""

BLOCK = 512
"""Entries of a row up to which NumPy sorts by a network, several times faster than beyond."""


def rank_rows(experts: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """Ranks (K, *, n) of the magnitudes of float32 `experts` - `base` in their rows: 0 for the
    smallest, to n - 1; int16, or int32 for rows that need it.

    By 12 significant bits; of entries that are equal in these the earlier has the lower rank.
    """
    n = base.shape[-1]
    whole = torch.int32 if n <= 2**COARSE else torch.int64
    places = torch.arange(n, device=base.device)
    ranks = places.to(torch.int16 if n <= 2**15 else torch.int32)
    low = 2**COARSE - 1 if whole == torch.int32 else 2**32 - 1
    found, difference = torch.empty_like(experts, dtype=ranks.dtype), torch.empty_like(base)
    for rows, target in zip(experts, found, strict=True):  # keys of one expert stay in a cache
        torch.sub(rows, base, out=difference)
        keys = difference.view(torch.int32).bitwise_and_(2**31 - 2**COARSE)
        if whole == torch.int64:
            keys = keys.long().bitwise_left_shift_(32)
        order = sort_rows(keys.bitwise_or_(places.to(whole))).bitwise_and_(low)
        target.scatter_(-1, order, ranks.expand_as(target))
    return found


def sort_rows(keys: torch.Tensor) -> torch.Tensor:
    """Integers (*, n), each row ascending; on a processor in place."""
    if keys.device.type != "cpu":
        return keys.sort(dim=-1).values
    n = keys.shape[-1]
    if keys.itemsize > 4 or n <= BLOCK:
        keys.numpy().sort(axis=-1)
    else:
        _sort_blocks([keys[..., start : start + BLOCK] for start in range(0, n, BLOCK)])
    return keys


def _sort_blocks(blocks: list[torch.Tensor]) -> None:
    """Blocks of rows in place: each is sorted, and none has more than the next. The last may be
    shorter: it is one that ends with the largest numbers there are."""
    for block in blocks:
        block.numpy().sort(axis=-1)
    for low, high in _comparators(len(blocks)):
        # of two sorted lists, one of them reversed, the lower at each place are the lower half
        reverse = blocks[high].flip(-1)
        end = blocks[low][..., -reverse.shape[-1] :]
        torch.maximum(end, reverse, out=blocks[high])
        torch.minimum(end, reverse, out=end)
        blocks[low].numpy().sort(axis=-1)
        blocks[high].numpy().sort(axis=-1)


@functools.cache
def _comparators(count: int) -> list[tuple[int, int]]:
    """Batcher's merge exchange (1968) for any count, as in Knuth 5.2.2, algorithm M."""
    found, p = [], 1
    while p < count:
        q = p
        while q:
            found += [
                (low, low + q)
                for start in range(q % p, count - q, 2 * q)
                for low in range(start, start + min(q, count - start - q))
                if low // (2 * p) == (low + q) // (2 * p)
            ]
            q //= 2
        p *= 2
    return found
