"""Fuzzing of headers, YAML and paths, in a process that may take 200 MB for all of it."""

import os
import subprocess
import sys
import time

import pytest
import yaml

from evomerge import errors
from evomerge.files import plain
from tests import nightly
from tests.security import hostile_files


def fuzz(folder, examples):
    done = subprocess.run(
        [sys.executable, "-m", "tests.security.hostile_files", str(folder), str(examples)],
        text=True, capture_output=True, timeout=3600,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["headers", "yaml", "paths"]


@pytest.mark.slow
def test_hostile_files_take_no_memory_and_are_refused(tmp_path):
    fuzz(tmp_path, 100)


@pytest.mark.nightly
def test_many_hostile_files(tmp_path, record_property):
    examples = nightly.amount("EVOMERGE_EXAMPLES")
    fuzz(tmp_path, examples)
    record_property("examples of each kind", examples)


@pytest.mark.parametrize("levels, is_read", [(39, True), (40, False), (100, False)])
def test_how_deep_a_yaml_may_be(tmp_path, levels, is_read):
    """The mapping at the top is a level too."""
    path = tmp_path / "x.yaml"
    path.write_text("a:\n\nb: " + "[" * levels + "]" * levels)
    if is_read:
        assert plain.read_yaml(path)["a"] is None
        return
    with pytest.raises(errors.InputError) as caught:
        plain.read_yaml(path)
    assert str(caught.value) == f"{path}: line 3: nested too deeply, at most 40 levels are read"


@pytest.mark.parametrize(
    "text, says",
    [("!!int ''", "'' is no int"), ("!!bool x", "'x' is no bool"), ("!!timestamp x", "'x' is no")],
)
def test_a_value_that_is_not_of_its_tag_is_named(tmp_path, text, says):
    path = tmp_path / "x.yaml"
    path.write_text(f"a: 1\nb: {text}\n")
    with pytest.raises(errors.InputError, match=f"x.yaml: line 2: {says}"):
        plain.read_yaml(path)


def test_a_clock_is_a_text_and_takes_no_time(tmp_path):
    """What the limit is for: to the base 60, the same text keeps YAML 1.1 busy for seconds."""
    path = tmp_path / "x.yaml"
    path.write_text("until: 22:30\nexact: 1:30.5\nplain: 90\nfloat: 1.5\n")
    assert plain.read_yaml(path) == {
        "until": "22:30", "exact": "1:30.5", "plain": 90, "float": 1.5,
    }  # fmt: skip
    long = "a: 1" + ":1" * 20_000
    begun = time.process_time()
    assert yaml.safe_load(long)["a"] > 60**20_000
    theirs = time.process_time() - begun
    path.write_text(long)
    begun = time.process_time()
    assert plain.read_yaml(path)["a"] == long.removeprefix("a: ")
    assert time.process_time() - begun < theirs
    assert any(text.startswith(long) for text in hostile_files.YAMLS)
