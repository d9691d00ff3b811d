"""Which device a recipe's `auto` stands for."""

import pytest
import torch

from evomerge import checks
from evomerge.recipe import read
from tests import families


@pytest.mark.parametrize(("there", "taken"), [("mps", "cpu"), ("cuda", "cuda"), (None, "cpu")])
def test_auto_takes_no_device_without_float64(family, monkeypatch, there, taken):
    found = torch.device(there) if there else None
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: found)
    recipe, *_ = read(families.recipe(family))
    assert checks.device(recipe) == taken
