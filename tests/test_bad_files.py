"""Banks, models, run folders and plans that can not be used, and what is said of each."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

import evomerge
from evomerge import errors, inputs
from evomerge.files import header, lock
from tests import command, families


@pytest.fixture(scope="module")
def finished(family, tmp_path_factory):
    """A run that is complete."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    evomerge.search(families.recipe(family, budget={"candidates": 6}), folder)
    return folder


CHOICE = "name: b\nversion: 1\nscorer: choice\nsource: b.jsonl\n"


@pytest.mark.parametrize(
    ("sheet", "code", "says"),
    [
        (CHOICE.replace("choice", "chioce"), 2, "scorer: unknown scorer 'chioce'. Did you mean"),
        (CHOICE.replace("choice", "{name: choice, normalise: 1}"), 2, "Did you mean 'normalize'?"),
        (CHOICE.replace("choice", "{name: choice, normalize: 3}"), 2, "got 3, expected a boolean"),
        (CHOICE.replace("choice", "{name: exact_match, max_new_tokens: 0}"), 2, "at least 1"),
        (CHOICE.replace("choice", "{name: exact_match, stop: ab}"), 2, "expected a list"),
        (CHOICE.replace("choice", "function"), 2, "option 'call' is missing"),
        (CHOICE.replace("choice", "os.path"), 2, "module 'os.path' is no scorer"),
        (CHOICE + "sorce: x\n", 2, "unknown key 'sorce'. Did you mean 'source'?"),
        (CHOICE.replace("1", "one"), 3, "version: expected a whole number, got 'one'"),
        (CHOICE.replace("b.jsonl", "c.jsonl"), 3, "c.jsonl: no such file"),
        (CHOICE.replace("b.jsonl", "zoo:tiny/banks/x.jsonl"), 2, "zoo:tiny: unknown member"),
    ],
)
def test_a_wrong_bank_is_refused(refused, family, tmp_path, monkeypatch, sheet, code, says):
    monkeypatch.setenv("EVOMERGE_HOME", str(tmp_path / "home"))
    (tmp_path / "b.yaml").write_text(sheet)
    shutil.copy(family / "one.jsonl", tmp_path / "b.jsonl")
    path = command.write(tmp_path, families.recipe(family, objectives={"a": "b.yaml"}))
    says = ["b.yaml" if "c.jsonl" not in sheet else "c.jsonl", says]
    refused("plan", path, code=code, says=["objectives.a", *says])
    refused("evaluate", family / "base", "-b", tmp_path / "b.yaml", code=code, says=says)
    assert not (tmp_path / "home").exists()


def item(**changes):
    return json.dumps({"prompt": "p", "choices": ["a", "b"], "answer": 0, **changes}) + "\n"


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("", "has no items"),
        (item() + "{\n", "b.jsonl:2: is not JSON"),
        (item(id="x") + item(id="x", prompt="q"), "item 'x': the id is already that of"),
        (item(split="search") + item(split="test"), "stands in two splits"),
        (item(answer=7), "7 is not an index of 2 choices"),
        (item(anser=1), "unknown key 'anser', did you mean 'answer'"),
        (item(split="search"), "no item is in the split 'validation'"),
    ],
)
def test_wrong_items_are_refused_before_a_search(refused, family, tmp_path, lines, says):
    (tmp_path / "b.jsonl").write_text(lines)
    path = command.write(tmp_path, families.recipe(family, objectives={"a": "b.jsonl"}))
    refused("search", path, "-o", tmp_path / "run", code=errors.INPUT, says=["objectives.a", says])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("b.jsonl", '{"prompt": "1", "answer": "1"}\n{"prompt": "9", "answer": "nine"}\n',
         "b.jsonl:2: answer: expected a number, got 'nine' (scorer numeric)\n"),
        ("b.jsonl", '{"prompt": "9", "answer": "nine", "id": "mine"}\n',
         "b.jsonl:1: item 'mine': answer: expected a number, got 'nine' (scorer numeric)\n"),
        ("b.csv", 'prompt,answer\n1,1\n2," "\n', "b.csv:3: has no answer, or a blank one"),
    ],
)  # fmt: skip
def test_an_item_that_can_not_be_marked_is_named_by_its_line(
    refused, family, tmp_path, name, text, says
):
    (tmp_path / name).write_text(text)
    (tmp_path / "a.yaml").write_text(f"name: a\nversion: 1\nscorer: numeric\nsource: {name}\n")
    path = command.write(tmp_path, families.recipe(family, objectives={"a": "a.yaml"}))
    says = f"objectives.a: {tmp_path / 'a.yaml'}: {tmp_path / says}"
    refused("plan", path, code=errors.INPUT, says=says)


def truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def lying(folder):
    path = folder / "model.safetensors"
    path.write_bytes((10**15).to_bytes(8, "little") + path.read_bytes()[8:])


def sharded(folder):
    names = header.read(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    index = {"weight_map": dict.fromkeys(names, "model-00001-of-00002.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def foreign(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))


def shaped(folder):
    path = folder / "model.safetensors"
    size = int.from_bytes(path.read_bytes()[:8], "little")
    data = path.read_bytes()
    text = data[8 : 8 + size].replace(b'"shape":[260,16]', b'"shape":[130,32]')
    path.write_bytes(data[:8] + text + data[8 + size :])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (shutil.rmtree, "no such folder"),
        (truncated, "model.safetensors: is truncated"),
        (lying, "its header claims 1,000,000,000,000,000 bytes"),
        (sharded, "1 weight file ('model-00001-of-00002.safetensors') missing; download again"),
        (pickled, "pytorch_model.bin"),
        (foreign, "model_type is 'gpt2', base has 'llama'"),
        (shaped, "'model.embed_tokens.weight' is (130, 32), base has (260, 16)"),
    ],
)
def test_an_expert_that_can_not_be_used(refused, family, tmp_path, spoil, says):
    shutil.copytree(family / "left", tmp_path / "left")
    spoil(tmp_path / "left")
    experts = {"left": str(tmp_path / "left")}
    path = command.write(tmp_path, families.recipe(family, experts=experts))
    refused("plan", path, code=errors.INPUT, says=["experts.left", says])


@pytest.mark.parametrize("name", ["x" * 300, "/" + "x" * 300, "~" + "x" * 300])
def test_a_name_that_no_file_system_takes(refused, family, tmp_path, name):
    path = command.write(tmp_path, families.recipe(family, experts={"left": name}))
    refused("plan", path, code=errors.INPUT, says=["experts.left: ", "File name too long"])
    place = tmp_path / "adapter"
    place.mkdir()
    told = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "base_model_name_or_path": name}
    (place / "adapter_config.json").write_text(json.dumps(told))
    key = "base_model.model.model.norm.weight"
    save_file({key: torch.ones(16)}, place / "adapter_model.safetensors")
    assert inputs.load(str(family / "base"), {"left": str(place)}, tmp_path).experts


def test_a_run_of_another_recipe(refused, family, finished, tmp_path):
    path = command.write(tmp_path, families.recipe(family, batch=5))
    says = ["batch: the run has 20, now it is 5", "Name another folder with -o"]
    refused("search", path, "-o", finished, code=errors.USAGE, says=says)


def spoilt(finished, folder, statement):
    shutil.copytree(finished, folder)
    db = sqlite3.connect(folder / "ledger.sqlite")
    with db:
        db.execute(statement)
    db.close()
    return folder


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        (
            "UPDATE meta SET value='99' WHERE key='schema'",
            "schema 99, this evomerge reads up to 2",
        ),
        ("DROP TABLE answers", "not a whole ledger: lacks answers"),
        ("DROP TABLE meta", "is a database, but not a ledger"),
    ],
)
def test_a_ledger_that_can_not_be_used(refused, family, finished, tmp_path, statement, says):
    folder = spoilt(finished, tmp_path / "run", statement)
    path = command.write(tmp_path, families.recipe(family))
    for arguments in (["front", folder], ["search", path, "-o", folder]):
        refused(*arguments, code=errors.INPUT, says=["ledger.sqlite", says])


