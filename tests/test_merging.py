"""Merges without a search: dtype, files of bounded size, cards, and what is said meanwhile."""

import gc
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import evomerge
from evomerge import api, errors, progress, saving
from evomerge.files.checkpoint import Checkpoint
from evomerge.inputs import Opened
from evomerge.materialize import Merged, Workshop
from evomerge.recipe import named, resolve
from tests import families


def tensors(folder):
    opened = Checkpoint.open(folder)
    return {name: opened.read(name) for name in opened.tensors}


def alive():
    """Bytes of all tensors of this process."""
    return sum(found.nbytes for found in gc.get_objects() if type(found) is torch.Tensor)


@pytest.mark.parametrize(
    "text, count",
    [("5GB", 5 * 10**9), ("500MB", 5 * 10**8), ("1.5 kb", 1500), ("2GiB", 2**31), ("7", 7),
     ("3M", 3 * 10**6), ("1KiB", 1024), ("8b", 8)],
)  # fmt: skip
def test_sizes_are_read(text, count):
    assert saving.size(text, "here") == count


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "0.1", "5 parsecs", "1e3", "5GBB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(errors.RecipeError, match="here: expected a size such as 5GB"):
        saving.size(text, "here")


def test_experts_are_named_by_their_folders():
    paths = ["a/final", "b/final", Path("c/final"), "x/base", "d/.hidden model", "a/final-2"]
    assert named(paths) == {
        "final": "a/final", "final-2": "b/final", "final-3": "c/final", "base-2": "x/base",
        "hidden-model": "d/.hidden model", "final-2-2": "a/final-2",
    }  # fmt: skip


def test_dtype_and_shards_change_the_files_and_not_the_merge(family, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = families.recipe(family)
    Path("recipe.json").write_text(json.dumps(recipe))
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    assert run("merge", "recipe.yaml", "--set", "weight=0.5", "-o", "whole")[0] == 0
    options = ["--set", "weight=0.5", "--dtype", "bfloat16", "--shard-size", "4KB"]
    code, out, err = run("merge", "recipe.yaml", *options, "-o", "parts")
    assert (code, out.strip()) == (0, str(tmp_path / "parts"))
    assert err.count("\n") == 1 and err.startswith("writing parts: 0.0 MB")
    files = list(Path("parts").glob("model-*.safetensors"))
    largest = max(tensor.nbytes for tensor in tensors("parts").values())
    assert len(files) > 2
    for file in files:
        header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
        assert file.stat().st_size - header <= max(4000, largest)
    whole, parts = tensors("whole"), tensors("parts")
    assert all(torch.equal(parts[name], whole[name].bfloat16()) for name in whole)
    card = Path("parts/README.md").read_text()
    plan = json.loads(Path("parts/plan.json").read_text())
    assert plan["dtype"] == "bfloat16" and evomerge.Plan.parse(plan, "p").key in card
    assert "--dtype bfloat16 --shard-size 4KB" in card and "- left\n- right" in card


def test_a_plan_merges_like_the_call_that_made_it(family, run, tmp_path):
    experts = [family / "left", family / "right"]
    call = {"density": 0.4, "weight": [1, 0.5], "dtype": "float16"}
    by_call = evomerge.merge(
        family / "base", experts, "ties", out=tmp_path / "a", shard_size="5KB", **call
    )
    assert len(list(by_call.glob("*.safetensors"))) > 1
    assert run("merge", by_call / "plan.json", "-o", tmp_path / "b")[0] == 0
    model = evomerge.merge(family / "base", experts, "ties", **call).state_dict()
    for name, tensor in tensors(tmp_path / "b").items():
        assert tensor.dtype == torch.float16
        assert torch.equal(tensor, tensors(by_call)[name]) and torch.equal(tensor, model[name])


def test_each_expert_may_have_a_value_of_its_own(family, run, tmp_path):
    (tmp_path / "recipe.yaml").write_text(json.dumps(families.recipe(family)))
    for name, text in (("list", "[0.25, 0.5]"), ("mapping", '{"right": 0.5, "left": 0.25}')):
        given = ("--set", f"weight={text}", "-o", tmp_path / name)
        code, _, err = run("merge", tmp_path / "recipe.yaml", *given)
        assert code == 0, err
    first, second = (tensors(tmp_path / name) for name in ("list", "mapping"))
    both = [family / "left", family / "right"]
    named_ones = api.plan_of(
        family / "base", both, "task_arithmetic", blocks=2, seed=3, weight=[0.25, 0.5]
    )
    by_call = tensors(saving.write(named_ones, tmp_path / "call"))
    assert all(torch.equal(first[n], t) and torch.equal(second[n], t) for n, t in by_call.items())


def test_another_dtype_is_another_plan(family):
    plan = api.plan_of(family / "base", [family / "left"], "linear")
    assert plan.dtype == "float32"
    assert saving.in_dtype(plan, "float32").key == plan.key != saving.in_dtype(plan, "float16").key


@pytest.mark.parametrize("operator", ["tsv", "star"])
def test_a_merge_to_disk_keeps_what_one_tensor_needs(family, operator):
    plan = api.plan_of(family / "base", [family / "left", family / "right"], operator)
    kept, found = [], []
    gc.collect()  # what others left would be missed below
    for workshop in (Workshop.of(plan), Workshop(Opened.of(plan))):
        merged = Merged(plan, workshop)
        for name in merged.tensors:  # opens the files, whose tensors count from now on
            merged.inputs(name, 0, 1)
        before = alive()
        found.append([merged.read(name).numpy().tobytes() for name in merged.mergeable])
        kept.append(alive() - before)
    assert 6 * kept[0] < kept[1]  # of two layers with seven matrices each
    assert found[0] == found[1]


def test_numbers_of_numpy_and_torch_are_numbers(family):
    """Whatever a sweep counts in; and torch's own name of a dtype."""
    base, both = family / "base", [family / "left", family / "right"]
    plan = api.plan_of(base, both, "linear", blocks=2, seed=3, weight=[0.25, 0.5])
    same = api.plan_of(
        base, both, "linear", blocks=np.int64(2), seed=np.int64(3), weight=np.float32([0.25, 0.5])
    )
    each = api.plan_of(
        base, both, "linear", blocks=2, seed=3, dtype=torch.float32,
        weight={"left": np.float32(0.25), "right": torch.tensor(0.5)},
    )  # fmt: skip
    assert plan.key == same.key == each.key


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"experts": {}}, "experts: expected .*at least one"),
        ({"experts": None}, "experts: expected"),
        ({"operator": None}, "operator: expected the name of one, got None"),
        ({"operator": ["ties"]}, "operator: expected the name of one"),
        ({"seed": True}, "seed: expected a whole number"),
        ({"dtype": 8}, "unknown dtype '8'"),
    ],
)
def test_arguments_of_another_kind_are_named(family, changes, says):
    given = {"experts": {1: family / "left"}, "operator": "linear", **changes}
    with pytest.raises(errors.RecipeError, match=says):
        api.plan_of(family / "base", **given)


