"""Which entries of a task vector are kept: exact magnitude thresholds, from addable counts.

The threshold of a density is the k-th largest magnitude, k = max(1, round(density * d)). It is
found by radix selection on the bits of a float32 (non-negative floats sort like their bits) in
three passes of 11, 10 and 10 bits. The counts of tiles, tensors or a whole model add up, so that
no pool of entries, however large, is ever held or sorted.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

GRID = 256
"""Densities are multiples of 1/256."""

PASSES = 3
_LAST_BIT = (20, 10, 0)
_CELLS = (2048, 1024, 1024)

Counts = Mapping[str, torch.Tensor]


def count(magnitudes: torch.Tensor, counts: Counts | None) -> dict[str, torch.Tensor]:
    """Counts (K, ...) of one tile of `magnitudes` (K, n) for the pass that follows `counts`."""
    done = 0 if counts is None else len(counts)
    bits = magnitudes.contiguous().view(torch.int32)
    cell = (bits >> _LAST_BIT[done]) & (_CELLS[done] - 1)
    if done == 0:
        return {"0": torch.stack([torch.bincount(row, minlength=2048) for row in cell])}
    assert counts is not None
    wanted = [torch.unique(prefix) for prefix in _prefixes(counts)]
    slots = max(len(prefix) for prefix in wanted)
    tables = []
    for row, row_bits, prefix in zip(cell, bits, wanted, strict=True):
        have = row_bits >> _LAST_BIT[done - 1]
        slot = torch.searchsorted(prefix, have).clamp_(max=len(prefix) - 1)
        hit = prefix[slot] == have
        table = torch.bincount(slot[hit] * 1024 + row[hit], minlength=slots * 1024)
        tables.append(table.view(slots, 1024))
    return {str(done): torch.stack(tables)}


def thresholds(counts: Counts) -> torch.Tensor:
    """(K, GRID + 1) float32: column j is the smallest magnitude kept at density j / GRID.

    Column 0 is infinite. Zeros are never kept, so the smallest threshold is the least positive
    number. Entries that tie with the threshold are all kept.
    """
    smallest = torch.finfo(torch.float32).smallest_normal * 2**-23
    exact = _prefixes(counts).to(torch.int32).view(torch.float32).clamp(min=smallest)
    return torch.cat([torch.full_like(exact[:, :1], torch.inf), exact], dim=1)


def trim(
    task_vectors: torch.Tensor, table: torch.Tensor, density: float | torch.Tensor
) -> torch.Tensor:
    """`task_vectors` (K, *S) with all but the largest `density` of the pool set to zero."""
    column = torch.as_tensor(density).mul(GRID).round().long().clamp(0, GRID)
    kept_from = table.gather(1, column.expand(len(table)).unsqueeze(1))
    kept_from = kept_from.view(-1, *[1] * (task_vectors.dim() - 1))
    return task_vectors * (task_vectors.abs() >= kept_from)


def _prefixes(counts: Counts) -> torch.Tensor:
    """(K, GRID): leading bits of the k-th largest magnitude of each density, as known so far."""
    first = counts["0"]
    pool = first[0].sum()
    rank = (torch.arange(1, GRID + 1, device=first.device) * pool + GRID // 2) // GRID
    return torch.stack([_descend_all(counts, k, rank.clamp(min=1)) for k in range(len(first))])


def _descend_all(counts: Counts, k: int, rank: torch.Tensor) -> torch.Tensor:
    prefix, left = _descend(counts["0"][k].expand(GRID, -1), rank)
    for done in range(1, len(counts)):
        slot = torch.searchsorted(torch.unique(prefix), prefix)
        cell, left = _descend(counts[str(done)][k][slot], left)
        prefix = prefix * 1024 + cell
    return prefix


def _descend(histogram: torch.Tensor, rank: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each row of (R, C): the cell of its `rank`-th largest entry, and the rank inside it."""
    above = histogram.flip(1).cumsum(1)
    position = (above < rank[:, None]).sum(1)
    before = torch.where(
        position > 0, above.gather(1, (position - 1).clamp(min=0)[:, None])[:, 0], 0
    )
    return histogram.shape[1] - 1 - position, rank - before


def trim_rows(task_vectors: torch.Tensor, density: float) -> torch.Tensor:
    """Like `trim`, each row (last dimension) of (K, R, n) a pool of its own."""
    n = task_vectors.shape[-1]
    if n == 0:
        return task_vectors
    magnitudes = task_vectors.abs()
    kept = max(1, int(density * n + 0.5))
    kept_from = magnitudes.topk(kept, dim=-1).values[..., -1:]
    return task_vectors * (magnitudes >= kept_from)
