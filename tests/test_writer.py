"""Written models: equal to what came in, loadable by others, and whole or absent."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from evomerge import errors, loading
from evomerge.files import hub, writer
from evomerge.files.checkpoint import Checkpoint
from evomerge.files.companions import Form
from tests.model_folders import DTYPES, random_tensor, same_bytes, save

shapes = st.lists(st.sampled_from([0, 1, 2, 3, 5, 7]), max_size=3).map(tuple)


@pytest.fixture
def source(tmp_path):
    place = save(tmp_path / "source", {"w": torch.ones(1)})
    config = {
        "model_type": "llama",
        "torch_dtype": "float16",
        "_name_or_path": "/home/me/secret",
        "text_config": {"torch_dtype": "float16", "vocabulary_map": {"dtype": 7}},
    }
    (place / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "merges.txt", "x.model"):
        (place / name).write_text(name)
    (place / "chat_template.jinja").write_text("{{ messages }}")
    (place / "additional_chat_templates").mkdir()
    (place / "additional_chat_templates" / "tool.jinja").write_text("tool")
    (place / "training_args.bin").write_text("pickle")
    return place


def write(folder, tensors, source, dtype=torch.float32, **options):
    sizes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return writer.write(
        folder, tensors.items(), source=source, dtype=dtype, sizes=sizes, **options
    )


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if ".partial" in path.name]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(DTYPES), shapes), min_size=1, max_size=7), st.data())
def test_what_is_written_reads_back(tmp_path_factory, kinds, data):
    place = tmp_path_factory.mktemp("w")
    source = save(place / "source", {"w": torch.ones(1)})
    tensors = {f"t{i}": random_tensor(*kind) for i, kind in enumerate(kinds)}
    out = write(
        place / "out",
        tensors,
        source,
        dtypes={name: tensor.dtype for name, tensor in tensors.items()},
        shard_bytes=data.draw(st.sampled_from([1, 64, 10**9])),
    )
    found = Checkpoint.open(out)
    assert set(found.tensors) == set(tensors)
    for name, tensor in tensors.items():
        info = found.tensors[name]
        assert info.start % info.dtype.itemsize == 0
        assert same_bytes(found.read(name), tensor)
        with safe_open(info.file, "pt") as file:
            assert file.metadata() == {"format": "pt"}
            assert same_bytes(file.get_tensor(name), tensor)


def test_the_same_model_gives_the_same_bytes(tmp_path, source):
    tensors = {"a": torch.randn(3, 5).T, "b": torch.randn(2)}
    one, two = (write(tmp_path / name, tensors, source) for name in ("one", "two"))
    assert Checkpoint.open(one).sha256 == Checkpoint.open(two).sha256


def test_shards_index_and_companions(tmp_path, source):
    tensors = {f"layers.{i}.w": torch.randn(4).bfloat16() for i in range(5)}
    extra = {"plan.json": {"b": 1, "a": [2]}}
    target = tmp_path / "new" / "out"
    out = write(
        target, tensors, source, torch.bfloat16, shard_bytes=16, card="# me", extra_json=extra
    )
    assert out == target
    shards = [f"model-{i:05}-of-00003.safetensors" for i in (1, 2, 3)]
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [
            *shards,
            *("model.safetensors.index.json", "config.json", "README.md", "plan.json"),
            *("tokenizer.json", "tokenizer_config.json", "vocab.txt", "merges.txt", "x.model"),
            *("chat_template.jinja", "additional_chat_templates"),
        ]
    )
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 40, "total_parameters": 20}
    assert index["weight_map"]["layers.2.w"] == shards[1]
    config = json.loads((out / "config.json").read_text())
    inner = {"dtype": "bfloat16", "vocabulary_map": {"dtype": 7}}
    assert config == {"model_type": "llama", "dtype": "bfloat16", "text_config": inner}
    assert json.loads((out / "plan.json").read_text()) == extra["plan.json"]
    assert (out / "additional_chat_templates" / "tool.jinja").read_text() == "tool"


NAMES = (
    *("tokenizer.json", "vocab.json", "vocab-src.json", "target_vocab.json", "merges.txt"),
    *("bpe.codes", "source.spm", "spiece.model", "sentencepiece.bpe.model", "dict.txt"),
    *("entity_vocab.json", "prophetnet.tokenizer", "emoji.json", "word_shape.json"),
    *("word_pronunciation.json", "normalizer.json", "byte_maps.json"),
)


@pytest.mark.parametrize("name", NAMES)
def test_every_file_of_a_tokenizer_is_fetched_and_written(tmp_path, source, name):
    assert list(huggingface_hub.utils.filter_repo_objects([name], allow_patterns=hub.WANTED))
    (source / name).write_text("{}")
    assert (write(tmp_path / "out", {"a": torch.ones(1)}, source) / name).read_text() == "{}"


def test_a_tokenizer_with_codes_is_saved_whole_and_without_them_refused(tmp_path):
    shape = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "vocab_size": 12}
    config = transformers.RobertaConfig(**shape, num_attention_heads=2, max_position_embeddings=40)
    config.tokenizer_class = "PhobertTokenizer"
    model = transformers.RobertaForSequenceClassification(config)
    model.save_pretrained(tmp_path / "source")
    (tmp_path / "vocab.txt").write_text("xin 1\nxi 1\n")
    (tmp_path / "bpe.codes").write_text("x i 5\nxi n</w> 4\n")
    words = transformers.PhobertTokenizer(*(str(tmp_path / n) for n in ("vocab.txt", "bpe.codes")))
    words.save_pretrained(tmp_path / "source")
    out = write(tmp_path / "out", model.state_dict(), tmp_path / "source")
    _, found = loading.load(Form(out, out), "float32", torch.device("cpu"))
    assert found("xin xi").input_ids == words("xin xi").input_ids
    (out / "bpe.codes").unlink()
    with pytest.raises(errors.InputError, match=f"{out}: transformers can not load it"):
        loading.load(Form(out, out), "float32", torch.device("cpu"))


def test_transformers_loads_it(tmp_path):
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 32}
    config = transformers.LlamaConfig(
        **shape, num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True
    )
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "source")
    found = Checkpoint.open(tmp_path / "source")
    assert found.tied and "lm_head.weight" not in found.tensors
    tensors = {name: found.read(name) for name in found.tensors}
    out = write(tmp_path / "out", tensors, tmp_path / "source", torch.bfloat16, shard_bytes=3000)
    again = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert again.dtype == torch.bfloat16
    expected = model.state_dict()
    assert all(same_bytes(t, expected[name]) for name, t in again.state_dict().items())
    ours, theirs = ((p / "config.json").read_text() for p in (out, tmp_path / "source"))
    assert json.loads(ours) == json.loads(theirs)


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda t: {"b": t["b"], "a": t["a"]}, "got ('b'"),
        (lambda t: {**t, "b": torch.ones(3)}, r"expected ('b', torch.float32, (2,))"),
        (lambda t: {**t, "b": torch.ones(2, dtype=torch.float64)}, "torch.float64"),
        (lambda t: {"a": t["a"]}, "got ('nothing'"),
        (lambda t: {**t, "c": t["a"]}, "'c' comes after the last"),
    ],
)
def test_undeclared_tensors_leave_nothing(tmp_path, source, change, reason):
    tensors = {"a": torch.ones(2, 2), "b": torch.ones(2)}
    sizes = {"a": (2, 2), "b": (2,)}
    with pytest.raises(ValueError) as caught:
        writer.write(
            tmp_path / "out",
            change(tensors).items(),
            source=source,
            dtype=torch.float32,
            sizes=sizes,
        )
    assert reason in str(caught.value)
    assert not (tmp_path / "out").exists() and not leftovers(tmp_path)


def test_a_used_target_is_refused_and_an_empty_one_taken(tmp_path, source):
    target = tmp_path / "out"
    target.mkdir()
    os.symlink(target, tmp_path / "link")
    assert write(tmp_path / "link", {"w": torch.ones(2)}, source) == target.resolve()
    before = Checkpoint.open(target).sha256
    for used in (target, source / "tokenizer.json"):
        with pytest.raises(errors.RecipeError, match="already exists") as caught:
            write(used, {"w": torch.zeros(2)}, source)
        assert str(used) in str(caught.value)
    assert Checkpoint.open(target).sha256 == before


def test_bad_sources_and_names(tmp_path, source):
    with pytest.raises(errors.InputError, match=r"config\.json: no such file"):
        write(tmp_path / "out", {}, tmp_path / "nowhere")
    for name in ("config.json", "../x.json", "model.txt"):
        with pytest.raises(ValueError, match="not a free name"):
            write(tmp_path / "out", {}, source, extra_json={name: 1})
    os.symlink("/etc/hostname", source / "vocab.json")
    with pytest.raises(errors.InputError, match="link out of the folder"):
        write(tmp_path / "out", {}, source)
    assert not (tmp_path / "out").exists() and not leftovers(tmp_path)


def test_space_is_checked_before_writing(tmp_path, source):
    with pytest.raises(errors.MachineError, match=r"needs 4,611,686,018\.\d+ GB, .* GB are free"):
        writer.write(
            tmp_path / "out", (), source=source, dtype=torch.float32, sizes={"w": (2**60,)}
        )
    assert not leftovers(tmp_path)


def test_a_place_that_can_not_be_written_is_named(tmp_path, source):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.MachineError, match="file/out: can not be written"):
        write(tmp_path / "file" / "out", {}, source)
    with pytest.raises(errors.MachineError, match=r"x\.txt: can not be written: No such file"):
        writer.atomic_text(tmp_path / "nowhere" / "x.txt", "")


CHILD = """
import resource, sys, time, torch
from evomerge import errors
from evomerge.files import writer