@pytest.mark.parametrize("what", ["front", "report", "export"])
def test_folders_without_a_confirmed_run(refused, finished, tmp_path, what):
    refused(what, tmp_path, code=errors.INPUT, says="no run here")
    (tmp_path / "ledger.sqlite").write_bytes(b"garbage" * 999)
    refused(what, tmp_path, code=errors.INPUT, says="not a readable ledger")
    folder = spoilt(finished, tmp_path / "run", "DELETE FROM events WHERE kind='confirmed'")
    refused(what, folder, code=errors.UNCONFIRMED, says="run the search again to go on")


def test_a_ledger_that_is_damaged_in_the_middle(refused, family, finished, tmp_path):
    """SQLite opens it, and finds out when it reads."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    ledger = folder / "ledger.sqlite"
    whole = ledger.read_bytes()
    page = int.from_bytes(whole[16:18], "big")
    ledger.write_bytes(whole[: 2 * page] + b"\xaa" * (len(whole) - 2 * page))
    path = command.write(tmp_path, families.recipe(family))
    for arguments in (["front", folder], ["report", folder], ["search", path, "-o", folder]):
        refused(*arguments, code=errors.INPUT, says=[str(ledger), "not a readable ledger"])


def test_a_run_folder_that_is_a_link_to_nowhere(refused, family, tmp_path):
    path, link = command.write(tmp_path, families.recipe(family)), tmp_path / "run"
    link.symlink_to(tmp_path / "unmounted")
    says = [str(link), f"a link to {tmp_path / 'unmounted'}, which is not there"]
    refused("search", path, "-o", link, code=errors.ENVIRONMENT, says=says)


FORKING = """
import os, sys, time
from pathlib import Path
from evomerge.files import lock
held = lock.take(Path(sys.argv[1]))
if not os.fork():
    print("here", flush=True)
    time.sleep(60)
