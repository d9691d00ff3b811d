"""Similarity of task vectors: closed forms, chance levels, and the stream over real folders."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import evomerge
from evomerge import errors, similarity
from evomerge.maths import similarity as maths
from evomerge.report import heatmaps
from evomerge.signals import CHANCE, EXPERT, PAIR
from tests import model_folders

NOTHING_KEPT = torch.zeros(2, 4, dtype=torch.bool)
ONE = torch.tensor([1.0, -2.0, 0.0, 4.0])


def found(task_vectors, kept=None, base=None):
    rows = torch.stack(task_vectors)
    kept = torch.ones_like(rows, dtype=torch.bool) if kept is None else kept
    return maths.sums(torch.ones(rows.shape[1]) if base is None else base, rows, kept)


@pytest.mark.parametrize(
    "other, cosine, conflict, cancelled, overlap, distance",
    [
        (ONE, 1, 0, 0, 1, 0),
        (3 * ONE, 1, 0, 0, 1, 2),
        (-ONE, -1, 1, 1, 1, 2),
        (torch.tensor([2.0, 1.0, 7.0, 0.0]), 0, 0.5, 1 - 15 / 17, 2 / 4, math.sqrt(75 / 21)),
    ],
    ids=["equal", "scaled", "opposite", "orthogonal"],
)
def test_pairs_in_closed_form(other, cosine, conflict, cancelled, overlap, distance):
    rows = torch.stack([ONE, other])
    signals = maths.pairs(found([ONE, other], rows != 0, ONE))
    keys = ("cosine", "sign_conflict", "weighted_conflict", "trim_overlap", "distance")
    got = [float(signals[key][0, 1]) for key in keys]
    want = [cosine, conflict, cancelled, overlap, distance]
    assert got == pytest.approx(want, abs=1e-7)
    assert torch.equal(signals["cosine"], signals["cosine"].T)


def test_what_is_undefined_is_nan():
    signals = maths.pairs(found([ONE, torch.zeros(4)], NOTHING_KEPT))
    for key in ("cosine", "sign_conflict", "trim_overlap", "trimmed_conflict"):
        assert math.isnan(signals[key][0, 1]), key
    assert float(signals["weighted_conflict"][0, 1]) == 0
    assert maths.norm_ratio(found([ONE, torch.zeros(4)])) == math.inf
    flat = maths.Spectrum(torch.zeros(3, 3, dtype=torch.float64))
    full = maths.Spectrum(torch.eye(3, dtype=torch.float64))
    assert flat.rank == 0 and math.isnan(flat.effective_rank)
    assert math.isnan(maths.alignment(full, flat)[0])
    assert all(math.isnan(value) for value in maths.overlap(flat, full))


def test_norms_and_what_all_experts_cancel():
    sums = found([ONE, -ONE, 2 * ONE], base=2 * ONE)
    assert maths.norms(sums).tolist() == pytest.approx([0.5, 0.5, 1.0])
    assert maths.norm_ratio(sums) == pytest.approx(2)
    assert maths.cancelled(sums) == pytest.approx(1 - 2 / 4)


@given(st.integers(1, 40), st.integers(1, 4), st.integers(0, 10**6), st.integers(1, 39))
def test_sums_of_tiles_are_those_of_the_whole(n, k, seed, cut):
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randint(-2, 3, (k, n), generator=draw).float()
    base = torch.randint(-2, 3, (n,), generator=draw).float()
    kept = torch.rand((k, n), generator=draw) < 0.5
    whole = maths.sums(base, rows, kept)
    cut = min(cut, n)
    parts = [
        maths.sums(base[part], rows[:, part], kept[:, part])
        for part in (slice(None, cut), slice(cut, None))
    ]
    for key, value in whole.items():
        assert torch.equal(value, parts[0][key] + parts[1][key]), key


def test_random_task_vectors_are_at_chance():
    draw = torch.Generator().manual_seed(1)
    rows = torch.randn((2, 200_000), generator=draw)
    kept = rows.abs() >= rows.abs().quantile(0.8, dim=1, keepdim=True)
    signals = {
        key: float(value[0, 1]) for key, value in maths.pairs(found(list(rows), kept)).items()
    }
    assert signals["cosine"] == pytest.approx(0, abs=0.01)
    assert signals["sign_conflict"] == pytest.approx(0.5, abs=0.01)
    assert signals["weighted_conflict"] == pytest.approx(1 - math.sqrt(0.5), abs=0.01)
    assert signals["trim_overlap_chance"] == pytest.approx(0.2 / 1.8, abs=1e-4)
    assert signals["trim_overlap"] == pytest.approx(0.2 / 1.8, abs=0.005)


def gram(matrix):
    wide = matrix.double()
    return wide @ wide.T


@pytest.mark.parametrize("rows, columns", [(1, 1), (1, 7), (3, 5), (7, 7), (13, 31)])
def test_a_spectrum_is_that_of_the_svd(rows, columns):
    matrix = torch.randn((rows, columns), generator=torch.Generator().manual_seed(rows))
    spectrum = maths.Spectrum(gram(matrix))
    left, values, _ = torch.linalg.svd(matrix.double())
    assert spectrum.values == pytest.approx(values, abs=1e-6)
    shares = values / values.sum()
    assert spectrum.effective_rank == pytest.approx(float((-shares * shares.log()).sum().exp()))
    norms = (values.square().cumsum(0) / values.square().sum()).sqrt()
    assert norms[spectrum.rank - 1] > 0.95
    assert spectrum.rank == 1 or norms[spectrum.rank - 2] <= 0.95
    inside, _ = maths.alignment(spectrum, spectrum)
    projected = left[:, : spectrum.rank] @ left[:, : spectrum.rank].T @ matrix.double()
    assert inside == pytest.approx(float(projected.norm() / matrix.double().norm()))


@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_equal_singular_values_have_full_rank_and_one_has_rank_one(n):
    assert maths.Spectrum(torch.eye(n, dtype=torch.float64)).effective_rank == pytest.approx(n)
    outer = maths.Spectrum(gram(torch.outer(torch.arange(1.0, n + 1), torch.ones(5))))
    assert outer.rank == 1 and outer.effective_rank == pytest.approx(1, abs=1e-4)


def test_subspaces_equal_orthogonal_and_at_chance():
    draw = torch.Generator().manual_seed(0)
    p, k = 60, 6
    basis = torch.linalg.qr(torch.randn((p, p), generator=draw, dtype=torch.float64))[0]
    one = maths.Spectrum(gram(basis[:, :k]))
    other = maths.Spectrum(gram(basis[:, k : 2 * k]))
    assert one.rank == other.rank == k
    assert maths.overlap(one, one)[0] == pytest.approx(1)
    assert maths.alignment(one, one)[0] == pytest.approx(1)
    assert maths.overlap(one, other) == pytest.approx((0, k / p), abs=1e-12)
    assert maths.alignment(one, other) == pytest.approx((0, math.sqrt(k / p)), abs=1e-6)
    inside, shares = [], []
    for seed in range(40):
        draw = torch.Generator().manual_seed(seed)
        basis = torch.linalg.qr(torch.randn((p, k), generator=draw, dtype=torch.float64))[0]
        random = maths.Spectrum(gram(basis))
        shares.append(maths.overlap(one, random)[0])
        inside.append(maths.alignment(random, maths.Spectrum(torch.eye(p).double()))[0])
    assert np.mean(shares) == pytest.approx(k / p, rel=0.1)
    assert inside == pytest.approx([math.sqrt(k / p)] * 40)


@pytest.fixture
def models(tmp_path):
    """Base and three experts: random, its opposite, and one that changes other tensors."""
    draw = torch.Generator().manual_seed(0)
    shapes = {
        "model.embed_tokens.weight": (11, 5), "model.layers.0.mlp.up_proj.weight": (7, 5),
        "model.layers.0.self_attn.q_proj.weight": (5, 5),
        "model.layers.0.input_layernorm.weight": (5,),
        "model.layers.1.mlp.up_proj.weight": (5, 13), "model.layers.1.mlp.scale": (),
        "model.norm.weight": (1,), "model.layers.1.mlp.ids": (3,),
        "model.layers.1.mlp.none": (0,),
    }  # fmt: skip
    base = {n: torch.randn(shape, generator=draw) for n, shape in shapes.items()}
    base["model.layers.1.mlp.ids"] = torch.arange(3)
    step = {n: torch.randn(t.shape, generator=draw) for n, t in base.items()}
    step["model.layers.1.mlp.ids"] = torch.zeros(3, dtype=torch.int64)
    first = {n: t if ".1." in n else 0 * t for n, t in step.items()}
    rest = {n: 0 * t if ".1." in n else t for n, t in step.items()}
    deltas = {"plus": first, "minus": {n: -t for n, t in first.items()}, "rest": rest}
    model_folders.save(tmp_path / "base", base)
    for name, delta in deltas.items():
        model_folders.save(tmp_path / name, {n: t + delta[n] for n, t in base.items()})
    return tmp_path


def test_groups_of_real_folders(models):
    experts = {name: models / name for name in ("plus", "minus", "rest")}
    found = evomerge.compare(models / "base", experts, density=1)
    assert found.whole.entries == 55 + 35 + 25 + 5 + 65 + 1 + 1 and found.matrices == 4
    assert {group.name for group in found.groups} == {
        "embedding", "1/mlp", "1/attention", "1/norm", "2/mlp", "2/norm"
    }  # fmt: skip
    pair = found.whole.pairs
    assert pair["plus", "minus"]["cosine"] == pytest.approx(-1, abs=1e-6)
    assert pair["plus", "minus"]["weighted_conflict"] == pytest.approx(1, abs=1e-6)
    assert pair["plus", "minus"]["subspace_overlap"] == pytest.approx(1)
    assert pair["plus", "rest"]["cosine"] == 0
    assert math.isnan(pair["plus", "rest"]["sign_conflict"])
    assert pair["plus", "rest"]["trim_overlap"] == 0
    second = next(group for group in found.groups if group.name == "2/mlp")
    assert second.experts["rest"]["norm"] == 0 and second.norm_ratio == math.inf
    assert second.experts["plus"]["norm"] == pytest.approx(second.experts["minus"]["norm"])


def test_the_tile_changes_no_signal(models, monkeypatch):
    experts = [models / name for name in ("plus", "rest")]
    whole = json.loads(evomerge.compare(models / "base", experts, density=0.3).to_json())
    monkeypatch.setattr(similarity, "TILE", 3)
    tiled = json.loads(evomerge.compare(models / "base", experts, density=0.3).to_json())

    def same(a, b):
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
        if isinstance(a, list):
            return len(a) == len(b) and all(map(same, a, b))
        return a == pytest.approx(b, abs=1e-7) if isinstance(a, float) else a == b

    assert same(whole, tiled)


def test_trimming_keeps_the_largest_of_each_tensor(models):
    found = evomerge.compare(models / "base", [models / "plus"] * 2, density=0.25)
    assert found.density == 0.25
    for row in found.whole.pairs.values():
        assert row["trim_overlap"] == 1 and row["trim_overlap_chance"] < 1


def test_large_matrices_are_left_out_and_counted(models):
    found = evomerge.compare(models / "base", [models / "plus", models / "rest"], largest_matrix=4)
    assert (found.matrices, found.measured) == (4, 0)
    assert math.isnan(found.whole.experts["plus"]["effective_rank"])
    assert '"effective_rank": null' in found.to_json()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["base", "plus"])
def test_values_that_are_not_finite_are_named(models, where, value):
    from safetensors.torch import load_file

    tensors = load_file(models / where / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][2, 3] = value
    model_folders.save(models / where, tensors)
    with pytest.raises(errors.InputError) as caught:
        evomerge.compare(models / "base", [models / "plus", models / "rest"])
    assert f"{where}: values of 'model.layers.1.mlp.up_proj.weight' are not" in str(caught.value)


@pytest.mark.parametrize(
    "options, code, says",
    [
        (["--density", "0"], 2, "density: expected 1/256 to 1, got 0.0"),
        (["--blocks", "9"], 2, "expected 1 to 2"),
        (["--blocks", "some"], 2, "expected a whole number from 1, or 'all'"),
        (["--blocks", "\u00b2"], 2, "expected a whole number from 1, or 'all'"),
        (["--largest-matrix", "-1"], 2, "largest_matrix: expected at least 0"),
        (["no-such-model"], 3, "no such folder"),
    ],
)
def test_wrong_input_is_one_message(models, refused, options, code, says):
    refused("compare", models / "base", models / "plus", *options, code=code, says=says)


def test_json_alone_on_stdout_and_a_page_that_needs_no_network(models, run, tmp_path):
    names = ["plus", "minus", "rest"]
    page = tmp_path / "compare.html"
    folders = [models / name for name in names]
    code, out, err = run("compare", models / "base", *folders, "--json", "-o", page)
    data = json.loads(out)
    assert code == 0 and data["experts"] == names and "comparing 3 experts" in err
    assert len(data["whole"]["pairs"]) == 3
    expected = {"experts", *PAIR, *(f"{n}_chance" for n in CHANCE if n in PAIR)}
    assert set(data["whole"]["pairs"][0]) == expected
    text = page.read_text()
    assert "<script src" not in text and "4 of 4 matrices" in text
    for signal in (*heatmaps.PAIRS.values(), *heatmaps.EXPERTS.values()):
        assert signal.title in text
    assert list(heatmaps.PAIRS) == list(PAIR) and list(heatmaps.EXPERTS) == list(EXPERT)
    code, out, _ = run("compare", models / "base", folders[0], "--blocks", "2")
    assert code == 0 and "plus" in out
