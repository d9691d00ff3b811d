"""Checkpoints: sound ones read back bit for bit, unsound ones are refused with a reason."""

import json
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from evomerge import errors
from evomerge.files import folder, likeness
from evomerge.files.checkpoint import Checkpoint
from tests.model_folders import (
    DTYPES,
    entry,
    random_tensor,
    refusal,
    same_bytes,
    save,
    save_raw,
    save_shards,
)

shapes = st.lists(st.sampled_from([0, 1, 2, 3, 5, 7, 13]), max_size=3).map(tuple)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(DTYPES), shapes), min_size=1, max_size=6))
def test_reads_what_safetensors_wrote(tmp_path_factory, kinds):
    tensors = {f"t{i}.weight": random_tensor(*kind) for i, kind in enumerate(kinds)}
    with Checkpoint.open(save(tmp_path_factory.mktemp("c"), tensors)) as found:
        assert set(found.tensors) == set(tensors)
        for name, tensor in tensors.items():
            info = found.tensors[name]
            assert same_bytes(found.read(name), tensor)
            assert (info.numel, info.bytes) == (tensor.numel(), tensor.nbytes)
            half = info.numel // 2
            flat = tensor.reshape(-1)
            assert same_bytes(found.read_flat(name, half, info.numel), flat[half:])
            assert same_bytes(found.read_flat(name, 0, half), flat[:half])


def test_misaligned_tensors_are_copied(tmp_path):
    values = torch.tensor([1.5, -2.0, 3.0])
    text = json.dumps({"b": entry(0, 1, dtype="U8"), "x": entry(1, 13, (3,))})
    text += " " * (-len(text) % 8)
    place = save_raw(tmp_path, text, b"\x07" + values.numpy().tobytes())
    found = Checkpoint.open(place)
    assert torch.equal(found.read("x"), values)
    assert torch.equal(found.read_flat("x", 1, 3), values[1:])
    assert found.read_flat("x", 2, 2).numel() == 0


def test_views_outlive_close_and_do_not_reach_the_file(tmp_path):
    place = save(tmp_path, {"w": torch.ones(1000)})
    found = Checkpoint.open(place)
    before = found.sha256
    view = found.read("w")
    assert found.read("w") is view
    view.zero_()
    found.close()
    assert view.sum() == 0
    assert Checkpoint.open(place).sha256 == before
    with pytest.raises(ValueError, match=r"1000 elements"):
        Checkpoint.open(place).read_flat("w", 0, 1001)


def test_unknown_tensor_names_the_nearest(tmp_path):
    found = Checkpoint.open(save(tmp_path, {"norm.weight": torch.ones(2)}))
    with pytest.raises(errors.InputError, match=r"Did you mean 'norm\.weight'"):
        found.read("norm.weigt")


def test_order_is_natural(tmp_path):
    names = ["layers.10.w", "layers.2.w", "layers.2.a", "layers.1.w2", "layers.1.w", "9" * 5000]
    tensors = {name: torch.ones(1) for name in names}
    found = Checkpoint.open(save(tmp_path, tensors))
    assert [n for n in found.tensors if n[0] == "l"] == [names[i] for i in (4, 3, 2, 1, 0)]


