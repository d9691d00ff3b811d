"""The command line from outside: processes, signals, a full disk, pipes, help, JSON."""

import html
import io
import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import yaml

import evomerge
from evomerge import errors, zoo
from evomerge.console import Screen, Table
from evomerge.files.items import SPLITS
from tests import command, families, ledgers

SLOW = """
import time

def slow(model, tokenizer):
    open("asked", "a").write("x")
    time.sleep(float(open("pause").read()))
    return 0.5
"""


@pytest.fixture
def slow(family, tmp_path):
    """A recipe whose one objective takes as long as the file `pause` says."""
    (tmp_path / "slow_function.py").write_text(SLOW)
    objective = {"a": {"function": "slow_function:slow"}}
    changes = {"strategy": "sobol", "fidelity": "all", "budget": {"candidates": 6}}
    return command.write(tmp_path, families.recipe(family, objectives=objective, **changes))


def searching(slow, pause):
    """A process that is in the middle of a search."""
    folder = slow.parent
    (folder / "pause").write_text(str(pause))
    (folder / "asked").write_text("")
    process = command.start("search", slow, "-o", folder / "run", cwd=folder)
    until = time.monotonic() + 60
    while not (folder / "asked").read_text() and time.monotonic() < until:
        time.sleep(0.02)
    return process


@pytest.mark.slow
def test_a_search_that_is_stopped_goes_on(slow):
    """SIGTERM, a closed terminal, then two Ctrl-C in one long answer, then to the end; meanwhile
    nobody else may."""
    folder = slow.parent / "run"
    for number in (signal.SIGTERM, signal.SIGHUP):
        process = searching(slow, 0.3)
        process.send_signal(number)
        code, _, err = command.finish(process)
        assert code == errors.INTERRUPTED and "run the same command again to go on" in err
    before = ledgers.content(folder)["answers"]
    assert before

    process = searching(slow, 60)
    other = command.start("search", slow, "-o", folder, cwd=slow.parent)
    code, _, err = command.finish(other)
    assert code == errors.ENVIRONMENT
    assert f"in use by another process (pid {process.pid} on " in err
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    code, _, err = command.finish(process)
    assert code == errors.INTERRUPTED and "run the same command again to go on" in err

    code, out, err = command.finish(searching(slow, 0))
    assert code == errors.DONE and "report.html" in out
    assert set(before) <= set(ledgers.content(folder)["answers"])


@pytest.mark.slow
def test_the_code_of_an_interruption_is_ours_whatever_it_interrupts(family, tmp_path):
    """As code that was made of text, of which the imports of libraries have much."""
    text = """
import os, signal
exec("os.kill(os.getpid(), signal.SIGTERM)")
def f(model, tokenizer): return 0.5
"""
    (tmp_path / "killing.py").write_text(text)
    recipe = families.recipe(family, objectives={"f": {"function": "killing:f"}})
    process = command.start("search", command.write(tmp_path, recipe), "-o", tmp_path / "run",
                            cwd=tmp_path)  # fmt: skip
    code, _, err = command.finish(process)
    assert code == errors.INTERRUPTED and "run the same command again to go on" in err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks the ps of Linux")
def test_a_search_is_stopped_while_ray_starts(family, tmp_path):
    """Ray has its own handler of SIGTERM meanwhile."""
    pytest.importorskip("ray")
    executor, long = {"name": "ray", "workers": 1}, {"candidates": 2000}
    recipe = families.recipe(family, executor=executor, budget=long)
    process = command.start("search", command.write(tmp_path, recipe), "-o", tmp_path / "run")
    children = ["ps", "-o", "comm=", "--ppid", str(process.pid)]  # `args` are cut at COLUMNS
    said = ""
    while process.poll() is None and "gcs_server" not in said:
        time.sleep(0.02)
        said = subprocess.run(children, capture_output=True, text=True).stdout
    process.send_signal(signal.SIGTERM)
    code, _, err = command.finish(process)
    assert code == errors.INTERRUPTED and "run the same command again to go on" in err


