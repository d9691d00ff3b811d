"""Inputs for a machine that does not see them where the driver does."""

import json
import shutil

import pytest

from evomerge import errors, inputs, staging


class Elsewhere:
    """Another machine: has the models under the same names, where this one has nothing."""

    def __init__(self, family, here):
        self.family, self.here, self.sent, self.damage = family, here, [], None

    def __call__(self, function, folder, *values):
        self.sent.append((function.__name__, *values))
        found = function(folder.replace(str(self.here), str(self.family)), *values)
        return self.damage(found) if self.damage and isinstance(found, bytes) else found


@pytest.fixture
def far(family, tmp_path, monkeypatch):
    monkeypatch.setenv("EVOMERGE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("evomerge.staging.PIECE", 10_007)
    return Elsewhere(family, tmp_path / "nothing")


def test_it_is_brought_once_and_whole(family, tmp_path, far):
    sha256 = inputs.opened(family / "left").sha256
    copy = staging.local(sha256, str(tmp_path / "nothing" / "left"), far)
    assert copy == str(tmp_path / "home" / "inputs" / sha256)
    assert inputs.opened(copy).sha256 == sha256
    assert staging.files(copy) == staging.files(str(family / "left"))
    pieces = [values for name, *values in far.sent if name == "piece"]
    assert len(pieces) > len(staging.files(copy))  # some files take several
    far.sent.clear()
    assert staging.local(sha256, str(tmp_path / "nothing" / "left"), far) == copy
    assert not far.sent


def test_weights_in_a_folder_of_their_own_are_brought(family, tmp_path, far):
    far.family = tmp_path / "there"
    sharded = far.family / "sharded"
    shutil.copytree(family / "left", sharded)
    names = list(inputs.opened(sharded).tensors)
    (sharded / "a" / "b").mkdir(parents=True)
    (sharded / "model.safetensors").rename(sharded / "a" / "b" / "w.safetensors")
    index = {"weight_map": dict.fromkeys(names, "a/b/w.safetensors")}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    sha256 = inputs.opened(sharded).sha256
    copy = staging.local(sha256, str(tmp_path / "nothing" / "sharded"), far)
    assert inputs.opened(copy).sha256 == sha256
    assert "a/b/w.safetensors" in staging.files(copy)


def test_what_is_there_is_used_unless_it_is_another_model(family, tmp_path, far):
    sha256 = inputs.opened(family / "left").sha256
    assert staging.local(sha256, str(family / "left"), far) == str(family / "left")
    assert not far.sent
    shutil.copytree(family / "right", tmp_path / "nothing" / "left")
    copy = staging.local(sha256, str(tmp_path / "nothing" / "left"), far)
    assert inputs.opened(copy).sha256 == sha256 and far.sent


def test_a_damaged_copy_is_refused(family, tmp_path, far):
    sha256 = inputs.opened(family / "left").sha256
    far.damage = lambda data: data[:-1] + bytes([data[-1] ^ 1]) if data else data
    with pytest.raises(errors.MachineError, match="copy has another sha256"):
        staging.local(sha256, str(tmp_path / "nothing" / "left"), far)
    assert not list((tmp_path / "home" / "inputs").glob("[!.]*"))
    far.damage, other = None, inputs.opened(family / "right").sha256
    with pytest.raises(errors.MachineError, match="has changed since the search began"):
        staging.local(other, str(tmp_path / "nothing" / "left"), far)
    assert not list((tmp_path / "home" / "inputs").glob("[!.]*"))
