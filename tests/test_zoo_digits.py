"""zoo:digits: its banks, its models, and images as items from a bank's line to a label."""

import hashlib
import importlib.util
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import ViTConfig, ViTForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import evomerge
from evomerge import errors, loading, shelf, zoo
from evomerge.files import bank as banks
from evomerge.files.companions import Form
from evomerge.scorers import label
from evomerge.zoo import digits, tiny

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
PIXELS = [[0.0, 1.0], [0.5, -1.0]]


@pytest.fixture(scope="module")
def members():
    """The folder of the family, and its models by name."""
    folder = zoo.path("zoo:digits")
    return folder, {name: load(folder / name)[0] for name in digits.RECIPE["members"]}


def load(folder):
    return loading.load(Form(folder, folder), "float32", CPU)


def test_an_image_is_in_one_split_of_all_banks_and_never_trained_on(members):
    folder, _ = members
    splits = {}
    for name, (classes, turns) in digits.DOMAINS.items():
        lines = (folder / "banks" / f"{name}.jsonl").read_text().splitlines()
        assert Counter(json.loads(line)["split"] for line in lines).keys() == set(banks.SPLITS)
        for item in map(json.loads, lines):
            image = json.dumps(np.rot90(item["pixels"], -turns).tolist())
            assert splits.setdefault(image, item["split"]) == item["split"]
            assert item["answer"] in classes
    assert len(splits) > 800
    for image in splits:
        share = int(hashlib.sha256(image.encode()).hexdigest()[-8:], 16) / 2**32
        assert share >= digits.RECIPE["trained_share"]


def test_fitness_files_name_the_banks():
    files = sorted((ROOT / "fitness").glob("digits_*.yaml"))
    assert [file.stem for file in files] == sorted(f"digits_{n}" for n in digits.RECIPE["banks"])
    for file in files:
        keys = yaml.safe_load(file.read_text())
        assert keys["source"] == f"zoo:digits/banks/{file.stem.removeprefix('digits_')}.jsonl"
        assert len(shelf.load(file.stem).items) > 300


def test_experts_know_their_own_and_the_untrained_know_nothing(members):
    _, models = members
    known = {}
    for name in digits.DOMAINS:
        found = shelf.load(f"digits_{name}")
        batch = label.prepare(None, found.split("test"))
        for member in ("base", "low", "high", "quarter", "half", "untrained0"):
            known[member, name] = np.mean(label.score(models[member], batch)["score"])
    for name in ("low", "high", "quarter", "half"):
        assert known[name, name] > known["base", name] + 0.02
        assert known[name, "plain"] < known["base", "plain"]
        assert known["untrained0", name] < 0.3
    assert known["base", "plain"] > 0.7


def test_without_scikit_learn_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(errors.MachineError, match=r"pip install 'evomerge\[digits\]'"):
        digits.Images()


@pytest.mark.slow
def test_a_build_makes_the_same_weights_again(members, tmp_path):
    folder, _ = members
    digits.build(tmp_path, lambda text, fraction: None)
    for name in digits.RECIPE["members"]:
        ours, theirs = (f / name / "model.safetensors" for f in (tmp_path, folder))
        assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.nightly
def test_the_recipe_finds_a_merge_that_is_better_than_base_and_experts(tmp_path):
    run = evomerge.search("digits", tmp_path / "run")
    rows = {row["baseline"]: row for row in run.comparisons()}
    for name in ("expert low", "expert high", "expert quarter", "expert half"):
        assert rows[name]["low"] > 0
    assert rows["base"]["difference"] > 0  # how far beyond its interval differs by processor


# ---------------------------------------------------------------- images as items


def test_labels_of_images_are_those_of_the_model_s_own_logits(members):
    folder, models = members
    asked = shelf.load("digits_plain").split("validation")[:40]
    found = label.score(models["base"], label.prepare(None, asked))
    direct = ViTForImageClassification.from_pretrained(folder / "base").eval()
    with torch.no_grad():
        logits = direct(pixel_values=torch.tensor([item.pixels for item in asked])).logits
    for i, (item, row) in enumerate(zip(asked, logits, strict=True)):
        assert found["score"][i] == float(row.argmax() == item.answer)
        assert found["probability"][i] == pytest.approx(row.softmax(0)[item.answer].item(), 1e-4)
        others = torch.cat([row[: item.answer], row[item.answer + 1 :]])
        margin = (row[item.answer] - others.max()).item()
        assert found["margin"][i] == pytest.approx(margin, abs=1e-4)