@pytest.mark.slow
def test_ray_leaves_the_handlers_of_signals_as_they_were():
    """While it is connected, and when a search has left it and makes its report."""
    pytest.importorskip("ray")
    text = """
import os, signal
from evomerge.cluster import connected
signal.signal(signal.SIGTERM, lambda number, frame: print("ours"))
with connected(None, 1):
    os.kill(os.getpid(), signal.SIGTERM)
os.kill(os.getpid(), signal.SIGTERM)
"""
    done = subprocess.run(
        [sys.executable, "-c", text], env=command.ENVIRONMENT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ours\nours\n", "")


@pytest.mark.slow
def test_where_there_is_no_cluster_it_is_said(family, tmp_path, refused):
    """Ray itself would try again without end."""
    pytest.importorskip("ray")
    executor = {"name": "ray", "workers": 1, "address": "127.0.0.1:1"}
    recipe = command.write(tmp_path, families.recipe(family, executor=executor))
    refused("search", recipe, "-o", tmp_path / "run", code=errors.ENVIRONMENT,
            says="executor: ray: no cluster at 127.0.0.1:1: ")  # fmt: skip


@pytest.mark.slow
def test_gpus_that_are_not_there_are_not_waited_for(family, tmp_path, refused):
    """Nor is the cluster left behind that told how many there are."""
    ray = pytest.importorskip("ray")
    executor = {"name": "ray", "workers": 1, "gpus": 1024}
    recipe = command.write(tmp_path, families.recipe(family, executor=executor))
    says = "executor: ray: 1 worker with gpus: 1024, and the GPUs of this machine hold 0"
    refused("search", recipe, "-o", tmp_path / "run", code=errors.ENVIRONMENT, says=says)
    assert not ray.is_initialized()


@pytest.mark.parametrize(
    ("gpus", "places"), [(0, 8), (0.25, 8), (0.3, 6), (0.6, 2), (1, 2), (2, 1), (3, 0)]
)
def test_how_many_workers_two_gpus_hold(gpus, places):
    """Of fractions those that lie on one."""
    from evomerge.executors.ray import _places

    two = SimpleNamespace(cluster_resources=lambda: {"CPU": 8.0, "GPU": 2.0})
    assert _places(two, gpus) == places


@pytest.mark.nightly
def test_a_cluster_that_lets_nobody_in_is_given_up(family, tmp_path, monkeypatch):
    """Ray itself takes 40 seconds to try once, and would try twenty times."""
    pytest.importorskip("ray")
    text = """
from evomerge.cluster import connected
with connected(None, 1) as ray:
    input(print(ray.get_runtime_context().gcs_address, flush=True))
"""
    open_to_itself = subprocess.Popen(
        [sys.executable, "-c", text], env=command.ENVIRONMENT, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    address = open_to_itself.stdout.readline().strip()
    monkeypatch.setitem(command.ENVIRONMENT, "RAY_NUM_REDIS_GET_RETRIES", "1")
    executor = {"name": "ray", "workers": 1, "address": address}
    recipe = command.write(tmp_path, families.recipe(family, executor=executor))
    code, _, err = command.finish(command.start("search", recipe, "-o", tmp_path / "run"))
    open_to_itself.communicate("")
    assert code == errors.ENVIRONMENT
    assert f"executor: ray: no cluster at {address}: " in err and "RAY_AUTH_TOKEN" in err


@pytest.mark.slow
def test_a_search_on_ray_that_is_stopped_goes_on(slow):
    """Ray sets a handler of SIGTERM of its own, after that of the search."""
    pytest.importorskip("ray")
    recipe = yaml.safe_load(slow.read_text())
    command.write(slow.parent, {**recipe, "executor": {"name": "ray", "workers": 1}})
    process = searching(slow, 0.3)
    process.send_signal(signal.SIGTERM)
    code, _, err = command.finish(process)
    assert code == errors.INTERRUPTED and "run the same command again to go on" in err
    assert ledgers.content(slow.parent / "run")["answers"]


@pytest.mark.slow
def test_a_full_disk_loses_nothing(family, tmp_path, run):
    """Files may not grow beyond 128 kB; without the limit the same command completes the run."""
    path = command.write(tmp_path, families.recipe(family))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (128 * 1024, hard))
    try:
        code, _, err = run("search", path, "-o", tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == errors.ENVIRONMENT
    assert "Nothing recorded is lost" in err and "run the same command again" in err
    before = ledgers.content(tmp_path / "run")["answers"]
    code, out, _ = run("search", path, "-o", tmp_path / "run", "--json")
    assert code == errors.DONE and json.loads(out)["front"]
    assert before and set(before) < set(ledgers.content(tmp_path / "run")["answers"])
    run("search", path, "-o", tmp_path / "whole")
    assert ledgers.content(tmp_path / "run") == ledgers.content(tmp_path / "whole")


def test_from_a_search_to_a_model(family, tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = command.write(tmp_path, families.recipe(family, budget={"candidates": 6}))
    code, out, _ = run("search", path, "-o", "run")
    assert code == 0 and "report: run/report.html\n" in out
    shutil.copytree("run", "a run")
    out = run("front", "a run")[1]
    assert "save:   evomerge export 'a run' best -o merged" in out
    assert "report: a run/report.html\n" in out
    (tmp_path / "a run" / "report.html").unlink()
    assert "report: evomerge report 'a run'\n" in run("front", "a run")[1]
    assert run("search", path, "-o", "run", "--candidates", 9)[0] == 0
    front = json.loads(run("front", "run", "--json")[1])
    label = front["front"][0]["point"]
    code, out, _ = run("front", "run")
    assert code == 0 and label in out
    assert run("report", "run")[0] == 0
    (tmp_path / "plan.json").write_text(run("export", "run", label, "--plan")[1])
    assert run("export", "run", label, "-o", "exported")[0] == 0
    assert run("merge", "plan.json", "-o", "merged")[0] == 0
    assert run("merge", path, "--set", "weight[left]=0.5", "-o", "byhand")[0] == 0
    scores = {}
    for model in ("exported", "merged", "plan.json"):
        found = run("evaluate", model, "-b", family / "one.jsonl", "--json")[1]
        scores[model] = json.loads(found)["one"]["mean"]
    assert set(scores.values()) == {front["front"][0]["one"]}


def test_what_the_report_says_to_go_on_goes_on_whatever_limit_is_reached(family, tmp_path, run):
    path = command.write(tmp_path, families.recipe(family, budget={"items": 400}))
    assert run("search", path, "-o", tmp_path / "run")[0] == 0
    n = len(evomerge.Run(tmp_path / "run").asked())
    page = html.unescape((tmp_path / "run" / "report.html").read_text())
    folder = shlex.quote(str(tmp_path / "run"))
    more = re.findall(rf"evomerge search RECIPE -o {re.escape(folder)} (--\S+) (\d+)", page)[0]
    assert run("search", path, "-o", tmp_path / "run", *more)[0] == 0
    assert len(evomerge.Run(tmp_path / "run").asked()) == 2 * n


@pytest.mark.parametrize("name", ["my: bank #1", "fun \U0001f600 \u2028é"])
def test_own_questions_become_a_bank(family, tmp_path, run, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"{name}.jsonl").write_text((family / "one.jsonl").read_text())
    models = ["--base", family / "base", "--expert", f"left={family / 'left'}"]
    code, out, _ = run("bank", "check", f"{name}.jsonl", *models)
    assert code == 0 and "left" in out
    line = yaml.safe_load(out.split("in a recipe:")[1])
    assert line == {"objectives": {name: f"{name}.yaml"}}
    code, out, _ = run("bank", "check", f"{name}.yaml", *models, "--json")
    assert code == 0 and json.loads(out)["splits"] == dict(zip(SPLITS, (30, 20, 20), strict=True))
    path = command.write(tmp_path, families.recipe(family, **line))
    assert run("plan", path)[0] == 0


def test_a_bank_of_the_zoo_is_checked_and_asked_as_it_is(family, tmp_path, run, monkeypatch):
    monkeypatch.setenv("EVOMERGE_HOME", str(tmp_path))
    banks = tmp_path / "zoo" / f"tiny-{zoo.recipe_hash('tiny')[:12]}" / "banks"
    banks.mkdir(parents=True)
    shutil.copy(family / "one.jsonl", banks / "code.jsonl")
    name = "zoo:tiny/banks/code.jsonl"
    code, out, err = run("bank", "check", name, "--base", family / "base")
    assert code == 0, err
    assert yaml.safe_load(out.split("in a recipe:")[1]) == {"objectives": {"code": name}}
    assert [file.name for file in banks.iterdir()] == ["code.jsonl"], "nothing is written there"
    target = tmp_path / "cached.yaml"
    expert = ("--expert", family / "left", "--tokens", 1, "-o", target)
    code, _, err = run("bank", "cache", name, *expert)
    assert code == 0 and target.is_file(), err
    code, _, err = run("bank", "cache", "zoo:tiny/banks/cod.jsonl", *expert)
    assert code == errors.USAGE and "Did you mean 'banks/code.jsonl'?" in err


@pytest.mark.parametrize(
    ("scorer", "says"),
    [
        (
            "contains",
            "own.yaml: is there, but is another bank than was scored here (its scorer is",
        ),
        ("choice", "own.yaml: is there, but can not be used: own.yaml: own.jsonl:1: has no choi"),
        ("exact_match", None),
    ],
)
def test_a_yaml_that_is_another_bank_is_not_recommended(
    family, tmp_path, run, monkeypatch, scorer, says
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.jsonl").write_text('{"prompt": "x", "answer": "1", "split": "search"}\n')
    keys = {"name": "mine", "version": 2, "scorer": scorer, "source": "own.jsonl"}
    (tmp_path / "own.yaml").write_text(json.dumps(keys))
    for write in ("--write", "--no-write"):
        code, out, _ = run("bank", "check", "own.jsonl", "--base", family / "base", write)
        line = yaml.safe_load(out.split("in a recipe:")[1])
        assert code == 0 and (says is None) == ("is there" not in out) and (says or "") in out
        assert line == {"objectives": {"own": "own.jsonl" if says else "own.yaml"}}


def test_a_bank_without_a_split_is_pointed_out(family, tmp_path, run):
    path = tmp_path / "some.jsonl"
    lines = (family / "one.jsonl").read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if '"search"' in line))
    code, out, _ = run("bank", "check", path, "--base", family / "base", "--no-write")
    assert code == 0 and "validation and test has no item" in " ".join(out.split())


def test_what_a_bank_tells_is_printed_before_a_model_is_opened(family, tmp_path, run):
    """Or built by the zoo, which takes minutes."""
    models = ["--base", tmp_path / "absent"]
    code, out, err = run("bank", "check", family / "one.jsonl", *models)
    assert code == errors.INPUT and "absent: no such folder" in err
    assert "one: 70 items (search 30, validation 20, test 20), scorer choice" in out
    assert "different answers; the most frequent" in out
    code, out, err = run("bank", "check", family / "one.jsonl", *models, "--split", "tets")
    assert code == errors.USAGE and "Did you mean 'test'?" in err
    code, out, _ = run("bank", "check", family / "one.jsonl", *models, "--json")
    assert code == errors.INPUT and not out


def test_what_a_bank_tells_of_itself(family, tmp_path, run):
    """Nearly the same question in two splits and among the examples; a constant answer."""
    asked = [
        {"id": "a", "prompt": "What is the capital of France?", "answer": "Paris"},
        {"id": "b", "prompt": "what is the capital of  France", "answer": "Paris"},
        {"id": "c", "prompt": "And how many legs has a spider?", "answer": "8"},
    ]
    entries = [{**e, "split": split} for e, split in zip(asked, SPLITS, strict=True)]
    shown = [{"prompt": "and how many legs has a spider", "answer": "8"}]
    keys = {"name": "b", "version": 1, "scorer": "contains", "items": entries, "examples": shown}
    path = tmp_path / "b.yaml"
    path.write_text(json.dumps(keys))
    code, out, _ = run("bank", "check", path, "--base", family / "base")
    assert code == 0 and "nearly equal items in two splits: 2 pairs (" in out
    assert "1.00  a (search) and b (validation)" in out
    assert "1.00  c (test) and example 1 (examples)" in out
    assert '2 different answers; the most frequent, "Paris", is right in 67%' in out
    found = json.loads(run("bank", "check", path, "--base", family / "base", "--json")[1])
    assert found["near_duplicates"]["shown"][0]["items"] == ["a", "b"]
    assert found["answers"] == {"different": 2, "most": "Paris", "share": pytest.approx(2 / 3)}
    path.write_text(json.dumps({**keys, "items": entries[:1]}))
    out = run("bank", "check", path, "--base", family / "base")[1]
    assert "b: 1 item (" in out and "1 different answer; the most" in out


def test_a_bank_that_its_scorer_can_not_mark_is_refused(family, tmp_path, refused):
    entry = {"id": "odd", "prompt": "1+1=", "answer": "two"}
    keys = {"name": "b", "version": 1, "scorer": "numeric", "items": [entry]}
    (tmp_path / "b.yaml").write_text(json.dumps(keys))
    says = ["b.yaml: items[0]: item 'odd': answer: expected a number, got 'two'", "scorer numeric"]
    refused("evaluate", family / "base", "-b", tmp_path / "b.yaml", code=errors.INPUT, says=says)


KINDS = ["operators", "strategies", "scorers", "executors", "banks", "recipes"]


def test_listings(run):
    everything = json.loads(run("list", "--json")[1])
    for kind in KINDS:
        code, out, _ = run("list", kind, "--json")
        assert code == 0 and json.loads(out) == [row for row in everything if row["kind"] == kind]
        assert run("list", kind)[0] == 0
    assert {row["name"] for row in everything} >= {"ties", "nsga2", "choice", "ray", "quickstart"}
    families = [row["family"] for row in json.loads(run("zoo", "list", "--json")[1])]
    assert families == ["digits", "smollm2", "tiny"]
    code, _, err = run("list", "operator")
    assert code == errors.USAGE and "Did you mean 'operators'?" in err


def test_what_is_to_be_copied_is_never_cut_off():
    """A table that is too narrow breaks a sha256, a label or a path."""
    table = Table("name", "sha256")
    table.add_row("task arithmetic 0.2", "0123456789abcdef" * 4)
    bare = Table(show_header=False)
    bare.add_row("folder", "/a/long/way/to/a/folder/of/models/that/does/not/fit/here")
    screen = Screen(width=40, file=io.StringIO())
    screen.print(table)
    screen.print(bare)
    shown = re.sub(r"[^a-z0-9/]", "", screen.file.getvalue())
    assert "…" not in screen.file.getvalue() and shown.count("def") == 4


def test_plan_says_what_a_search_would_do(family, tmp_path, run):
    path = command.write(tmp_path, families.recipe(family))
    code, out, _ = run("plan", path, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["genes searched"] == 6 and found["items per candidate"] == 40
    assert all("sha256" in text for text in found["inputs"].values()) and len(found["inputs"]) == 3
    numbers = found["parameters"]
    assert found["memory (bytes)"]["live model"] == 4 * numbers
    assert found["memory (bytes)"]["base and experts"] == 3 * 4 * numbers
    code, out, _ = run("plan", path, "--probe", "--budget", "1h", "--json")
    times = json.loads(out)["time"]
    room = 3600 / times["seconds per candidate"]
    assert code == 0 and 0 < times["candidates before the deadline"] < room
    assert times["items of each bank in the time of a build"] > 0
    code, out, _ = run("plan", path)
    assert code == 0 and "nsga2" in out


@pytest.mark.parametrize(
    ("executor", "workers"),
    [
        ("inline", 1),
        ("ray", 2),
        ({"name": "ray", "workers": 3}, 3),
        ({"name": "ray", "workers": "auto"}, os.cpu_count()),
    ],
)
def test_a_plan_is_for_all_workers(family, tmp_path, run, executor, workers):
    """Those of the executor's own default too."""
    path = command.write(tmp_path, families.recipe(family, executor=executor))
    code, out, _ = run("plan", path, "--json")
    assert code == 0 and json.loads(out)["memory (bytes)"]["workers"] == workers


@pytest.mark.parametrize(
    ("changes", "available", "says"),
    [
        ({"executor": {"name": "ray", "workers": 64}}, 2**26, "use executor.workers: "),
        ({}, 2_000_000, "a machine with "),
        ({"disk_reserve": "900TB"}, 2**30, "lower disk_reserve"),
    ],
)
def test_a_plan_that_does_not_fit_names_a_change(
    family, tmp_path, refused, monkeypatch, changes, available, says
):
    monkeypatch.setattr("evomerge.heap.memory", lambda: {"available": available})
    path = command.write(tmp_path, families.recipe(family, **changes))
    refused("plan", path, code=errors.ENVIRONMENT, says=["does not fit", says])


def test_workers_on_other_machines_need_no_memory_of_this_one(family, tmp_path, run, refused):
    there = {"name": "ray", "workers": 10**7, "address": "10.0.0.1:6379"}
    path = command.write(tmp_path, families.recipe(family, executor=there))
    assert run("plan", path)[0] == 0
    command.write(tmp_path, families.recipe(family, executor={**there, "address": "local"}))
    refused("plan", path, code=errors.ENVIRONMENT, says="use executor.workers: ")


@pytest.mark.parametrize(
    "words",
    ["search", "status", "front", "report", "rebuild", "doctor", "export", "merge", "import",
     "compare", "evaluate", "plan", "list", "bank check",
     "zoo build", "zoo list"],
)  # fmt: skip
def test_each_command_has_help(run, words):
    code, out, _ = run(*words.split(), "--help")
    assert code == 0 and "Usage: evomerge" in out
    code, _, err = run(*words.split(), "--hlep")
    assert code == errors.USAGE and "--hlep" in err


def test_without_arguments_there_is_help(run):
    code, out, err = run()
    assert code == errors.USAGE and "search" in out + err
    assert re.fullmatch(r"evomerge \d+\.\d+\.\d+\n", run("--version")[1])


@pytest.mark.slow
def test_a_closed_pipe_is_no_traceback():
    process = command.start("list", "--json")
    process.stdout.close()
    process.stdout = None
    assert "Traceback" not in process.communicate()[1]


def test_importing_loads_nothing_heavy():
    code = (
        "import sys, evomerge, evomerge.cli; evomerge.EvomergeError; dir(evomerge);"
        "print([m for m in ('torch', 'ray', 'transformers', 'pymoo', 'cma', 'optuna')"
        " if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], env=command.ENVIRONMENT, capture_output=True, text=True
    )
    assert found.stdout == "[]\n"
