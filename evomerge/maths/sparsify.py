"""Which entries of a task vector are kept: exact magnitude thresholds, from addable counts.

The threshold of a density is the k-th largest magnitude, k = max(1, round(density * d)). It is
found by radix selection on the bits of a float32 (non-negative floats sort like their bits) in
three passes of 11, 10 and 10 bits. The counts of tiles, tensors or a whole model add up, so that
no pool of entries, however large, is ever held or sorted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

GRID = 256
"""Densities are multiples of 1/256."""

PASSES = 3
_LAST_BIT = (20, 10, 0)
_CELLS = (2048, 1024, 1024)
_GAP = 8
"""Unused cells after those of a prefix: round numbers are frequent, and the cells of their zeros
would all fall on the same few lines of a cache."""

_LEAST_SAMPLE = 2**13
_MOST_CELLS = 2**20
"""Entries of a sample that a bracket is worth taking from, and values that one may hold."""

State = Mapping[str, torch.Tensor]
"""`prefix` (K, J): leading bits, as known so far, of the k-th largest magnitude of each of J
densities; `left` (K, J): its rank among the entries that share them; `passes`: how many. Between
passes also, for each that is done, a table `slots0`, `slots1` of where to count: see `_slots`."""


def count(magnitudes: torch.Tensor, state: State | None) -> torch.Tensor:
    """Counts (K, prefixes, cells) of a tile of `magnitudes` (K, n), for the pass after `state`."""
    done = 0 if state is None else int(state["passes"])
    width = 1 if state is None else int(state["width"])
    cells, stride = _CELLS[done], _CELLS[done] + _GAP
    shape = (len(magnitudes), width, cells)
    found = torch.empty(shape, dtype=torch.int64, device=magnitudes.device)
    for i, bits in enumerate(magnitudes.contiguous().view(torch.int32)):
        place = bits >> _LAST_BIT[0]
        for level in range(done):
            slot = state[f"slots{level}"][i].index_select(0, place) if state else place
            digit = (bits >> _LAST_BIT[level + 1]).bitwise_and_(_CELLS[level + 1] - 1)
            place = digit.add_(slot, alpha=_CELLS[level + 1] + _GAP)
        counts = torch.bincount(place, minlength=width * stride)
        found[i].copy_(counts[: width * stride].view(width, stride)[:, :cells])
    return found


def bracket(sample: torch.Tensor, density: float) -> dict[str, torch.Tensor] | None:
    """What `count_inside` needs to find the threshold of one density in a single pass.

    `low`, `high` (K,): the bits of magnitudes of `sample` (K, n) a little below and above its own
    threshold. None where they leave too much open, as for entries that are mostly zero.
    """
    n = sample.shape[1]
    if n < _LEAST_SAMPLE:
        return None
    margin = min(0.004, 0.02 * density) + 3 * math.sqrt(density * (1 - density) / n)
    first, last = int((density - margin) * n), int((density + margin) * n)
    if first < 1 or last > n:
        return None
    ends = order_statistics(sample, [first, last]).view(torch.int32)
    low, high = ends[:, 1].clamp(min=1), ends[:, 0] + 1
    if int((high - low).max()) > _MOST_CELLS or bool((low >= high).any()):
        return None
    return {"low": low, "high": high, "density": sample.new_tensor(density)}


def count_inside(magnitudes: torch.Tensor, state: State) -> dict[str, torch.Tensor]:
    """Addable counts of a tile (K, n): `pool`, all entries; `inside` (K, cells), those with each
    value from `low` on, in the last cell those from `high` on. On a processor NumPy selects them
    several times faster."""
    cells = int((state["high"] - state["low"]).max()) + 1
    found = torch.zeros((len(magnitudes), cells), dtype=torch.int64, device=magnitudes.device)
    ends = zip(state["low"].tolist(), state["high"].tolist(), strict=True)
    bits = magnitudes.contiguous().view(torch.int32)
    for row, counts, (low, high) in zip(bits, found, ends, strict=True):
        keys = row if row.device.type != "cpu" else row.numpy()
        place = torch.as_tensor(keys[(keys >= low) & (keys < high)]).sub_(low)
        counts[: high - low].copy_(torch.bincount(place, minlength=high - low))
        counts[high - low] = torch.as_tensor(keys >= high).count_nonzero()
    return {"inside": found, "pool": found.new_tensor(magnitudes.shape[1])}


def located(sums: State, state: State) -> torch.Tensor | None:
    """Like `thresholds`, with the column of the bracket's density alone and the others not a
    number; None if the threshold does not lie in the bracket."""
    j = round(float(state["density"]) * GRID)
    rank = max(1, (j * int(sums["pool"]) + GRID // 2) // GRID)
    table = torch.full((len(state["low"]), GRID + 1), torch.nan, device=state["low"].device)
    for row, counts, low, high in zip(table, sums["inside"], state["low"], state["high"],
                                      strict=True):  # fmt: skip
        here = counts[: int(high - low) + 1]
        above = here.flip(0).cumsum(0)
        if int(above[0]) >= rank or int(above[-1]) < rank:
            return None
        cell = len(here) - 1 - int(torch.searchsorted(above, rank))
        row[j] = (low + cell).view(torch.float32)
    return table


def descend(
    counts: torch.Tensor, state: State | None, parts: Sequence[int] = (), of: int = GRID
) -> dict[str, torch.Tensor]:
    """The state after a pass, from the pooled counts of that pass.

    `parts`: the densities wanted, in units of 1/`of`; all of the grid if not given.
    """
    k, _, cells = counts.shape
    if state is None:
        pool = counts[0].sum()
        wanted = torch.tensor(parts or range(1, GRID + 1), device=counts.device)
        rank = (wanted * pool + of // 2) // of
        prefix = torch.zeros((k, len(wanted)), dtype=torch.int64, device=counts.device)
        state = {"prefix": prefix, "left": rank.clamp(min=1).expand(k, -1), "passes": pool * 0}
    prefixes, left = [], []
    for row, prefix, rank in zip(counts, state["prefix"], state["left"], strict=True):
        slot = torch.searchsorted(torch.unique(prefix), prefix)
        cell, rest = _descend(row, slot, rank)
        prefixes.append(prefix * cells + cell)
        left.append(rest)
    known = {"prefix": torch.stack(prefixes), "left": torch.stack(left)}
    done = int(state["passes"])
    known["passes"] = state["passes"] + 1
    if done + 1 == PASSES:
        return known
    before = 0 if done == 0 else int(state["width"])
    table, width = _slots(known["prefix"], before, cells)
    known |= {name: value for name, value in state.items() if name.startswith("slots")}
    return {**known, f"slots{done}": table, "width": state["passes"].new_tensor(width)}


def _slots(prefix: torch.Tensor, before: int, cells: int) -> tuple[torch.Tensor, int]:
    """A table (K, (before + 1) * stride), int32, and the number of slots it leads to.

    Each wanted prefix of (K, J) has a slot, the others together the one after. The table is asked
    with the slot of the entry's shorter prefix, of which there are `before`, times the stride,
    plus the next bits: an entry costs the same however many are wanted.
    """
    wanted = [torch.unique(row) for row in prefix]
    width = max(len(row) for row in wanted)
    stride = cells + _GAP
    shape = (len(wanted), (before + 1) * stride)
    table = torch.full(shape, width, dtype=torch.int32, device=prefix.device)
    for row, long in zip(table, wanted, strict=True):
        short = long // cells
        place = torch.searchsorted(torch.unique(short), short) * stride + long % cells
        row[place] = torch.arange(len(long), dtype=torch.int32, device=row.device)
    return table, width


def found(state: State) -> torch.Tensor:
    """(K, J) float32 after all passes: the order statistics themselves."""
    return state["prefix"].to(torch.int32).view(torch.float32)


def thresholds(state: State) -> torch.Tensor:
    """(K, GRID + 1) float32 after all passes: column j is the smallest magnitude kept at density
    j / GRID.

    Column 0 is infinite. Zeros are never kept, so the smallest threshold is the least positive
    number. Entries that tie with the threshold are all kept.
    """
    smallest = torch.finfo(torch.float32).smallest_normal * 2**-23
    exact = found(state).clamp(min=smallest)
    return torch.cat([torch.full_like(exact[:, :1], torch.inf), exact], dim=1)


def columns(magnitudes: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """The first column of `table` (GRID + 1,) that keeps each of `magnitudes` (n,); GRID + 1 for
    those that none keeps."""
    kept_by = torch.searchsorted(table.flip(0).contiguous(), magnitudes, right=True)
    return len(table) - kept_by


def trim(task_vectors: torch.Tensor, table: torch.Tensor, density: float) -> torch.Tensor:
    """Zero, in place, all of `task_vectors` (K, *S) but the largest `density` of the pool."""
    kept_from = table[:, round(density * GRID)]
    dropped = torch.nextafter(kept_from, torch.zeros_like(kept_from))
    for row, bound in zip(task_vectors, dropped.tolist(), strict=True):
        torch.hardshrink(row, bound, out=row)
    return task_vectors


def _descend(
    histograms: torch.Tensor, slot: torch.Tensor, rank: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The cell of each `rank`-th largest entry of row `slot` of (W, C), and its rank inside it."""
    above = histograms.flip(1).cumsum(1)
    width, cells = above.shape
    # Each row begins beyond the end of the one before, so that all are one sorted sequence.
    ends = torch.arange(width, device=above.device) * (above[:, -1].max() + 1)
    sequence = (above + ends[:, None]).view(-1)
    position = torch.searchsorted(sequence, rank + ends[slot]) - slot * cells
    position.clamp_(max=cells - 1)
    before = torch.where(position > 0, above[slot, (position - 1).clamp(min=0)], 0)
    return cells - 1 - position, rank - before


