"""Spectral operators against their definitions, by singular value decompositions of torch."""

import pytest
import torch

from evomerge.maths import spectral
from tests.contracts.test_closed_forms import close
from tests.contracts.test_operators import merge, place_of, tensors

MATRICES = [(5, 7), (7, 5), (1, 5), (11, 3), (13, 13), (2, 2)]


def svd(matrix):
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    return left, values, right.mT


def nearest_orthonormal(matrix):
    left, _, right = svd(matrix)
    return left @ right.mT


@pytest.mark.parametrize("shape", MATRICES)
def test_svd_and_polar(shape):
    matrix = tensors(shape, 1)[0]
    factors, values = spectral.svd(matrix), svd(matrix)[1]
    assert close(factors.values, values) and close(factors.product(), matrix.double())
    assert close(spectral.polar(matrix), nearest_orthonormal(matrix))


@pytest.mark.parametrize("shape", MATRICES)
def test_spectral_concat_contains_the_methods(shape):
    task_vectors, rank = tensors(shape, 3)[1].double(), min(shape)
    total = task_vectors.sum(0)
    assert close(spectral.spectral_concat(task_vectors, rank, 0), total)
    left, values, right = svd(total)
    flat = spectral.spectral_concat(task_vectors, rank, 0, flatten=1.0)
    assert close(flat, values.mean() * left @ right.mT)
    half = spectral.spectral_concat(task_vectors, rank, 0, flatten=0.5)
    assert close(half, (flat + total) / 2)
    k = max(1, rank // 3)
    if rank >= 3:
        plain = spectral.spectral_concat(task_vectors, 0, k, orthogonalise=False)
        parts = [svd(one) for one in task_vectors]
        assert close(plain, sum((u[:, :k] * s[:k]) @ v[:, :k].mT for u, s, v in parts))
        sides = [torch.cat([part[i][:, :k] for part in parts], dim=1) for i in (0, 2)]
        stacked = torch.cat([part[1][:k] for part in parts])
        expected = nearest_orthonormal(sides[0]) * stacked @ nearest_orthonormal(sides[1]).mT
        assert close(spectral.spectral_concat(task_vectors, 0, k), expected)


@pytest.mark.parametrize("shape", MATRICES)
def test_tsv_special_cases(shape):
    base, experts = tensors(shape, 3)
    alone = merge("tsv", base, experts[:1], weight=0.6)
    assert close(alone - base, 0.6 * (experts[0] - base))
    weight = torch.tensor([1.0, 0.5, -0.7])
    if min(shape) >= 3:
        weighted = (experts - base) * weight.view(3, 1, 1)
        expected = spectral.spectral_concat(weighted, 0, min(shape) // 3)
        assert close(merge("tsv", base, experts, weight=weight) - base, expected.float(), 1e-4)
    identical = experts[:1].expand(3, *shape)
    assert merge("tsv", base, identical).isfinite().all()


def test_tsv_of_orthogonal_tasks_is_their_sum():
    """Nothing interferes, so nothing has to be made orthonormal."""
    basis = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)))[0]
    experts = torch.stack([basis[:, i : i + 2] @ basis[i : i + 2] for i in (0, 2, 4)])
    assert close(merge("tsv", torch.zeros(6, 6), experts), experts.sum(0))


@pytest.mark.parametrize("shape", MATRICES)
def test_iso_c_is_the_mean_singular_value_in_all_directions(shape):
    base, experts = tensors(shape, 3)
    left, values, right = svd((experts - base).sum(0))
    found = merge("iso_c", base, experts) - base
    assert close(found, (values.mean() * left @ right.mT).float(), 1e-4)
    same = merge("iso_c", base, experts, flatten=0.0, weight=0.5)
    assert close(same, merge("task_arithmetic", base, experts, weight=0.5))


def test_iso_c_adds_no_directions_to_updates_of_low_rank():
    generator = torch.Generator().manual_seed(0)
    update = torch.randn(2, 12, 2, generator=generator) @ torch.randn(2, 2, 9, generator=generator)
    values = svd(merge("iso_c", torch.zeros(12, 9), update))[1]
    expected = svd(update.sum(0))[1]
    assert int((values > 1e-4 * values[0]).sum()) == 4
    assert float(values.sum()) == pytest.approx(float(expected.sum()), rel=1e-5)


