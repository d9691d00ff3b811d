"""Attacks on the header of a safetensors file: each is refused by name, whatever the bytes."""

import json

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge import errors
from evomerge.files.checkpoint import Checkpoint
from tests.model_folders import entry, refusal, save, save_raw

GOOD = json.dumps({"x": entry()})
ATTACKS = [
    # text, data, claimed length, part of the message
    (GOOD, b"1234", 10**12, "header claims"),
    (GOOD, b"1234", 2**64 - 1, "at most 100,000,000"),
    (GOOD, b"1234", 5000, "truncated"),
    (GOOD, b"12", None, "truncated"),
    (GOOD, b"12345", None, "1 bytes after its last tensor"),
    ("", b"", None, "does not begin"),
    (" {}", b"", None, "does not begin"),
    ("[]", b"", None, "does not begin"),
    ("{nonsense", b"", None, "is not JSON"),
    (b'{"\xff": 1}', b"", None, "is not UTF-8"),
    ('{"a":' * 100_000, b"", None, "nested too deeply"),
    ('{"x":%s,"x":%s}' % ((json.dumps(entry()),) * 2), b"1234", None, "'x' stands twice"),
    ('{"x":{"dtype":"F32","dtype":"F32"}}', b"", None, "'dtype' stands twice"),
    ('{"x":3}', b"", None, "expected dtype, shape and data_offsets"),
    (json.dumps({"x": entry(evil=1)}), b"1234", None, "expected dtype, shape"),
    (json.dumps({"x": entry(dtype="F8_E4M3")}), b"1234", None, "'F8_E4M3' is not one of F64"),
    (json.dumps({"x": entry(dtype=["F32"])}), b"1234", None, "is not one of"),
    (json.dumps({"x": entry(shape=(-1, -1))}), b"1234", None, "shape [-1, -1]"),
    (json.dumps({"x": entry(shape=(True,))}), b"1234", None, "shape [True]"),
    (json.dumps({"x": entry(shape=(1.0,))}), b"1234", None, "shape [1.0]"),
    (json.dumps({"x": entry(shape=(1,) * 65)}), b"1234", None, "shape [1, 1,"),
    (json.dumps({"x": entry(0, 0, (2**62, 0))}), b"", None, "overflows"),
    (json.dumps({"x": entry(0, 0, (2**32, 2**32))}), b"", None, "overflows"),
    (json.dumps({"x": entry(0, 0, (2**64,))}), b"", None, "is not usable"),
    ('{"x":{"dtype":"U8","shape":[%s],"data_offsets":[0,0]}}' % ("9" * 5000), b"", None, ""),
    (json.dumps({"x": entry(4, 0)}), b"1234", None, "not a span"),
    (json.dumps({"x": entry(0, 8)}), b"12345678", None, "needs 4 bytes, its span has 8"),
    (json.dumps({"x": entry(), "y": entry(2, 6)}), b"123456", None, "'y' overlaps 'x'"),
    (json.dumps({"x": entry(), "y": entry()}), b"1234", None, "'y' overlaps 'x'"),
    (json.dumps({"x": entry(), "y": entry(6, 10)}), b"0" * 10, None, "'y' leaves a hole"),
    (json.dumps({"x": entry(4, 8)}), b"0" * 8, None, "hole after the header"),
    (json.dumps({"../../x": entry()}), b"1234", None, "not the name of a parameter"),
    (json.dumps({"": entry()}), b"1234", None, "not the name of a parameter"),
    (json.dumps({"a\x00": entry()}), b"1234", None, "'a\\x00' is not the name"),
    (json.dumps({"\ud800": entry()}), b"1234", None, "'\\ud800' is not the name"),
    ('{"__metadata__":[]}', b"", None, "__metadata__"),
    ('{"__metadata__":{"a":1}}', b"", None, "__metadata__"),
]


def test_header_attacks(tmp_path):
    for i, (text, data, claimed, reason) in enumerate(ATTACKS):
        message = refusal(save_raw(tmp_path / str(i), text, data, claimed))
        assert reason in message, (i, message)
        assert f"{i}/model.safetensors: " in message
        assert len(message) < 600 and "\n" not in message


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_files_are_refused_or_sound(tmp_path_factory, data):
    place = tmp_path_factory.getbasetemp() / "damaged"
    save(place, {"a": torch.ones(2, 3), "b": torch.arange(4)})
    file = place / "model.safetensors"
    whole = bytearray(file.read_bytes())
    cut = data.draw(st.integers(0, len(whole)))
    for at in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
        whole[at] = data.draw(st.integers(0, 255))
    file.write_bytes(whole[: cut if data.draw(st.booleans()) else len(whole)])
    try:
        found = Checkpoint.open(place)
    except errors.InputError as error:
        assert str(file) in str(error)
    else:
        for name, info in found.tensors.items():
            assert found.read(name).shape == info.shape


@settings(max_examples=40, deadline=None)
@given(st.recursive(st.none() | st.integers() | st.text(max_size=3), st.lists, max_leaves=4))
def test_any_value_may_stand_in_a_header(tmp_path_factory, value):
    place = tmp_path_factory.getbasetemp() / "values"
    for key in ("dtype", "shape", "data_offsets"):
        save_raw(place, json.dumps({"x": {**entry(), key: value}}), b"1234")
        if (key, value) == ("shape", []):  # 0-d, which also has 4 bytes
            assert Checkpoint.open(place).read("x").shape == ()
        else:
            assert "'x': " in refusal(place)


def test_empty_and_short_files(tmp_path):
    place = save(tmp_path, {"w": torch.ones(1)})
    for data in (b"", b"1234567"):
        (place / "model.safetensors").write_bytes(data)
        assert f"has {len(data)} bytes, too few" in refusal(place)