def test_a_recipe_in_python_may_hold_paths(family):
    texts = families.recipe(family)
    paths = {
        **texts, "base": Path(texts["base"]),
        "experts": {name: Path(text) for name, text in texts["experts"].items()},
        "objectives": {"one": {"bank": family / "one.jsonl"}, "two": family / "two.jsonl"},
    }  # fmt: skip
    assert resolve(paths).inputs.inputs == resolve(texts).inputs.inputs


def test_a_live_model_is_not_evaluated_but_a_plan_is(family):
    model = evomerge.merge(family / "base", [family / "left"])
    with pytest.raises(
        errors.RecipeError, match="got a LlamaForCausalLM; merge with `out=FOLDER`"
    ):
        evomerge.evaluate(model, family / "one.jsonl")
    for batch in ("25", 2.5, 0):
        with pytest.raises(errors.RecipeError, match="batch: expected a whole number"):
            evomerge.evaluate(family / "base", family / "one.jsonl", batch=batch)
    with pytest.raises(errors.EvomergeError, match="unknown split 'None'"):
        evomerge.evaluate(family / "base", family / "one.jsonl", split=None)


@pytest.mark.parametrize(
    "options, says",
    [
        (["--dtype", "float8"], "unknown dtype 'float8'. Did you mean 'float"),
        (["--shard-size", "much"], "--shard-size: expected a size such as 5GB"),
        (["--set", "weight"], "--set: expected gene=value, got 'weight'"),
        (["--set", "weigth=1"], "Did you mean 'weight'"),
        (["--set", "weight=[1, "], "is not JSON"),
        (["--set", "weight=0.3", "--set", "weight=0.4"], "--set: 'weight' stands twice"),
        (["--set", "weight=[1]"], "expected 2 values (left, right), got 1"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(
    family, refused, tmp_path, options, says
):
    (tmp_path / "recipe.yaml").write_text(json.dumps(families.recipe(family)))
    refused("merge", tmp_path / "recipe.yaml", *options, "-o", tmp_path / "out", code=2, says=says)
    assert not (tmp_path / "out").exists()


def test_a_terminal_gets_a_bar_and_a_file_one_line():
    for terminal in (True, False):
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=terminal, width=100)
        with progress.stream(console, "writing", "there") as told:
            for done in (10_000_000, 20_000_000, 30_000_000):
                told(done, 30_000_000)
        if terminal:
            assert "30.0/30.0 MB" in screen.getvalue()
        else:
            assert screen.getvalue() == "writing there: 30.0 MB\n"
