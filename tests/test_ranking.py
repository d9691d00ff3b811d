"""Ranks and sorted rows are those of a plain stable sort, however long the rows are."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.maths import ranking

LENGTHS = [1, 2, 5, 511, 512, 513, 576, 1021, 1025, 1537, 2053, 3001, 4096, 4097, 5003]


def expected(values: torch.Tensor) -> torch.Tensor:
    """By the first 12 significant bits, the earlier of equals first."""
    coarse = values.abs().view(torch.int32) // 2**12
    return coarse.argsort(dim=-1, stable=True).argsort(dim=-1)


@pytest.mark.parametrize("n", LENGTHS)
def test_ranks_are_a_stable_order(n):
    draw = torch.Generator().manual_seed(n)
    rows = torch.randn(3, 4, n, generator=draw)
    rows[0, 0], rows[1] = 0, rows[1].bfloat16().float()  # all equal; many equal
    before = rows.clone()
    found = ranking.rank_rows(rows, torch.zeros_like(rows[0]))
    assert torch.equal(found.long(), expected(rows))
    assert torch.equal(rows, before)
    assert found.dtype == torch.int16


@settings(max_examples=30)
@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=50),
    st.integers(1, 3),
)
def test_any_magnitudes_are_ranked(values, k):
    rows = torch.tensor([values], dtype=torch.float32).expand(k, 2, len(values)).clone()
    assert torch.equal(ranking.rank_rows(rows, torch.zeros_like(rows[0])).long(), expected(rows))


def test_what_a_bfloat16_tells_apart_has_another_rank():
    """All its magnitudes of one exponent, and those between two of them."""
    steps = 1 + torch.arange(128) / 128
    row = torch.cat([steps, steps + 1 / 256]).flip(0).view(1, 1, -1)
    assert torch.equal(
        ranking.rank_rows(row, torch.zeros_like(row[0])).long(),
        row.argsort(dim=-1).argsort(dim=-1),
    )


@pytest.mark.parametrize("n", [0, *LENGTHS])
def test_rows_are_sorted_in_place(n):
    draw = torch.Generator().manual_seed(n)
    keys = torch.randint(-(2**31), 2**31 - 1, (3, n), dtype=torch.int32, generator=draw)
    keys[-1] = keys[-1] % 7
    wanted = keys.sort(dim=-1).values
    assert ranking.sort_rows(keys) is keys
    assert torch.equal(keys, wanted)


@pytest.mark.parametrize("count", range(1, 34))
def test_a_network_that_sorts_zeros_and_ones_sorts_anything(count):
    """Knuth's zero-one principle; of too many cases, those that change at one place or two."""
    if count <= 10:
        cases = [[n >> i & 1 for i in range(count)] for n in range(2**count)]
    else:
        cases = [
            [int(lowest <= i < top) for i in range(count)]
            for lowest in range(count)
            for top in range(lowest, count + 1)
        ]
    for case in cases:
        row = list(case)
        for low, high in ranking._comparators(count):
            row[low], row[high] = sorted((row[low], row[high]))
        assert row == sorted(case)