def tensors():
    yield "a", torch.ones(1000)
    if sys.argv[3] == "hang":
        print("written", flush=True)
        time.sleep(60)
    yield "b", torch.ones(1000)

def write():
    sizes = {"a": (1000,), "b": (1000,)}
    options = dict(dtype=torch.float32, sizes=sizes, shard_bytes=4000)
    writer.write(sys.argv[1], tensors(), source=sys.argv[2], **options)

if sys.argv[3] == "hang":
    write()
for limit in range(0, 5000, 400):  # bytes in one file
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write()
        print(limit, "done")
        break
    except errors.MachineError as error:
        print(limit, error)
"""


def child(tmp_path, source, mode):
    command = [sys.executable, "-W", "error", "-c", CHILD, tmp_path / "out", source, mode]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_no_space_at_any_point_leaves_nothing(tmp_path, source):
    with child(tmp_path, source, "limits") as process:
        lines = process.communicate(timeout=60)[0].splitlines()
    assert process.returncode == 0
    for line in lines[:-1]:
        assert "out: can not be written: no space left; free some" in line
    assert len(lines) > 8 and lines[-1].endswith("done")
    assert len(Checkpoint.open(tmp_path / "out").tensors) == 2
    assert not leftovers(tmp_path)


@pytest.mark.slow
def test_a_killed_write_leaves_no_model_and_the_next_one_clears_up(tmp_path, source):
    with child(tmp_path, source, "hang") as process:
        assert process.stdout.readline() == "written\n"
        alive = f".out.partial-{process.pid}"
        assert leftovers(tmp_path) == [alive]
        write(tmp_path / "out", {"w": torch.ones(2)}, source)
        assert leftovers(tmp_path) == [alive]  # not ours to take from a living process
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    shutil.rmtree(tmp_path / "out")
    write(tmp_path / "out", {"w": torch.zeros(2)}, source)
    assert not leftovers(tmp_path)
    assert Checkpoint.open(tmp_path / "out").read("w").tolist() == [0, 0]


def test_atomic_text(tmp_path):
    writer.atomic_text(tmp_path / "x.txt", "one é")
    writer.atomic_text(tmp_path / "x.txt", "two")
    assert (tmp_path / "x.txt").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]


def test_card(tmp_path):
    text = writer.card(
        "<b>Me</b> | you",
        base="org/base",
        experts=["org/co_de", "org/base", 'a: "b"\n---\n# x'],
        plan="ab12",
        scores=[("co|de<script>", 0.51234, 0.4, 0.6)],
        command="evomerge search ```",
    )
    _, front, body = text.split("---\n", 2)
    fields = yaml.safe_load(front)
    assert fields["base_model"] == ["org/base", "org/co_de", 'a: "b" --- # x']
    assert fields["base_model_relation"] == "merge" and fields["library_name"] == "transformers"
    assert fields["tags"] == ["merge", "evomerge"]
    assert "<b>" not in body and "<script>" not in body
    assert "| co\\|de&lt;script&gt; | 0.512 | 0.400 to 0.600 |" in body
    assert "````\nevomerge search ```\n````" in body
    assert "Plan: `ab12`" in body
    assert "org/co\\_de" in body and "\n# x" not in body
