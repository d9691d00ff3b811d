"""A point's weights come out the same, and what says so would see if they did not."""

import json

import pytest
import torch

from evomerge import api, errors, rebuilding
from evomerge.materialize import Merged
from tests import command, families


@pytest.mark.parametrize(("operator", "exact"), [("ties", True), ("dare", True), ("tsv", False)])
def test_what_is_promised_of_an_operator(family, tmp_path, operator, exact):
    experts = {name: family / name for name in ("left", "right")}
    plan = api.plan_of(family / "base", experts, operator)
    folder = api.saving.write(plan, tmp_path / "saved", shard_size="2kB")
    found = rebuilding.rebuild(plan, folder)
    assert found["same_bits_promised"] is exact
    assert found["sha256"] == rebuilding.digest_of(folder)
    if exact:
        assert found["difference"] == {"tensors": 0, "largest": 0.0}
        assert found["sha256"] == found["sha256_other_tiles_and_threads"]


def test_one_bit_shows(family, tmp_path, monkeypatch):
    """In a folder to compare with, and between the builds."""
    experts = {name: family / name for name in ("left", "right")}
    plan = api.plan_of(family / "base", experts, "ties")
    other = api.plan_of(family / "base", experts, "ties", density=0.5)
    folder = api.saving.write(other, tmp_path / "other")
    with pytest.raises(errors.InputError, match="its weights have the sha256"):
        rebuilding.rebuild(plan, folder)
    right = Merged.read

    def wrong(self, name):
        tensor = right(self, name)
        if self.workshop.tile == rebuilding.OTHER_TILE and name.endswith("1.mlp.up_proj.weight"):
            tensor[0, 0] = torch.nextafter(tensor[0, 0], torch.tensor(9.0))
        return tensor

    monkeypatch.setattr(Merged, "read", wrong)
    with pytest.raises(errors.EvaluationError, match=r"layers\.1\.mlp\.up_proj.* has other bits"):
        rebuilding.rebuild(plan)


@pytest.mark.slow
def test_the_command(family, tmp_path, run):
    path = command.write(tmp_path, families.recipe(family, budget={"candidates": 6}))
    assert run("search", path, "-o", tmp_path / "run")[0] == 0
    assert run("export", tmp_path / "run", "best", "-o", tmp_path / "best")[0] == 0
    code, out, _ = run("rebuild", tmp_path / "run", "--against", tmp_path / "best", "--json")
    assert code == 0 and json.loads(out)["against"] == str(tmp_path / "best")
    assert run("rebuild", tmp_path / "run", "TIES")[0] == 0
