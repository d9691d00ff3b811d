"""A run that is killed again and again ends as one that was left alone."""

import os
import subprocess
import sys

import pytest

import evomerge
from tests import families, ledgers


@pytest.mark.slow
def test_sigkill_at_thirty_random_moments(family, tmp_path):
    """No recorded answer is lost or repeated, and the ledgers end equal."""
    recipe = families.recipe(
        family,
        strategy={"name": "seeded", "inner": {"name": "cma_es"}},
        budget={"candidates": 150},
    )
    done = subprocess.run(
        [sys.executable, "-m", "tests.kill_at_random", str(tmp_path / "killed"),
         str(tmp_path / "whole"), "30"],
        input=repr(recipe), text=True, capture_output=True, timeout=900,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 30
    assert ledgers.content(tmp_path / "killed") == ledgers.content(tmp_path / "whole")
    fronts = [evomerge.Run(tmp_path / name).front.rows() for name in ("killed", "whole")]
    assert fronts[0] == fronts[1]