def test_sha256_covers_weights_and_config(tmp_path):
    one = save(tmp_path / "one", {"w": torch.ones(3)})
    same = save(tmp_path / "same", {"w": torch.ones(3)})
    other = save(tmp_path / "other", {"w": torch.tensor([1.0, 1.0, 2.0])})
    keyed = save(tmp_path / "keyed", {"w": torch.ones(3)}, {"model_type": "qwen2"})
    digests = [Checkpoint.open(place).sha256 for place in (one, same, other, keyed)]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_folders_that_are_not_models(tmp_path):
    assert "code: " in refusal(tmp_path / "nowhere", "code")
    assert "no such folder" in refusal(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    assert "is a file, expected a folder" in refusal(tmp_path / "file")
    assert "config.json: no such file" in refusal(tmp_path)
    unusable = [
        (b"{", "is not JSON"),
        (b"[1]", "expected a JSON object"),
        (b"\xff", "is not UTF-8"),
    ]
    for data, reason in unusable:
        (tmp_path / "config.json").write_bytes(data)
        assert f"config.json: {reason}" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert "has no weights, expected model.safetensors" in refusal(tmp_path)
    (tmp_path / "x.gguf").write_text("")
    assert "gguf_file='x.gguf'" in refusal(tmp_path)
    (tmp_path / "pytorch_model.bin").write_text("")
    assert "2 files ('pytorch_model.bin', 'x.gguf')" in refusal(tmp_path)
    assert "save_pretrained" in refusal(tmp_path)
    (tmp_path / "model-00001-of-00002.safetensors").write_text("")
    assert "neither model.safetensors nor model.safetensors.index.json" in refusal(tmp_path)
    (tmp_path / "model.safetensors").mkdir()
    assert "model.safetensors: is a folder, expected a file" in refusal(tmp_path)


def test_adapter_is_named_as_such(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "holds a LoRA adapter" in refusal(tmp_path)


def test_shards(tmp_path):
    shards = {"a.safetensors": {"x": torch.ones(2)}, "sub.safetensors": {"y": torch.zeros(3)}}
    found = Checkpoint.open(save_shards(tmp_path / "good", shards))
    assert found.read("y").tolist() == [0, 0, 0] and list(found.tensors) == ["x", "y"]

    place = save_shards(tmp_path / "lost", shards)
    (place / "sub.safetensors").unlink()
    assert "1 weight file ('sub.safetensors') missing" in refusal(place)

    lies = {"x": "a.safetensors", "z": "sub.safetensors"}
    assert "1 tensor ('z') not in" in refusal(save_shards(tmp_path / "lie", shards, lies))

    both = {file: {"x": torch.ones(2), file[0]: torch.ones(1)} for file in shards}
    weight_map = {"x": "a.safetensors", "s": "sub.safetensors"}
    message = refusal(save_shards(tmp_path / "both", both, weight_map))
    assert "'x' stands in two files, a.safetensors and sub.safetensors" in message

    for index in ({}, {"weight_map": []}, {"weight_map": {}}):
        (place / folder.INDEX).write_text(json.dumps(index))
        assert "has no weight_map" in refusal(place)
    (place / folder.INDEX).write_text('{"weight_map": {"x": "a", "x": "b"}}')
    assert "'x' stands twice" in refusal(place)
    (place / folder.INDEX).write_text('{"weight_map": {"x": "pytorch_model.bin"}}')
    assert "is not the name of a safetensors file" in refusal(place)


PATHS = [
    *("../x", "a/../../x", "/etc/x", "C:x", "C:\\x", "\\\\unc\\x", "..\\x", "a//b", "./x", "x\0"),
    *("~/\n", "\ud800", "..", "a" * 256, "é" * 128),
]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(PATHS) | st.text(max_size=12))
def test_no_path_of_an_index_leaves_its_folder(tmp_path_factory, path):
    place = tmp_path_factory.getbasetemp() / "model"
    save_file({"x": torch.ones(1)}, place.parent / "x.safetensors")
    save_shards(place, {}, {"x": f"{path}.safetensors", "y": f"{path}/x.safetensors"})
    assert str(place) in refusal(place)
    try:
        inside = folder.inside(place, path, "w")
    except errors.InputError as error:
        assert "w: " in str(error)
    else:
        assert inside.is_relative_to(place.resolve()) and path not in PATHS


def test_links_stay_inside_the_folder_or_its_cache(tmp_path):
    outside = save(tmp_path / "outside", {"w": torch.ones(1)})
    place = tmp_path / "linked"
    place.mkdir()
    (place / "config.json").write_text("{}")
    os.symlink(outside / "model.safetensors", place / "model.safetensors")
    assert "link out of the folder" in refusal(place)
    os.unlink(place / "model.safetensors")
    os.symlink("model.safetensors", place / "model.safetensors")
    assert "model.safetensors" in refusal(place)

    snapshot = tmp_path / "hub" / "models--me--one" / "snapshots" / "0123"
    blobs = snapshot.parents[1] / "blobs"
    save(blobs, {"w": torch.ones(1)})
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        os.symlink(f"../../blobs/{name}", snapshot / name)
    os.symlink(snapshot, tmp_path / "alias")
    assert Checkpoint.open(tmp_path / "alias").read("w").item() == 1
    os.unlink(snapshot / "model.safetensors")
    os.symlink(outside / "model.safetensors", snapshot / "model.safetensors")
    assert "link out of the folder" in refusal(snapshot)


def tied(place, config, head=1.0, embedding="model.embed_tokens.weight"):
    tensors = {"lm_head.weight": torch.full((4, 2), head)} if head is not None else {}
    if embedding:
        tensors[embedding] = torch.ones(4, 2)
    return save(place, tensors, {"model_type": "llama", **config})


def test_a_tied_head_is_dropped_once(tmp_path):
    yes, no = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}
    nested = {"text_config": yes}
    cases = [
        # config, head, embedding, tied, head kept
        (yes, 1.0, "model.embed_tokens.weight", True, False),
        (yes, 1.0, "transformer.wte.weight", True, False),
        (yes, None, "model.embed_tokens.weight", True, False),
        (yes, 1.0, None, True, True),
        (nested, 1.0, "model.language_model.embed_tokens.weight", True, False),
        ({**nested, **no}, 1.0, "model.embed_tokens.weight", False, True),
        (no, 1.0, "model.embed_tokens.weight", False, True),
        ({}, 1.0, "model.embed_tokens.weight", False, True),
        ({}, None, "model.embed_tokens.weight", True, False),
        # whose class ties by default, unlike llama
        ({"model_type": "gpt2"}, 1.0, "transformer.wte.weight", True, False),
        ({"model_type": "gpt2"}, 2.0, "transformer.wte.weight", False, True),
        ({"model_type": "gpt2", **no}, 1.0, "transformer.wte.weight", False, True),
        ({"model_type": "made_up"}, 1.0, "transformer.wte.weight", False, True),
        ({"model_type": ["gpt2"]}, 1.0, "transformer.wte.weight", False, True),
    ]
    for i, (config, head, embedding, is_tied, kept) in enumerate(cases):
        found = Checkpoint.open(tied(tmp_path / str(i), config, head, embedding))
        assert found.tied is is_tied, i
        assert ("lm_head.weight" in found.tensors) is kept, i
    message = refusal(tied(tmp_path / "differ", yes, head=2.0))
    assert (
        "tie_word_embeddings, but 'lm_head.weight' and 'model.embed_tokens.weight' diff" in message
    )


