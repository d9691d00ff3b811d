"""Muon's products of bfloat16 by way of float32 are torch's own but for the order of sums."""

from __future__ import annotations

import pytest
import torch

from evomerge.zoo import muon


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (7, 13), (128, 64), (128, 384), (259, 128)])
def test_a_step_is_that_of_torch(rows: int, columns: int) -> None:
    torch.manual_seed(0)
    before, gradient = torch.randn(rows, columns), torch.randn(rows, columns)
    after = []
    for by_float32 in (False, True):
        weight = torch.nn.Parameter(before.clone())
        weight.grad = gradient.clone()
        optimizer = torch.optim.Muon([weight], lr=0.1, adjust_lr_fn="match_rms_adamw")
        if by_float32:
            with muon.ByFloat32():
                optimizer.step()
        else:
            optimizer.step()
        after.append(weight.detach() - before)
    own, found = after
    # bfloat16 has 8 bits: five iterations of it carry an error of a few of the last.
    assert (found - own).norm() < 0.03 * own.norm()


def test_other_products_stay_as_they_are() -> None:
    whole = torch.randn(5, 7, dtype=torch.float64)
    wanted = whole @ whole.T
    with muon.ByFloat32():
        assert torch.equal(whole @ whole.T, wanted)
        assert torch.equal(torch.addmm(wanted, whole, whole.T, beta=0), wanted)


def test_products_are_of_the_type_asked_for_and_rounded_once() -> None:
    left, right = torch.randn(3, 11).bfloat16(), torch.randn(11, 2).bfloat16()
    with muon.ByFloat32():
        found = left @ right
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, (left.float() @ right.float()).bfloat16())