def test_a_folder_s_image_processor_is_used(tmp_path):
    config = ViTConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        image_size=4, patch_size=2, num_labels=3,
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 4, "width": 4}).save_pretrained(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (3, 9, 7)).tolist()
    keys = {"name": "b", "version": 1, "scorer": "label"}
    keys["items"] = [{"pixels": image, "answer": 1, "split": "test"}]
    (tmp_path / "b.yaml").write_text(json.dumps(keys))
    bank = shelf.load(tmp_path / "b.yaml")
    processor = loading.image_processor(tmp_path)
    ((items, inputs),) = label.prepare(processor, bank.items).groups
    seen = inputs["pixel_values"]
    assert items == [0]
    assert seen.shape == (1, 3, 4, 4) and seen.abs().max() <= 1  # resized, rescaled, normalised
    right = load(tmp_path)[0](pixel_values=seen).logits.argmax().item() == 1
    assert evomerge.evaluate(tmp_path, [tmp_path / "b.yaml"])["b"].mean == float(right)
    tiny.tokenizer().save_pretrained(tmp_path)  # as models of images and texts have
    assert evomerge.evaluate(tmp_path, [tmp_path / "b.yaml"])["b"].mean == float(right)


def test_texts_and_images_are_told_apart_before_anything_is_scored(family, members, tmp_path):
    folder, _ = members
    keys = {"name": "b", "version": 1, "scorer": "label"}

    def bank(**item):
        entries = [{**item, "answer": 1, "split": "test"}]
        (tmp_path / "b.yaml").write_text(json.dumps({**keys, "items": entries}))
        return [tmp_path / "b.yaml"]

    with pytest.raises(errors.InputError, match="is an image, and the model reads texts"):
        evomerge.evaluate(family / "base", bank(pixels=PIXELS))
    with pytest.raises(errors.InputError, match="is a text, and the model's folder has no token"):
        evomerge.evaluate(folder / "base", bank(prompt="x"))
    sized = [
        banks.Item(str(n), str(n), (), 0, "test", pixels=((tuple(range(n)),),)) for n in (2, 3)
    ]
    with pytest.raises(errors.InputError, match="item 3: its image is of another size"):
        label.prepare(None, sized)


@pytest.mark.parametrize(
    ("pixels", "says"),
    [
        ([1, 2], "expected rows of numbers"),
        ([[1, 2], [3]], "expected rows of numbers"),
        ([[1, "2"]], "expected rows of numbers"),
        ([[True]], "expected rows of numbers"),
        ([[[[1]]]], "expected rows of numbers"),
        ([[]], "expected rows of numbers"),
        ("x.png", "expected rows of numbers"),
        (None, "expected rows of numbers"),
        ([[1e999]], "number"),
    ],
)
def test_pixels_that_are_none(pixels, says, tmp_path):
    (tmp_path / "b.jsonl").write_text(json.dumps({"pixels": pixels, "answer": 0}) + "\n")
    with pytest.raises(errors.InputError, match=says):
        banks.load(tmp_path / "b.jsonl")


def test_a_bare_file_of_images_is_a_bank(tmp_path):
    lines = [{"pixels": PIXELS, "answer": 0}, {"pixels": [PIXELS, PIXELS], "answer": 1}]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = banks.load(tmp_path / "b.jsonl")
    assert found.scorer == "label"
    assert [np.shape(item.pixels) for item in found.items] == [(1, 2, 2), (2, 2, 2)]
    assert np.array_equal(found.items[0].pixels[0], PIXELS)
    for twin, says in (
        ({"pixels": PIXELS, "answer": 1}, "same pixels"),
        ({"prompt": "x"}, "text"),
    ):
        entry = json.dumps({"answer": 1, "split": found.items[0].split, **twin})
        (tmp_path / "c.jsonl").write_text(f"{json.dumps(lines[0])}\n{entry}\n")
        with pytest.raises(errors.InputError, match=says):
            banks.load(tmp_path / "c.jsonl")
