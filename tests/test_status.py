"""How far a run is, before, while and after it works; and what a bug report holds."""

import io
import json
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

import evomerge
from evomerge import errors, status
from evomerge.files import lock
from evomerge.files.ledger import Ledger
from evomerge.objectives import Anchor
from evomerge.status import Told
from tests import command, families


def test_the_state_of_a_run_and_its_own_front(family, tmp_path, run):
    """Interrupted in the search; looked at from inside it; then confirmed."""
    seen, stop = [], [9]

    def looked(model, tokenizer):
        seen.append(status.read(tmp_path / "run") if (tmp_path / "run").exists() else None)
        if len(seen) == stop[0]:
            raise KeyboardInterrupt
        return 0.5

    recipe = families.recipe(family, budget={"candidates": 6})
    with pytest.raises(KeyboardInterrupt):
        evomerge.search(recipe, tmp_path / "run", objectives={"looked": looked})
    assert seen[0]["state"] == "in its base and experts" and seen[-1]["state"] == "in its search"
    assert seen[-1]["writer"].startswith("pid ")
    code, out, _ = run("status", tmp_path / "run", "--json")
    facts = json.loads(out)
    assert code == 0 and facts["state"] == "interrupted in its search" and not facts["writer"]
    assert facts["candidates"] == 6 and facts["told"] == 3 and facts["front"]
    best = max(row["one"] for row in facts["front"])
    assert 0 <= best <= 1 and facts["budget"] == {"candidates": 6}

    code, out, err = run("front", tmp_path / "run")
    assert code == errors.UNCONFIRMED and "not confirmed" in out and "c" in out and "again" in err
    code, out, _ = run("front", tmp_path / "run", "--json")
    assert code == errors.UNCONFIRMED
    assert json.loads(out)["unconfirmed_front"] == facts["front"]
    point = facts["front"][0]["point"]
    assert run("export", tmp_path / "run", point, "-o", tmp_path / "model")[0] == 0
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert run("export", tmp_path / "run", "best", "-o", tmp_path / "b")[0] == errors.UNCONFIRMED
    assert run("status", tmp_path / "run", "--watch")[0] == 0

    stop[0] = 0
    evomerge.search(recipe, tmp_path / "run", objectives={"looked": looked})
    assert status.read(tmp_path / "run")["state"] == "confirmed"
    assert seen[-1]["state"] == "in its confirmation"


def test_a_look_is_a_line_where_there_is_no_terminal(family, tmp_path, run, monkeypatch):
    """Ctrl-C ends the looking, and nothing else."""
    looks = []

    def wait(seconds):
        if len(looks) > 1:
            raise KeyboardInterrupt
        looks.append(seconds)

    def looked(model, tokenizer):
        if len(found := list(tmp_path.glob("run/ledger.sqlite"))) and not looks:
            said.append(run("status", found[0].parent, "--watch"))
        return 0.5

    said = []
    monkeypatch.setattr(status, "time", SimpleNamespace(sleep=wait, time=time.time))
    recipe = families.recipe(family, budget={"candidates": 3}, strategy="sobol")
    assert evomerge.search(recipe, tmp_path / "run", objectives={"looked": looked}).is_confirmed
    line = "in its base and experts: 0 of 0 candidates told, 0 failed, 0 items"
    assert said == [(0, f"{line}\n", "")] and looks == [status.EVERY] * 2


@pytest.mark.slow
def test_a_look_fits_the_screen(tmp_path, family):
    recipe = families.recipe(family, budget={"candidates": 6})
    run = evomerge.search(recipe, tmp_path / "run")
    facts = status.read(run.folder) | {"state": "in its search", "writer": "pid 7 on me, boot x"}
    facts["front"] = facts["front"][:1] * 30
    for width, height, fewest in ((60, 20, 1), (60, 24, 5), (80, 24, 6), (200, 100, status.SHOWN)):
        screen = Console(file=io.StringIO(), width=width, height=height, force_terminal=True)
        screen.print(status._fitting(screen, facts))
        shown = screen.file.getvalue()
        assert shown.count("\n") <= height and shown.count("c") > 0 and "boot" not in shown
        points = sum(facts["front"][0]["point"] in line for line in shown.splitlines())
        assert fewest <= points <= status.SHOWN and "more (--json)" in shown, points


def test_watching_is_not_for_programs(refused, tmp_path):
    refused("status", tmp_path, "--watch", "--json", code=errors.USAGE, says="repeat it without")


WINDOWS = """
import os, signal, sys
sys.modules["fcntl"] = None
del signal.SIGALRM, signal.setitimer
import evomerge
from evomerge.worker import Result
evomerge.merge(sys.argv[1], [sys.argv[2]], "linear", out=sys.argv[3])
del os.uname  # which torch asks where it takes the system for Linux
assert Result("key").host
"""