@pytest.mark.parametrize("common, k_common, k_task", [(0.8, 10, 1), (0.5, 7, 2), (0.0, 1, 4)])
def test_iso_cts_by_its_definition(common, k_common, k_task):
    base, experts = torch.zeros(13, 17), tensors((13, 17), 3)[1]
    left, values, right = svd(experts.sum(0))
    parts = [(left[:, :k_common], values[:k_common], right[:, :k_common])]
    for one in experts.double():
        rest = one - parts[0][0] @ parts[0][0].mT @ one
        parts.append(tuple(side[..., :k_task] for side in svd(rest)))
    sides = [nearest_orthonormal(torch.cat([p[i] for p in parts], dim=1)) for i in (0, 2)]
    mean = torch.cat([part[1] for part in parts]).mean()
    found = merge("iso_cts", base, experts, common=common)
    assert close(found, (mean * sides[0] @ sides[1].mT).float(), 1e-4)


def test_iso_cts_contains_iso_c_and_tsv():
    base, experts = tensors((9, 14), 3)
    assert close(
        merge("iso_cts", base, experts, common=1.0) - base, merge("iso_c", base, experts) - base
    )
    found = merge("iso_cts", base, experts, common=0.0, flatten=0.0)
    assert close(found - base, merge("tsv", base, experts) - base, 1e-4)


@pytest.mark.parametrize("shape", MATRICES)
def test_star_truncates_rescales_and_averages(shape):
    base, experts = tensors(shape, 2)
    whole = merge("star", base, experts, eta=1.0)
    assert close(whole, experts.mean(0))
    expected = torch.zeros(shape, dtype=torch.float64)
    for one in experts - base:
        left, values, right = svd(one)
        rank = next(
            i + 1 for i in range(len(values)) if values[: i + 1].sum() >= 0.6 * values.sum()
        )
        gain = values.sum() / values[:rank].sum()
        expected += gain * (left[:, :rank] * values[:rank]) @ right[:, :rank].mT / 2
    assert close(merge("star", base, experts, eta=0.6) - base, expected.float(), 1e-4)


@pytest.mark.parametrize("shape", MATRICES)
def test_wudi_is_the_minimiser(shape):
    base, experts = torch.zeros(shape), tensors(shape, 3)[1]
    weight = torch.tensor([1.0, 0.4, -0.8])
    found = merge("wudi", base, experts, weight=weight, ridge=1e-6).double()
    gradient = torch.zeros_like(found)
    for one, w in zip(experts.double(), weight.double(), strict=True):
        gradient += (found - w * one) @ one.mT @ one / one.square().sum()
    size = sum(
        float((found @ one.mT @ one / one.square().sum()).norm()) for one in experts.double()
    )
    assert float(gradient.norm()) < 1e-4 * max(size, float(found.norm()))
    total = (experts * weight.view(3, 1, 1)).sum(0)
    held = merge("wudi", base, experts, weight=weight, ridge=1e8)
    assert close(held, total, 1e-4)


def test_wudi_of_one_task_is_that_task():
    base, experts = tensors((6, 4), 1)
    assert close(merge("wudi", base, experts, ridge=0.5), experts[0])


SPECTRAL = ["tsv", "iso_c", "iso_cts", "star", "wudi"]


@pytest.mark.parametrize("name", SPECTRAL)
@pytest.mark.parametrize("shape, role", [((6,), "norm"), ((), "other"), ((4, 6), "embedding"),
                                         ((4, 6), "head"), ((2, 3, 4), "mlp")])  # fmt: skip
def test_what_is_no_matrix_follows_its_own_rule(name, shape, role):
    base, experts = tensors(shape, 3)
    place = place_of(shape, role)
    weight = torch.tensor([1.0, 0.5, -0.5])
    total = sum(w * (one - base) for w, one in zip(weight, experts, strict=True))
    for rule, part in (("mean", 1 / 3), ("sum", 1.0), ("base", 0.0)):
        found = merge(name, base, experts, place=place, weight=weight, vectors=rule)
        assert torch.allclose(found, base + part * total, atol=1e-6)
    if len(shape) == 2:
        asked = merge(name, base, experts, place=place, weight=weight, embeddings="yes")
        assert torch.equal(asked, merge(name, base, experts, weight=weight))
