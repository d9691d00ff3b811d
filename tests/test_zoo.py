from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from evomerge import zoo
from evomerge.errors import MachineError, RecipeError
from evomerge.zoo import cache, progress, tiny

ROOT = Path(__file__).parents[1]
DOMAINS = ["code", "docs", "unicode", "facts"]
BANKS = [*DOMAINS, "facts_exact"]

# A family of one small file; its builds are noted, and take as long as the environment says.
FAKE = """
import os, time
from pathlib import Path
RECIPE = {"members": ["base"], "banks": []}
def build(folder, report):
    with open(os.environ["BUILDS"], "a") as log:
        log.write("built\\n")
    (folder / "base").mkdir()
    report("making", 0.5)
    time.sleep(float(os.environ["SECONDS"]))
    (folder / "base" / "made").write_text("whole")
"""
ASK = """
import sys
from evomerge import zoo
zoo.__path__.append(sys.argv[1])
print(zoo.path("zoo:fake"))
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, and the fake family beside it."""
    (tmp_path / "families").mkdir()
    (tmp_path / "families" / "fake.py").write_text(FAKE)
    monkeypatch.setenv("EVOMERGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BUILDS", str(tmp_path / "builds"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def test_a_home_on_a_disk_that_is_not_there(place: Path) -> None:
    (place / "home").symlink_to(place / "unmounted")
    _, said = (asked := ask(place, 0)).communicate()
    assert asked.returncode and "can not build zoo:fake, a link leads nowhere" in said
    assert "EVOMERGE_HOME names another place" in said and not (place / "builds").exists()


def ask(place: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", ASK, str(place / "families")],
        env={**os.environ, "SECONDS": str(seconds)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(true: Any, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


# ---------------------------------------------------------------- names and places


def test_the_folder_is_the_registry() -> None:
    assert zoo.families() == ["digits", "smollm2", "tiny"]
    assert zoo.members("tiny") == [
        *("base", "code", "docs", "unicode", "facts"),
        *(f"banks/{name}.jsonl" for name in BANKS),
    ]


def test_names_come_without_torch() -> None:
    script = """
        import sys
        from evomerge import zoo
        zoo.members(zoo.families()[0]), zoo.recipe_hash("tiny"), zoo.home()
        assert not {"torch", "transformers", "tokenizers", "rich"}.intersection(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("zoo:tyni", "unknown family 'tyni'. Did you mean 'tiny'?"),
        ("zoo:", "unknown family ''"),
        ("zoo:tiny/bse", "unknown member 'bse'. Did you mean 'base'?"),
        ("zoo:tiny/banks/cod.jsonl", "Did you mean 'banks/code.jsonl'?"),
        ("zoo:tiny/../tiny", "unknown member"),
        ("zoo:tiny/base/../code", "unknown member"),
        ("zoo:../zoo/tiny", "unknown family"),
        ("zoo:tiny//etc/passwd", "unknown member"),
        ("tiny/base", "begins with 'zoo:'"),
    ],
)
def test_unknown_names_are_told_before_anything_is_built(
    reference: str, said: str, place: Path
) -> None:
    with pytest.raises(RecipeError) as caught:
        zoo.path(reference)
    assert said in str(caught.value)
    assert not (place / "home").exists()


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("EVOMERGE_HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert zoo.home() == tmp_path / ".cache" / "evomerge"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert zoo.home() == tmp_path / ".cache" / "evomerge"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert zoo.home() == tmp_path / "x" / "evomerge"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert zoo.home() == tmp_path / "Library" / "Caches" / "evomerge"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert zoo.home() == tmp_path / "local" / "evomerge"
    monkeypatch.setenv("EVOMERGE_HOME", "~/here")
    assert zoo.home() == tmp_path / "here"


@pytest.mark.parametrize("family_name", zoo.families())
def test_the_documented_recipe_is_the_code_s(family_name: str) -> None:
    assert f"`{zoo.recipe_hash(family_name)}`" in (ROOT / "docs" / "zoo.md").read_text()


# ---------------------------------------------------------------- building


def test_many_ask_and_one_builds(place: Path) -> None:
    asked = [ask(place, 1.0) for _ in range(3)]
    told = [process.communicate(timeout=60) for process in asked]
    assert [process.returncode for process in asked] == [0, 0, 0]
    (folder,) = {out.strip() for out, _ in told}
    assert (Path(folder) / "base" / "made").read_text() == "whole"
    assert (place / "builds").read_text() == "built\n"
    assert sum("waiting for another process" in error for _, error in told) == 2
    assert all("Traceback" not in error for _, error in told)


def test_a_killed_build_leaves_nothing_and_the_next_cleans_up(place: Path) -> None:
    kept = place / "home" / "zoo"
    process = ask(place, 60.0)
    until(lambda: list(kept.glob(".building-fake-*/base")))
    process.kill()
    process.communicate()
    (rubbish,) = kept.glob(".building-*")
    assert not list(kept.glob("fake-*"))
    next_one = ask(place, 0.0)
    out, error = next_one.communicate(timeout=60)
    assert next_one.returncode == 0, error
    assert not rubbish.exists()
    assert [item.name for item in kept.glob("*") if not item.name.startswith(".")] == [
        Path(out.strip()).name
    ]


def test_a_failed_build_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path, report: object) -> None:
        (folder / "base").mkdir()
        raise RuntimeError("no")

    monkeypatch.setattr(tiny, "build", fail)
    with pytest.raises(RuntimeError, match="no"):
        zoo.build("tiny", report=lambda *_: None)
    assert [item.name for item in (place / "home" / "zoo").iterdir()] == [".tiny.lock"]


def _descendants_at(folder: Path) -> list[str]:
    commands = (file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline"))
    return [found.decode() for found in _readable(commands) if str(folder).encode() in found]


def _readable(commands: Any) -> Any:
    while True:
        try:
            yield next(commands)
        except StopIteration:
            return
        except OSError:
            return


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks at /proc")
@pytest.mark.parametrize("moment", ["texts", "banks", "training"])
def test_a_real_build_killed_at_any_moment(moment: str, place: Path) -> None:
    kept = place / "home" / "zoo"
    process = subprocess.Popen(
        [sys.executable, "-c", "from evomerge import zoo; zoo.build('tiny')"],
        env={**os.environ, "SECONDS": "0"},
        stderr=subprocess.PIPE,
        text=True,
    )
    signs = {"texts": "work/code.txt", "banks": "banks/docs.jsonl"}
    if moment in signs:
        until(lambda: list(kept.glob(f".building-tiny-*/{signs[moment]}")))
    else:
        assert process.stderr
        until(lambda: "training base" in process.stderr.readline())
        assert _descendants_at(kept)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(kept.glob("tiny-*"))
    until(lambda: not _descendants_at(kept))
    (rubbish,) = kept.glob(".building-tiny-*")
    with cache.published(kept / "tiny-next", "tiny", lambda *_: None) as folder:
        assert folder
        assert not rubbish.exists()


def test_a_full_disk_is_told_plainly(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(place)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(MachineError, match="MB free"):
        zoo.build("tiny", report=lambda *_: None)
    with (
        pytest.raises(MachineError, match=r"no space left.*EVOMERGE_HOME"),
        cache.published(place / "zoo" / "x", "x", lambda *_: None),
    ):
        raise OSError(28, "No space left on device", "banks")


def test_a_home_that_is_a_file(place: Path) -> None:
    (place / "home").write_text("")
    with pytest.raises(MachineError, match="can not build zoo:tiny"):
        zoo.build("tiny", report=lambda *_: None)


@pytest.mark.slow
def test_a_failed_training_says_why(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    recipe = {**tiny.RECIPE, "members": ["base"]}
    with pytest.raises(MachineError, match=r"training base failed: .*No such file"):
        tiny.train_absent(tmp_path, lambda *_: None, recipe)


def test_progress(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with progress.shown("x", None) as report:
        for fraction in (0.1, 0.2):
            report("first", fraction)
        report("second", 0.3)
    assert capsys.readouterr().err == "zoo:x: first\nzoo:x: second\n"

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress.shown("x", None) as report:
        report("first", 0.5)
    assert "50%" in terminal.getvalue()

    told: list[tuple[str, float]] = []
    with progress.shown("x", lambda *what: told.append(what)) as report:
        report("first", 0.5)
    assert told == [("first", 0.5)]
