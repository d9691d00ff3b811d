"""Thresholds against sorting; random numbers against their definition."""

import pytest
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


@pytest.mark.parametrize("j", [13, 51, 128, 200])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_a_bracketed_threshold_is_the_exact_one(j, stored):
    """Where the sample misleads, nothing is found rather than another value."""
    generator = torch.Generator().manual_seed(j)
    whole = torch.randn((2, 300_007), generator=generator).to(stored).float().abs()
    guess = sparsify.bracket(whole[:, ::2], j / 256)
    tiles = whole.split(65_536, dim=1)
    parts = [sparsify.count_inside(tile, guess) for tile in tiles]
    sums = {name: sum(part[name] for part in parts) for name in parts[0]}
    found = sparsify.located(sums, guess)
    assert torch.equal(found[:, j], table(whole)[:, j])
    assert found.isnan().sum() == 2 * 256
    doubled = {**sums, "inside": sums["inside"] * 0, "pool": sums["pool"]}
    assert sparsify.located(doubled, guess) is None
    far = sparsify.bracket(2 * whole[:, ::2], j / 256)
    assert sparsify.located(sparsify.count_inside(whole, far), far) is None


def test_a_sample_that_leaves_too_much_open_gives_no_bracket():
    """Few entries, mostly zeros, or a density near the ends."""
    entries = torch.rand((1, 20_000))
    assert sparsify.bracket(entries[:, :100], 0.5) is None
    assert sparsify.bracket(entries * (entries > 0.9), 0.5) is None
    assert sparsify.bracket(entries, 1.0) is None


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


CPU = torch.device("cpu")
both_kinds = pytest.mark.parametrize("kind", [counter_rng.uniform, counter_rng.coarse])


@both_kinds
@given(st.integers(0, 2**64 - 1), st.integers(0, 10**12), st.integers(0, 40))
def test_random_numbers_do_not_depend_on_the_cut(kind, stream, start, cut):
    whole = kind(stream, start, 40, CPU)
    parts = [kind(stream, start, cut, CPU), kind(stream, start + cut, 40 - cut, CPU)]
    assert torch.equal(whole, torch.cat(parts))
    assert ((whole >= 0) & (whole < 1)).all()


def word(stream: int, i: int) -> int:
    """The i-th 32 bits of a stream, in Python's integers."""
    mixed = counter_rng.splitmix64((stream + (i >> 32) * 0x9E3779B97F4A7C15) % 2**64)
    x = ((mixed & 0xFFFFFFFF) + i * (mixed >> 32 | 1)) % 2**32
    x = (x ^ x >> 16) * 0x7FEB352D % 2**32
    return (x ^ x >> 15) * 0x846CA68B % 2**32


@pytest.mark.parametrize("start", [0, 5, 2**31 - 1, 2**32 - 2, 3 * 2**32 + 7])
def test_random_numbers_follow_their_definition(start):
    """Across the ends of 32 bits."""
    stream = counter_rng.key("seed", "tensor")
    fine = [((word(stream, i) >> 8) + 2**23) % 2**24 / 2**24 for i in range(start, start + 4)]
    assert counter_rng.uniform(stream, start, 4, CPU).tolist() == fine
    first, found = 2 * start + 1, []
    for i in range(first, first + 5):
        folded = word(stream, i // 2) ^ word(stream, i // 2) >> 16
        half = folded >> 16 * (i % 2) & 0xFFFF
        found.append(((half + 2**15) % 2**16 + 0.5) / 2**16)
    assert counter_rng.coarse(stream, first, 5, CPU).tolist() == found


def test_a_chance_of_256ths_is_exact():
    """As many of all 2^16 numbers are below it as should be."""
    every = (torch.arange(2**16) + 0.5) / 2**16
    drawn = counter_rng.coarse(3, 0, 2**14, CPU)
    assert torch.isin(drawn, every).all()
    for j in (1, 26, 255, 256):
        assert int((every < j / 256).sum()) == j * 256


def test_splitmix64_is_the_published_one():
    """First outputs for seed 0, from the authors' code: the finaliser over multiples of gamma."""
    found = [counter_rng.splitmix64(i * 0x9E3779B97F4A7C15 % 2**64) for i in (1, 2, 3)]
    assert found == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@both_kinds
def test_random_numbers_are_uniform_and_independent_of_each_other(kind):
    n = 2**18
    for stream in (0, 1, 2**63, counter_rng.key(1)):
        numbers = kind(stream, 0, n, CPU).double()
        assert abs(numbers.mean() - 0.5) < 4.5 * (1 / 12 / n) ** 0.5
        assert abs(numbers.var() - 1 / 12) < 4.5 * (1 / 180 / n) ** 0.5
        last = [numbers * 2**24 % 256] if kind is counter_rng.uniform else []
        for bits in (numbers * 256, numbers * 2**16 % 256, *last):
            counts = torch.bincount(bits.long(), minlength=256)
            chi = ((counts - n / 256) ** 2 / (n / 256)).sum()
            assert abs(chi - 255) < 5 * (2 * 255) ** 0.5
        for lag in (1, 2, 3, 4, 8, 64, 576, 1536, 2**12):
            assert abs(torch.corrcoef(torch.stack([numbers[:-lag], numbers[lag:]]))[0, 1]) < (
                5 / (n - lag) ** 0.5
            ), lag
        pairs = (numbers[:-1] * 16).long() * 16 + (numbers[1:] * 16).long()
        chi = ((torch.bincount(pairs, minlength=256) - n / 256) ** 2 / (n / 256)).sum()
        assert abs(chi - 255) < 6 * (2 * 255) ** 0.5


@both_kinds
def test_streams_that_differ_in_one_bit_are_independent(kind):
    n = 2**16
    for stream in (0, counter_rng.key("a")):
        numbers = kind(stream, 0, n, CPU)
        for bit in range(64):
            other = kind(stream ^ 1 << bit, 0, n, CPU)
            both = torch.stack([numbers, other]).double()
            assert abs(torch.corrcoef(both)[0, 1]) < 5 / n**0.5, bit
            assert ((numbers < 0.1) & (other < 0.1)).float().mean() < 0.01 + 5 * (0.01 / n) ** 0.5
    names = ["a", "b"], ["model.0.w", "model.1.w"]
    streams = [counter_rng.key(0, expert, tensor) for expert in names[0] for tensor in names[1]]
    drawn = torch.stack([kind(each, 0, n, CPU) for each in streams]).double()
    correlations = torch.corrcoef(drawn) - torch.eye(len(streams))
    assert correlations.abs().max() < 5 / n**0.5


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