@pytest.mark.slow
def test_without_locks_of_files_one_merges_all_the_same(family, tmp_path):
    """As on Windows, of which this is what Python has not."""
    done = subprocess.run(
        [sys.executable, "-c", WINDOWS, family / "base", family / "left", tmp_path / "out"],
        env=command.ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_without_locks_of_files_no_run_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(errors.MachineError, match="has no locks of files"):
        Ledger(tmp_path / "run", write=True)
    assert not (tmp_path / "run").exists()


def test_a_writer_that_is_gone_is_none(tmp_path):
    """Its pid is somebody else's by now, or nobody's; of other machines nothing is known."""
    assert lock.writer_of(tmp_path) is None
    descriptor = lock.take(tmp_path)
    said = (tmp_path / "lock").read_text()
    assert lock.writer_of(tmp_path) == said.strip()
    lock.release(descriptor)
    assert lock.writer_of(tmp_path) is None
    boot = said.split("boot ")[1]
    (tmp_path / "lock").write_text(said.replace(boot, "another"))
    assert lock.writer_of(tmp_path) is None
    (tmp_path / "lock").write_text("pid 999999999" + said[said.index(" on ") :])
    assert lock.writer_of(tmp_path) is None
    elsewhere = "pid 1 on some-other-host, boot x"
    (tmp_path / "lock").write_text(elsewhere)
    assert lock.writer_of(tmp_path) == elsewhere


def test_a_large_ledger_is_read_whole(tmp_path):
    """20,000 candidates of 20 genes and 3 objectives, eight an event."""
    ledger = Ledger(tmp_path, write=True)
    ledger.append("anchors", {name: {"zero": 0.5, "unit": 0.1} for name in "abc"})
    ledger.add_session({})
    with ledger.together():
        for start in range(0, 20_000, 8):
            ids = range(start, start + 8)
            point = [round((start * 0.37 + i * 0.11) % 1, 6) for i in range(20)]
            asks = [{"id": i, "point": point, "items": None, "plan": f"{i:064x}"} for i in ids]
            tells = [
                {"id": i, "losses": [i * 0.37 % 1, i * 0.11 % 1, i * 0.73 % 1],
                 "errors": [0.1] * 3, "items": 150}
                for i in ids
            ]  # fmt: skip
            for kind, body in (("ask", {"n": 8, "proposals": asks}), ("tell", tells)):
                ledger._db.execute(
                    "INSERT INTO events (kind, body, time) VALUES (?, ?, ?)",
                    (kind, json.dumps(body), 1e9 + start),
                )
    ledger.close()
    facts = status.read(tmp_path)
    assert facts["candidates"] == facts["told"] == 20_000


def test_the_doctor_says_what_a_bug_report_needs(tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVOMERGE_CANARY", "a secret")
    code, out, _ = run("doctor", "--no-ray", "--json")
    found = json.loads(out)
    assert (code == 0) == (not found["problems"])
    assert found["versions"]["evomerge"] == evomerge.__version__
    assert found["folders"]["runs"]["path"] == str(tmp_path)
    assert "EVOMERGE_CANARY" in found["variables"] and "a secret" not in out
    code, out, _ = run("doctor", "--no-ray")
    assert found["versions"]["torch"] in out and command.ROOT is not None


def test_the_doctor_says_what_is_broken(tmp_path, run, monkeypatch):
    """A package that raises when it is imported, a file and a link where folders have to be."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cma").mkdir()
    (tmp_path / "cma" / "__init__.py").write_text("raise OSError('libfoo.so: not found')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cma", raising=False)
    monkeypatch.setenv("EVOMERGE_HOME", str(tmp_path / "file" / "below"))
    (tmp_path / "file").write_text("")
    (tmp_path / "runs").symlink_to("nowhere")
    code, out, _ = run("doctor", "--no-ray", "--json")
    found = json.loads(out)
    assert code == errors.ENVIRONMENT and found["problems"][:3] == [
        "cma can not be imported: OSError: libfoo.so: not found",
        f"runs: {tmp_path / 'runs'} is no folder",
        f"cache (EVOMERGE_HOME): {tmp_path / 'file'} is no folder",
    ]


@pytest.mark.slow
def test_the_doctor_starts_a_cluster(tmp_path):
    whole = [*command.PROGRAM, "doctor", "--json"]
    done = subprocess.run(whole, cwd=tmp_path, env=command.ENVIRONMENT, capture_output=True)
    found = json.loads(done.stdout)
    assert found["ray"] == "ok" and not done.stderr
    assert (done.returncode == 0) == (not found["problems"])


def test_a_front_is_of_those_who_were_asked_alike():
    """However many they answered: a calibration asks more, and the last rung of a race counts."""
    anchors = {"one": Anchor(1.0, 1.0)}
    told = {i: Told(60 if i < 2 else 20, (i / 10,), (i / 10,), 9) for i in range(5)}
    told[5] = Told(20, None, None, 9)
    alike = status.front(told, dict.fromkeys(told, (None, 1)), anchors)
    assert [(row["point"], row["items"]) for row in alike] == [("c0", 60)]
    few = {i: told[i] for i in (1, 3, 4)}
    assert status.front(few, dict.fromkeys(few, (None, 1)), anchors)[0]["point"] == "c1"
    raced = {0: (10, 1), 1: (30, 11), 2: (30, 8), 3: (30, 7), 4: (10, 1), 5: (30, 1)}
    assert [row["point"] for row in status.front(told, raced, anchors)] == ["c2"]


def test_why_candidates_failed_is_said(family, tmp_path, run):
    def broken(model, tokenizer):
        if (tmp_path / "merges").exists():
            raise RuntimeError("no luck")
        return 0.5

    def begin(event, facts):
        if event == "stage" and facts["name"] == "search":
            (tmp_path / "merges").touch()

    recipe = families.recipe(family, budget={"candidates": 6})
    with pytest.raises(errors.Unconfirmed):
        evomerge.search(recipe, tmp_path / "run", objectives={"own": broken}, report=begin)
    facts = status.read(tmp_path / "run")
    ((reason, n),) = facts["reasons"].items()  # baselines failed too, and are not counted
    assert "no luck" in reason and n == facts["failed"] == 6
    assert "no candidate has a score" in evomerge.Run(tmp_path / "run")._repr_html_()
    assert "6 x" in run("status", tmp_path / "run")[1]
