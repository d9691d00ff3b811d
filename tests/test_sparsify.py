"""Thresholds against sorting; random numbers against their definition."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.maths import counter_rng, sparsify

magnitudes = st.lists(
    st.one_of(st.just(0.0), st.floats(0, 2.0, width=32), st.sampled_from([0.5, 1e-38, 3.0])),
    min_size=1, max_size=60,
)  # fmt: skip


def table(*tiles):
    state = None
    for _ in range(sparsify.PASSES):
        state = sparsify.descend(sum(sparsify.count(tile, state) for tile in tiles), state)
    return sparsify.thresholds(state)


@settings(max_examples=40)
@given(magnitudes, st.integers(1, 256), st.integers(0, 60))
def test_thresholds_are_order_statistics_whatever_the_tiles(values, j, cut):
    row = torch.tensor([values])
    k = max(1, (j * len(values) + 128) // 256)
    expected = row[0].sort(descending=True).values[k - 1].item()
    found = table(row[:, :cut], row[:, cut:])
    assert torch.equal(found, table(row))
    smallest = 2.0**-149
    assert found[0, j].item() == max(expected, smallest)


@settings(max_examples=40)
@given(magnitudes, st.integers(1, 256))
def test_trim_keeps_the_largest_all_ties_and_no_zeros(values, j):
    row = torch.tensor([values])
    k = max(1, (j * len(values) + 128) // 256)
    kept = sparsify.trim(row.clone(), table(row), j / 256) != 0
    limit = row[0].sort(descending=True).values[k - 1]
    assert torch.equal(kept, (row >= limit) & (row > 0))


def test_trim_rows_is_trim_of_each_row():
    rows = torch.randn(2, 5, 13)
    found = sparsify.trim_rows(rows.clone(), 77 / 256)
    for k in range(2):
        for r in range(5):
            row = rows[k, r][None]
            assert torch.equal(
                found[k, r], sparsify.trim(row.clone(), table(row.abs()), 77 / 256)[0]
            )


@given(st.integers(0, 2**64 - 1), st.integers(0, 10**12), st.integers(0, 40))
def test_random_numbers_do_not_depend_on_the_cut(stream, start, cut):
    cpu = torch.device("cpu")
    whole = counter_rng.uniform(stream, start, 40, cpu)
    parts = [
        counter_rng.uniform(stream, start, cut, cpu),
        counter_rng.uniform(stream, start + cut, 40 - cut, cpu),
    ]
    assert torch.equal(whole, torch.cat(parts))
    assert ((whole >= 0) & (whole < 1)).all()


def test_random_numbers_are_splitmix64():
    """Against the definition in Python's integers."""

    def mix(z):
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        return z ^ (z >> 31)

    key = counter_rng.key("seed", "tensor")
    numbers = counter_rng.uniform(key, 5, 3, torch.device("cpu"))
    expected = [(mix((key + i * 0x9E3779B97F4A7C15) % 2**64) >> 40) / 2**24 for i in (6, 7, 8)]
    assert numbers.tolist() == expected


def test_random_numbers_are_uniform_and_independent_of_each_other():
    numbers = counter_rng.uniform(counter_rng.key(1), 0, 200_000, torch.device("cpu")).double()
    n = len(numbers)
    assert abs(numbers.mean() - 0.5) < 4 * (1 / 12 / n) ** 0.5
    assert abs(numbers.var() - 1 / 12) < 0.001
    shifted = torch.corrcoef(torch.stack([numbers[:-1], numbers[1:]]))[0, 1]
    assert abs(shifted) < 4 / n**0.5
    other = counter_rng.uniform(counter_rng.key(2), 0, n, torch.device("cpu")).double()
    assert abs(torch.corrcoef(torch.stack([numbers, other]))[0, 1]) < 4 / n**0.5


@settings(max_examples=30)
@given(magnitudes, st.integers(1, 3))
def test_ranks_are_a_stable_order(values, k):
    rows = torch.tensor([values]).expand(k, 2, len(values)).clone()
    expected = rows[0, 0].argsort(stable=True).argsort() + 1.0
    before = rows.clone()
    assert (sparsify.rank_rows(rows) == expected).all()
    assert torch.equal(rows, before)


@settings(max_examples=30)
@given(magnitudes, st.sampled_from([1, 13, 64, 200, 256]), st.sampled_from([0.0, 0.05, 0.3]))
def test_a_band_is_between_two_order_statistics(values, j, left_out):
    row = torch.tensor(values)
    ordered = row.sort(descending=True).values
    above = int(left_out * len(values))
    last = min(len(values), above + max(1, j * len(values) // 256))
    inside = (row <= ordered[above]) & (row >= ordered[last - 1])
    found = sparsify.band_rows(row.clone(), j / 256, left_out)
    assert torch.equal(found, row * inside)


@settings(max_examples=30)
@given(magnitudes)
def test_the_first_column_that_keeps_an_entry(values):
    row = torch.tensor([values])
    thresholds = table(row)[0]
    found = sparsify.columns(row[0], thresholds)
    for value, column in zip(row[0], found.tolist(), strict=True):
        keeping = (thresholds <= value).nonzero().flatten().tolist()
        assert column == (keeping[0] if keeping else len(thresholds))