def trim_rows(task_vectors: torch.Tensor, density: float) -> torch.Tensor:
    """Like `trim`, in place, each row (last dimension) of (K, R, n) a pool of its own."""
    n = task_vectors.shape[-1]
    if n == 0:
        return task_vectors
    magnitudes = task_vectors.abs()
    kept_from = order_statistics(magnitudes, [max(1, int(density * n + 0.5))])[..., :1]
    return task_vectors.mul_(magnitudes.ge_(kept_from))


def band_rows(task_vectors: torch.Tensor, density: float, left_out: float) -> torch.Tensor:
    """Zero, in place, the largest floor(left_out n) entries of each row of (*, n), and all but
    the next floor(density n), at least one; those that tie with a bound are kept."""
    n = task_vectors.shape[-1]
    if n == 0:
        return task_vectors
    above = min(int(left_out * n), n - 1)
    last = min(n, above + max(1, int(density * n)))
    magnitudes = task_vectors.abs()
    bounds = order_statistics(magnitudes, [above + 1, last])
    not_above = torch.le(magnitudes, bounds[..., :1], out=torch.empty_like(magnitudes))
    return task_vectors.mul_(not_above).mul_(magnitudes.ge_(bounds[..., 1:]))


def order_statistics(magnitudes: torch.Tensor, ranks: Sequence[int]) -> torch.Tensor:
    """(*, len(ranks)): the k-th largest of each row of (*, n), for each k, from 1, of `ranks`."""
    n = magnitudes.shape[-1]
    ordered = magnitudes.clone()
    if magnitudes.device.type != "cpu":
        ordered = ordered.sort(dim=-1).values
    else:  # NumPy's partition of integers, which sort like non-negative floats, is vectorised
        keys, done = ordered.numpy().view(np.int32), 0
        for place in sorted({n - rank for rank in ranks}):
            keys[..., done:].partition(place - done, axis=-1)
            done = place
    return ordered[..., [n - rank for rank in ranks]]