os.kill(os.getpid(), 9)
"""


def test_a_child_that_outlives_its_run_does_not_hold_it(tmp_path):
    started = subprocess.Popen(
        [sys.executable, "-c", FORKING, str(tmp_path)], env=command.ENVIRONMENT, text=True,
        stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        assert started.stdout.readline() == "here\n" and started.wait() == -signal.SIGKILL
        lock.release(lock.take(tmp_path))
        os.killpg(started.pid, 0)  # it is still there
    finally:
        os.killpg(started.pid, signal.SIGKILL)
        started.stdout.close()


def test_a_run_folder_that_is_a_file(refused, family, tmp_path):
    path = command.write(tmp_path, families.recipe(family))
    refused("search", path, "-o", path, code=errors.ENVIRONMENT, says="is a file, expected a")
    inside = path / "run"
    refused("search", path, "-o", inside, code=errors.ENVIRONMENT, says=f"{path}: is a file, exp")
    (tmp_path / "runs").symlink_to("nowhere")
    says = f"{tmp_path / 'runs'}: is a link to nowhere, which is not there"
    refused("search", path, "-o", tmp_path / "runs/r", code=errors.ENVIRONMENT, says=says)


def test_wrong_points_and_targets(refused, finished, tmp_path):
    refused("export", finished, "c99999", code=errors.USAGE, says="unknown point 'c99999'")
    refused("export", finished, "bset", code=errors.USAGE, says="Did you mean 'best'?")
    (tmp_path / "mine.txt").write_text("mine")
    target = ["best", "-o", tmp_path]
    refused("export", finished, *target, code=errors.USAGE, says="is not an empty folder")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def edited(plan, *keys, value):
    for key in keys[:-1]:
        plan = plan[key]
    plan[keys[-1]] = value


GENE = ("groups", "1", "genes", "weight")


@pytest.mark.parametrize(
    ("keys", "value", "code", "says"),
    [
        (["x"], 1, 2, "plan.json: unknown key 'x'"),
        (["base", "sha256"], "0" * 64, 3, "not the checkpoint that the plan was made from"),
        (["base", "path"], "", 3, "base: the plan does not say where it is"),
        (["dtype"], "x", 2, "dtype: expected 'float32'"),
        (["layers", "blocks"], 9, 2, "expected 1 to 2 (the model's layers)"),
        (["groups", "1", "operator"], "tise", 2, "unknown operator 'tise'. Did you mean 'ties'?"),
        (["groups", "1", "version"], 9, 2, "has version 2 here, the plan was made with 9"),
        (["groups", "9"], {"operator": "ties", "version": 1}, 2, "unknown group '9'"),
        ([*GENE], "x", 2, "task_arithmetic.weight: expected a number, got 'x'"),
        ([*GENE], [1, 2], 2, "'weight': expected a value, or a mapping of experts to values"),
        ([*GENE], {"left": 1}, 2, "expected a value for each of left, right"),
        ([*GENE, "left"], 1e9, 2, "weight[left]: 1000000000.0 is outside the range"),
    ],
)
def test_wrong_plans(refused, run, finished, tmp_path, keys, value, code, says):
    plan = json.loads(run("export", finished, "--plan")[1])
    edited(plan, *keys, value=value)
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    target = tmp_path / "merged"
    refused("merge", tmp_path / "plan.json", "-o", target, code=code, says=says)
    assert not target.exists()


def test_wrong_merges(refused, family, tmp_path):
    path = command.write(tmp_path, families.recipe(family))
    (tmp_path / "plan.json").write_text('{"a":')
    refused("merge", tmp_path / "plan.json", code=errors.INPUT, says="plan.json: is not JSON")
    for given, says in {
        "weight": "--set: expected gene=value, got 'weight'",
        "wieght=1": "unknown gene 'wieght'. Did you mean 'weight'?",
        "weight[lfet]=1": "unknown expert of a gene 'lfet'. Did you mean 'left'?",
        "weight=9": "weight: 9.0 is outside the range [-1, 1.5]",
        "weight=x": "weight: expected a number, got 'x'",
    }.items():
        refused("merge", path, "--set", given, code=errors.USAGE, says=says)
    given = ["--set", "weight=1"]
    refused("merge", tmp_path / "plan.json", *given, code=errors.USAGE, says="a plan has all its")


def test_wrong_evaluations(refused, family, tmp_path):
    bank = ["-b", family / "one.jsonl"]
    base = family / "base"
    nowhere = tmp_path / "x"
    refused("evaluate", nowhere, *bank, code=errors.INPUT, says=f"model: {nowhere}: no such fo")
    refused("evaluate", base, "-b", "on", code=errors.USAGE, says="unknown bank 'on'")
    split = ["--split", "tets"]
    refused("evaluate", base, *bank, *split, code=errors.USAGE, says="Did you mean 'test'?")
    shutil.copy(family / "two.jsonl", tmp_path / "one.jsonl")
    twins = [*bank, "-b", tmp_path / "one.jsonl"]
    refused("evaluate", base, *twins, code=errors.USAGE, says="two banks have the name 'one'")
    refused("bank", "check", tmp_path / "x.jsonl", code=errors.INPUT, says="no such file")
    wrong = [family / "one.jsonl", "--base", base, "--expert", "left"]
    refused("bank", "check", *wrong, code=errors.INPUT, says="left: no such folder")
    for twice in (["left=a", "--expert", "left=b"], ["left=a", "--expert", "b/left"], ["base=a"]):
        given = [*wrong[:-1], *twice]
        refused("bank", "check", *given, code=errors.USAGE, says="stands twice")
