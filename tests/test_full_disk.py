"""Disks that are full, folders that can not be written, inputs that go away: whole or absent,
nothing acknowledged is lost, and a later run goes on."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial

import pytest

import evomerge
from evomerge import api, errors, saving
from evomerge.files.checkpoint import Checkpoint
from tests import command, families, full_disk, ledgers, nightly

STEP = nightly.amount("EVOMERGE_OFFSETS")
STEPS = [
    *(pytest.param(step, marks=pytest.mark.slow) for step in (4099, 1021)),
    pytest.param(STEP, marks=pytest.mark.nightly),
]


@pytest.mark.parametrize("step", STEPS)
def test_a_ledger_on_a_disk_that_is_full_at_any_offset(tmp_path, step, record_property):
    full, limit = 0, 0
    while full_disk.one(tmp_path / "run", partial(full_disk.file_limit, limit), lambda: None):
        full += 1
        limit += step
    assert full * step > 30_000
    record_property("full disks", full)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs a mount of its own")
def test_a_ledger_on_a_small_disk(tmp_path):
    """A real file system without space, not a limit of the process."""
    mount = f"mount -t tmpfs -o size=600k none {tmp_path}"
    can = subprocess.run(["unshare", "--mount", "sh", "-c", mount], capture_output=True)
    if can.returncode:
        pytest.skip("may not mount")
    call = f"{mount} && exec {sys.executable} -m tests.full_disk {tmp_path} 4096"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", call], text=True, capture_output=True, timeout=600,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def plan(family):
    experts = {name: family / name for name in ("left", "right")}
    return api.plan_of(family / "base", experts, "task_arithmetic", weight=0.5)


@pytest.mark.parametrize("step", STEPS)
def test_a_save_on_a_disk_that_is_full_at_any_offset(plan, tmp_path, step, record_property):
    target = tmp_path / "place" / "out"

    def save(limit):
        full_disk.file_limit(limit)
        try:
            saving.write(plan, target, shard_size="20KB")
        except errors.MachineError as error:
            return full_disk.FULL if "nothing was left behind" in str(error) else 1
        return full_disk.WHOLE

    full = limit = 0
    while (code := full_disk.forked(partial(save, limit))) != full_disk.WHOLE:
        assert code == full_disk.FULL
        assert list(target.parent.iterdir()) == []
        full += 1
        limit += step
    assert full * step > 10_000
    record_property("full disks", full)
    assert Checkpoint.open(target).tensors.keys() == Checkpoint.open(plan.base.path).tensors.keys()
    assert [path.name for path in target.parent.iterdir()] == ["out"]


@pytest.mark.slow
def test_a_search_whose_files_may_grow_little_by_little(family, tmp_path):
    """Full again and again, each time a little later: it ends as one that never was."""
    recipe = families.recipe(family)

    def search(limit):
        full_disk.file_limit(limit)
        try:
            evomerge.search(recipe, tmp_path / "run")
        except errors.MachineError:
            return full_disk.FULL
        return full_disk.WHOLE

    limit, full = 0, 0
    while (code := full_disk.forked(partial(search, limit))) != full_disk.WHOLE:
        assert code == full_disk.FULL
        full += 1
        limit += 40_000
    assert full >= 5
    evomerge.search(recipe, tmp_path / "whole")
    assert ledgers.content(tmp_path / "run") == ledgers.content(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root may write anywhere"
)
def test_a_folder_that_may_only_be_read(family, tmp_path):
    path = command.write(tmp_path, families.recipe(family))
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    words = [*command.PROGRAM, "search", str(path), "-o", str(closed / "run")]
    as_user = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*as_user, *words], env=command.ENVIRONMENT, text=True, capture_output=True, timeout=120
    )
    assert done.returncode == errors.ENVIRONMENT, done.stderr
    assert f"{closed / 'run'}: can not be written: Permission denied" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root may write anywhere"
)
def test_a_run_that_may_only_be_read_is_read(family, tmp_path):
    """A colleague's, or one in an archive; one that nobody closed has to be copied first."""
    path = command.write(tmp_path, families.recipe(family, budget={"candidates": 6}))
    as_user = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []

    def called(*words):
        return subprocess.run(
            [*as_user, *command.PROGRAM, *words], env=command.ENVIRONMENT, text=True,
            capture_output=True, timeout=120,
        )  # fmt: skip

    def front():
        return called("front", str(tmp_path / "run"), "--json")

    called("search", str(path), "-o", str(tmp_path / "run"))
    before = front().stdout
    for file in (tmp_path / "run").iterdir():
        file.chmod(0o444)
    (tmp_path / "run").chmod(0o555)
    done = front()
    assert done.returncode == 0, done.stderr
    assert done.stdout == before and json.loads(before)["front"]
    (tmp_path / "run").chmod(0o755)
    (tmp_path / "run" / "ledger.sqlite-wal").write_bytes(b"not empty")
    (tmp_path / "run").chmod(0o555)
    done = front()
    assert done.returncode == errors.ENVIRONMENT and "copy the folder" in done.stderr
    (tmp_path / "run").chmod(0o755)


@pytest.mark.slow
def test_inputs_that_are_deleted_during_a_run(family, tmp_path, refused):
    """What is mapped stays readable; what has to be opened again is named, and it goes on when
    the input is back."""
    place = tmp_path / "models"
    shutil.copytree(family, place)
    calls = []

    def deleting(model, tokenizer):
        calls.append(1)
        if len(calls) == 6:
            (place / "left").rename(tmp_path / "away")
        return 0.5

    recipe = families.recipe(place, budget={"candidates": 9}, shortlist=2)
    run = evomerge.search(recipe, tmp_path / "run", objectives={"deleting": deleting})
    assert len(calls) > 9 and not run.failures()
    says = ["left", "no such folder"]
    refused("export", run.folder, "best", "-o", tmp_path / "m", code=errors.INPUT, says=says)
    assert not (tmp_path / "m").exists()
    larger = {**recipe, "budget": {"candidates": 12}}
    with pytest.raises(errors.InputError, match=r"experts\.left: .*no such folder"):
        evomerge.search(larger, run.folder, objectives={"deleting": deleting})
    (tmp_path / "away").rename(place / "left")
    assert (
        len(evomerge.search(larger, run.folder, objectives={"deleting": deleting}).asked()) == 12
    )
    assert run.save("best", tmp_path / "m").is_dir()


def test_a_run_folder_that_is_deleted_during_a_run(family, tmp_path):
    calls = []

    def deleting(model, tokenizer):
        calls.append(1)
        if len(calls) == 6:
            shutil.rmtree(tmp_path / "run")
        return 0.5

    recipe = families.recipe(family, budget={"candidates": 9})
    with pytest.raises(errors.MachineError, match="is not there any more"):
        evomerge.search(recipe, tmp_path / "run", objectives={"deleting": deleting})
