"""A cluster of several nodes on one machine, whose workers and nodes come and go in a search."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import evomerge
from evomerge import errors, staging
from tests import command, families, ledgers

OBJECTIVE = """
import os, time
from pathlib import Path

def here(model, tokenizer):
    Path({folder!r}, str(os.getpid())).touch()
    time.sleep(0.3)
    return float(abs(next(model.parameters()).mean()))
"""


class Weather:
    """What happens to the cluster, one thing after another, each when the last has had effect."""

    def __init__(self, cluster, lost, pids):
        self.cluster, self.lost, self.pids = cluster, lost, pids
        self.happened, self.slots, self.notes, self.since = [], [], [], 0

    def __call__(self, event, facts):
        if event == "note":
            self.notes.append(facts["text"])
        if event == "answered":
            self.slots.append(facts["result"].slot)
            self.since += 1
            self._next()

    def _next(self):
        n = len(self.happened)
        if n == 0 and len(self.slots) >= 8:
            self._happens("joined", lambda: self.cluster.add_node(num_cpus=1))
        elif n == 1 and 2 in self.slots:
            self._happens("killed", self._kill)
        elif n == 1:
            time.sleep(1)  # else the others have done everything before a new worker has started
        elif n == 2 and self.since >= 4:
            self._happens("lost", lambda: self.cluster.remove_node(self.lost))

    def _happens(self, what, action):
        action()
        self.happened.append(what)
        self.since = 0

    def _kill(self):
        newest = max(self.pids.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.kill(int(newest.name), signal.SIGKILL)


@pytest.fixture
def pids(tmp_path, monkeypatch):
    """A folder with the process ids of workers, from an objective that every node can import."""
    folder = tmp_path / "pids"
    folder.mkdir()
    (tmp_path / "where.py").write_text(OBJECTIVE.format(folder=str(folder)))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return folder


@pytest.fixture
def cluster(pids):
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    started = cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    yield started
    started.shutdown()


@pytest.mark.nightly
def test_workers_and_nodes_come_and_go(family, tmp_path, cluster, pids):
    """The run ends with all candidates, and its ledger is that of a run in one process."""
    lost = cluster.add_node(num_cpus=1)
    inputs = families.recipe(family)["objectives"]
    recipe = families.recipe(
        family, objectives={**inputs, "here": {"function": "where:here"}}, strategy="sobol",
        budget={"candidates": 60}, deterministic=True, ask=6,
    )  # fmt: skip
    joined = {"name": "ray", "workers": "auto", "address": cluster.address}
    weather = Weather(cluster, lost, pids)
    begun = time.monotonic()
    evomerge.search({**recipe, "executor": joined}, tmp_path / "cluster", report=weather)
    print(f"{time.monotonic() - begun:.0f} s; {weather.notes}")
    assert weather.happened == ["joined", "killed", "lost"]
    evomerge.search(recipe, tmp_path / "inline")
    assert ledgers.content(tmp_path / "cluster") == ledgers.content(tmp_path / "inline")


BLIND = """
mount -t tmpfs none "$HIDDEN" && exec "$PYTHON" -c "
import signal, sys
from ray._private import node, parameter
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
asked = parameter.RayParams(
    gcs_address=sys.argv[1], redis_address=sys.argv[1], num_cpus=1, num_gpus=0,
    object_store_memory=2**27, min_worker_port=0, max_worker_port=0, node_manager_port=0,
    include_log_monitor=False,
)
asked.dashboard_agent_listen_port = None
started = node.Node(asked, head=False, shutdown_at_exit=False, spawn_reaper=True)
signal.sigwait([signal.SIGTERM])
started.kill_all_processes(check_alive=False, allow_graceful=False)
" "$ADDRESS"
"""
"""What `Cluster.add_node` does; `ray start` joins no cluster on the loopback interface."""


@pytest.fixture
def blind_node(cluster, family, tmp_path):
    """A node on which the folder of the models is empty; gives the cache folder that it has."""
    can = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "none", str(family)], capture_output=True
    )
    if can.returncode:
        pytest.skip("may not mount")
    far = tmp_path / "far"
    names = {"HIDDEN": str(family), "PYTHON": sys.executable, "ADDRESS": cluster.address}
    started = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", BLIND], start_new_session=True,
        env={**os.environ, **names, "EVOMERGE_HOME": str(far)},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    yield far
    os.killpg(started.pid, signal.SIGTERM)
    started.wait(timeout=60)


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs a mount of its own")
@pytest.mark.slow
def test_a_node_that_does_not_see_the_models_gets_a_copy(family, tmp_path, cluster, blind_node):
    """And its answers are those of a run in one process."""
    inputs = families.recipe(family)["objectives"]
    recipe = families.recipe(
        family, objectives={**inputs, "here": {"function": "where:here"}}, strategy="sobol",
        budget={"candidates": 60}, deterministic=True, ask=6,
    )  # fmt: skip
    inline = evomerge.search(recipe, tmp_path / "inline")
    slots = set()

    def told(event, facts):
        slots.update([facts["result"].slot] if event == "answered" else [])

    executor = {"name": "ray", "workers": "auto", "address": cluster.address}
    evomerge.search({**recipe, "executor": executor}, tmp_path / "cluster", report=told)
    assert slots == {0, 1}
    assert ledgers.content(tmp_path / "cluster") == ledgers.content(tmp_path / "inline")
    plan = inline.plan("best")
    wanted = {one.sha256: Path(one.path) for one in (plan.base, *plan.experts)}
    assert {path.name for path in (blind_node / "inputs").glob("[!.]*")} == set(wanted)
    for sha256, folder in wanted.items():
        assert staging.files(str(blind_node / "inputs" / sha256)) == staging.files(str(folder))


@pytest.mark.nightly
def test_a_result_that_is_lost_with_its_node_is_asked_for_again(family, tmp_path, monkeypatch):
    """Its node has gone after the worker had answered, and before the answers were fetched."""
    ray = pytest.importorskip("ray")
    get, calls, notes = ray.get, [], []

    def lossy(refs, **options):
        calls.append(refs)
        if len(calls) == 6:
            raise ray.exceptions.OwnerDiedError(refs.hex(), b"", "")
        return get(refs, **options)

    monkeypatch.setattr(ray, "get", lossy)
    recipe = families.recipe(family, budget={"candidates": 6}, deterministic=True)
    evomerge.search(
        {**recipe, "executor": {"name": "ray", "workers": 1}}, tmp_path / "lossy",
        report=lambda event, facts: notes.append(facts["text"]) if event == "note" else None,
    )  # fmt: skip
    assert sum("the node of its worker was lost; tried again" in text for text in notes) == 1
    evomerge.search(recipe, tmp_path / "inline")
    assert ledgers.content(tmp_path / "lossy") == ledgers.content(tmp_path / "inline")


@pytest.mark.skipif(shutil.which("pkill") is None, reason="needs pkill")
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("raylet", marks=pytest.mark.slow),
        pytest.param("gcs_server", marks=pytest.mark.nightly),
    ],
)
def test_a_process_of_ray_s_that_is_killed_is_named_and_the_same_command_goes_on(
    family, tmp_path, pids, kind
):
    pytest.importorskip("ray")
    recipe = families.recipe(
        family, objectives={"here": {"function": "where:here"}}, strategy="sobol",
        budget={"candidates": 20}, deterministic=True, ask=4,
    )  # fmt: skip
    file = command.write(tmp_path, {**recipe, "executor": {"name": "ray", "workers": 2}})
    again = "search", file, "-o", tmp_path / "killed"
    process = command.start(*again, cwd=tmp_path)
    while process.poll() is None and len(list(pids.iterdir())) < 2:
        time.sleep(0.02)
    subprocess.run(["pkill", "-KILL", "-x", kind, "-P", str(process.pid)], check=True)
    code, _, err = command.finish(process)
    assert code == errors.ENVIRONMENT and f"'{kind}', a process of Ray's own, has ended" in err
    code, _, err = command.finish(command.start(*again, cwd=tmp_path))
    assert code == 0, err
    evomerge.search(recipe, tmp_path / "inline")
    assert ledgers.content(tmp_path / "killed") == ledgers.content(tmp_path / "inline")


@pytest.mark.slow
def test_a_closed_terminal_that_ends_ray_s_processes_too_is_an_interruption(
    family, tmp_path, pids
):
    pytest.importorskip("ray")
    recipe = families.recipe(
        family, objectives={"here": {"function": "where:here"}}, strategy="sobol",
        budget={"candidates": 200}, executor={"name": "ray", "workers": 1},
    )  # fmt: skip
    process = command.start(
        "search", command.write(tmp_path, recipe), "-o", tmp_path / "run",
        cwd=tmp_path, start_new_session=True,
    )  # fmt: skip
    while process.poll() is None and not list(pids.iterdir()):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGHUP)
    code, _, err = command.finish(process)
    assert code == errors.INTERRUPTED and "run the same command again to go on" in err


CONNECT = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"


class Stranger:
    """Tries to get into the cluster of a search, with another environment each time."""

    def __init__(self):
        self.token, self.session, self.errors = "", Path(), {}

    def __call__(self, event, facts):
        if event != "answered" or self.errors:
            return
        ray = pytest.importorskip("ray")
        address = ray.get_runtime_context().gcs_address
        self.token = os.environ["RAY_AUTH_TOKEN"]
        self.session = Path(ray._private.worker.global_worker.node.get_session_dir_path())
        clean = {name: text for name, text in os.environ.items() if "RAY_AUTH" not in name}
        for name, own in {
            "nothing": {},
            "another": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
            "the token": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token},
        }.items():
            tried = subprocess.run(
                [sys.executable, "-c", CONNECT, address],
                env={**clean, **own}, capture_output=True, text=True, timeout=60,
            )  # fmt: skip
            self.errors[name] = tried.stderr.strip().split("\n")[-1]


@pytest.mark.slow
def test_who_has_no_token_does_not_get_in(family, tmp_path, monkeypatch):
    """And the token is in no file: not of the run, of Ray's session, nor of the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    stranger = Stranger()
    executor = {"name": "ray", "workers": 1}
    recipe = families.recipe(family, executor=executor, budget={"candidates": 6})
    evomerge.search(recipe, tmp_path / "run", report=stranger)
    assert "AuthenticationError" in stranger.errors["nothing"]
    assert "AuthenticationError" in stranger.errors["another"]
    assert stranger.errors["the token"] == ""
    files = [path for folder in (tmp_path, stranger.session) for path in folder.rglob("*")]
    read = [path.read_bytes() for path in files if path.is_file()]
    assert len(read) > 10 and len(stranger.token) == 64
    assert not any(stranger.token.encode() in data for data in read)
    assert "RAY_AUTH_MODE" not in os.environ and "RAY_AUTH_TOKEN" not in os.environ


