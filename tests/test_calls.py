"""What saves and the ledger ask of the kernel: the order that a power cut needs, and SIGKILL at
every single call."""

import os
import shutil
import sqlite3
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest

from evomerge import api, saving
from evomerge.files import writer
from evomerge.files.ledger import Answer, Ledger
from tests import traced

pytestmark = pytest.mark.skipif(traced.STRACE is None, reason="needs strace")
RECORDS = 2


@pytest.fixture(scope="module")
def plan(family):
    experts = {name: family / name for name in ("left", "right")}
    return api.plan_of(family / "base", experts, "task_arithmetic", weight=0.5)


@pytest.fixture
def trace(tmp_path):
    """Run something under strace and return its calls."""

    def run(action):
        status = traced.run(action, tmp_path / "log")
        if status == -1:
            pytest.skip("tracing is forbidden here")
        assert status == 0
        return traced.calls(tmp_path / "log")

    return run


def save(plan, folder):
    saving.write(plan, folder, shard_size="20KB")


def record(folder, acknowledge):
    """Add answers to a ledger; after each commit one byte goes through the pipe."""
    ledger = Ledger(folder, write=True)
    for i in range(RECORDS):
        answer = Answer("bank", f"item {i}", "search", i / RECORDS, {"margin": 0.5})
        ledger.record("plan", [answer], "host", 0)
        os.write(acknowledge, b"x")
    ledger.close()


def positions(calls, names, path):
    return [i for i, call in enumerate(calls) if call.name in names and call.path == path]


WRITE, SYNC = ("write", "writev", "pwrite64"), ("fsync", "fdatasync")


def test_a_save_is_on_disk_before_it_has_its_name(trace, plan, tmp_path):
    """write, fsync of each file, fsync of the new folder, rename, fsync of the folder above."""
    target = tmp_path / "out"
    calls = trace(partial(save, plan, target))
    (rename,) = [i for i, call in enumerate(calls) if call.name.startswith("rename")]
    partial_name = calls[rename].path
    assert f'"{target}"' in calls[rename].text and partial_name != str(target)
    files = sorted(path.name for path in target.iterdir())
    assert {"config.json", "plan.json", "README.md", "tokenizer.json"} < set(files)
    assert len([name for name in files if name.endswith(".safetensors")]) > 1
    for name in files:
        written = positions(calls, WRITE, f"{partial_name}/{name}")
        synced = positions(calls, SYNC, f"{partial_name}/{name}")
        assert written and synced and written[-1] < synced[-1] < rename, name
        assert positions(calls, SYNC, partial_name)[-1] > synced[-1], name
    assert positions(calls, SYNC, partial_name)[-1] < rename
    assert positions(calls, SYNC, str(tmp_path))[-1] > rename


def test_a_text_is_on_disk_before_it_has_its_name(trace, tmp_path):
    target = tmp_path / "recipe.json"
    calls = trace(partial(writer.atomic_text, target, "text"))
    (rename,) = [i for i, call in enumerate(calls) if call.name.startswith("rename")]
    draft = calls[rename].path
    written, synced = positions(calls, WRITE, draft), positions(calls, SYNC, draft)
    assert written[-1] < synced[-1] < rename < positions(calls, SYNC, str(tmp_path))[-1]


def test_an_answer_is_on_disk_before_it_is_acknowledged(trace, tmp_path):
    Ledger(tmp_path / "run", write=True).close()
    hear, acknowledge = os.pipe()
    calls = trace(partial(record, tmp_path / "run", acknowledge))
    assert os.read(hear, 100) == b"x" * RECORDS
    wal = str(tmp_path / "run" / "ledger.sqlite-wal")
    told = [i for i, call in enumerate(calls) if call.name == "write" and "pipe:" in call.path]
    assert len(told) == RECORDS
    for begin, end in zip([0, *told], told, strict=False):
        written = [i for i in positions(calls, WRITE, wal) if begin < i < end]
        synced = [i for i in positions(calls, SYNC, wal) if begin < i < end]
        assert written and synced and written[-1] < synced[-1]


def digest(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.slow
def test_a_save_killed_at_every_call_is_whole_or_absent(trace, plan, tmp_path):
    """And the next save into the same place takes away what is left of the one before."""
    whole = tmp_path / "whole"
    calls = traced.every(trace(partial(save, plan, whole)))
    target = tmp_path / "place" / "out"
    kills = published = 0
    for name, number in calls:
        kills += traced.killed(partial(save, plan, target), tmp_path / "log", name, number)
        if target.exists():
            assert _but_command(digest(target)) == _but_command(digest(whole))
            shutil.rmtree(target)
            published += 1
    assert kills > 0.95 * len(calls) > 80
    assert 2 <= published < 10
    save(plan, target)
    assert _but_command(digest(target)) == _but_command(digest(whole))
    assert [path.name for path in target.parent.iterdir()] == ["out"]


def _but_command(files: dict[str, str]) -> dict[str, str]:
    """The card has the folder's name as its title."""
    return {name: value for name, value in files.items() if name != "README.md"}


@pytest.mark.slow
def test_a_ledger_killed_at_every_call_has_all_that_it_acknowledged(tmp_path, trace):
    folder = tmp_path / "run"
    hear, acknowledge = os.pipe()
    calls = traced.every(trace(partial(record, folder, acknowledge)))
    shutil.rmtree(folder)
    os.read(hear, 100)
    seen, kills = set(), 0
    for name, number in calls:
        kills += traced.killed(
            partial(record, folder, acknowledge), tmp_path / "log", name, number
        )
        os.write(acknowledge, b"-")
        told = len(os.read(hear, 100)) - 1
        stored = 0
        if (folder / "ledger.sqlite").exists() and (folder / "ledger.sqlite").stat().st_size:
            db = sqlite3.connect(folder / "ledger.sqlite")
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            if db.execute("SELECT 1 FROM sqlite_master WHERE name='answers'").fetchone():
                stored = db.execute("SELECT count(*) FROM answers").fetchone()[0]
            db.close()
        assert told <= stored <= told + 1
        record_all = Ledger(folder, write=True)  # whatever was left, a later session goes on
        record_all.record("later", [Answer("b", "i", "search", 1.0, {})], "host", 0)
        record_all.close()
        shutil.rmtree(folder)
        seen.add(stored)
    assert seen == set(range(RECORDS + 1)) and kills > 0.95 * len(calls) > 80