def test_compare_names_what_differs(tmp_path):
    shape = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    tensors = {f"layers.{i}.w": torch.ones(2) for i in range(12)}
    base = Checkpoint.open(save(tmp_path / "base", tensors, shape), "base")

    def expert(name, tensors, config=shape):
        return Checkpoint.open(save(tmp_path / name, tensors, config), name)

    twin = expert("twin", tensors)
    likeness.compare(base, [twin, twin])
    wide = expert("wide", {**tensors, "layers.3.w": torch.ones(3)})
    few = expert("few", {"layers.11.w": torch.ones(2), "odd": torch.ones(1)})
    whole = expert("whole", {**tensors, "layers.0.w": torch.ones(2, dtype=torch.int8)})
    other = expert("other", tensors, {**shape, "model_type": "qwen2"})
    with pytest.raises(errors.InputError) as caught:
        likeness.compare(base, [twin, wide, few, whole, other])
    lines = str(caught.value).splitlines()
    assert lines[0] == "experts.wide: 'layers.3.w' is (3,), base has (2,)"
    assert lines[1].startswith("experts.few: 11 tensors ('layers.0.w', 'layers.1.w', 'layers.2.w'")
    assert lines[1].endswith("'layers.9.w', ...) missing")
    assert lines[2] == "experts.few: 1 tensor ('odd') unexpected"
    assert lines[3] == "experts.whole: 'layers.0.w' is int8, base has float32"
    assert lines[4] == "experts.other: model_type is 'qwen2', base has 'llama'"
    assert "vocabulary" in lines[5]


@pytest.mark.parametrize("config", [{}, {"tie_word_embeddings": True}])
def test_a_repeated_head_of_bert_is_the_embedding(tmp_path, config):
    words, path = torch.rand(5, 3), "cls.predictions.decoder"
    tensors = {"bert.embeddings.word_embeddings.weight": words, f"{path}.weight": words.clone()}
    found = Checkpoint.open(save(tmp_path / "same", tensors, config))
    assert found.tied and list(found.tensors) == ["bert.embeddings.word_embeddings.weight"]
    tensors[f"{path}.weight"] = words + 1
    assert f"{path}.weight" in Checkpoint.open(save(tmp_path / "other", tensors, config)).tensors


def test_buffers_that_transformers_makes_by_itself_are_no_tensors(tmp_path):
    square = torch.ones(4, 4).tril().view(1, 1, 4, 4)
    left = {
        "h.0.attn.bias": square, "h.0.attn.masked_bias": torch.tensor(-1e4),
        "gpt_neox.layers.0.attention.bias": square.bool(),
        "transformer.h.0.attn.causal_mask": square.clone(),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2),
        "bert.embeddings.position_ids": torch.arange(4)[None],
    }  # fmt: skip
    trained = {
        "h.1.attn.bias": torch.ones(4), "h.2.attn.bias": torch.ones(2, 1, 4, 4),
        "h.3.attn.bias": torch.tensor(1.0), "h.0.attn.c_attn.bias": torch.ones(12),
        "layers.0.attention.bias.weight": square.clone(),
        "embeddings.position_ids": torch.ones(1, 4),
        "sequential.rotary.inv_freq": torch.ones(2),
    }  # fmt: skip
    found = Checkpoint.open(save(tmp_path / "both", {**left, **trained}))
    assert set(found.tensors) == set(trained)
    assert found.sha256 != Checkpoint.open(save(tmp_path / "new", trained)).sha256