HUNGRY = """
import time
from pathlib import Path

def here(model, tokenizer):
    calls = Path({folder!r})
    (calls / str(time.time_ns())).touch()
    if len(list(calls.iterdir())) == 6:
        held = []
        for _ in range({steps}):
            held.append(b"x" * 2**26)
            time.sleep(0.02)
        time.sleep(5)
    return float(abs(next(model.parameters()).mean()))
"""


@pytest.mark.nightly
def test_who_is_ended_for_lack_of_memory_is_tried_again(family, tmp_path, monkeypatch):
    """The candidate at work when the machine ran low has its scores in the end, like in a run
    where nothing was lacking."""
    system = pytest.importorskip("ray._private.utils")
    total, used = system.get_system_memory(), system.get_used_memory()
    calls = tmp_path / "calls"
    calls.mkdir()
    (tmp_path / "hungry.py").write_text(
        HUNGRY.format(folder=str(calls), steps=total // 5 // 2**26)
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{used / total + 0.1:.3f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    recipe = families.recipe(
        family, objectives={"hungry": {"function": "hungry:here"}}, strategy="sobol",
        budget={"candidates": 6}, deterministic=True, ask=3,
    )  # fmt: skip
    notes = []
    executor = {"name": "ray", "workers": 1}
    evomerge.search(
        {**recipe, "executor": executor}, tmp_path / "ended",
        report=lambda event, facts: notes.append(facts["text"]) if event == "note" else None,
    )  # fmt: skip
    assert sum("ran low on memory; tried again in a fresh worker" in text for text in notes) == 1
    assert not evomerge.Run(tmp_path / "ended").failures()
    evomerge.search(recipe, tmp_path / "spared")
    assert ledgers.content(tmp_path / "ended") == ledgers.content(tmp_path / "spared")
