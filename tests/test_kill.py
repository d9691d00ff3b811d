"""Runs and saves that are killed again and again end as those that were left alone."""

import os
import subprocess
import sys

import pytest

from tests import families, nightly

SEEDED = {"name": "seeded", "inner": {"name": "cma_es"}}


def killed(place, kills, recipes):
    """Kills in searches, kills in saves, and how many runs it took."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.kill_at_random", str(place), str(kills)],
        input=repr(recipes), text=True, capture_output=True, timeout=kills * 30,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


@pytest.mark.slow
def test_sigkill_at_thirty_random_moments(family, tmp_path):
    """No recorded answer is lost or repeated, ledgers end equal, saves are whole or absent."""
    recipe = families.recipe(family, strategy=SEEDED, budget={"candidates": 80})
    searches, saves, _ = killed(tmp_path, 30, [recipe])
    assert searches + saves == 30 and min(searches, saves) > 0


@pytest.mark.nightly
def test_sigkill_at_thousands_of_random_moments(family, tmp_path, record_property):
    """Of strategies with and without a model of what they have seen, and of racing ones."""
    recipes = [
        families.recipe(family, strategy=strategy, budget={"candidates": 90})
        for strategy in (SEEDED, "cma_es", {"name": "nsga2", "population": 6}, "tpe")
    ]
    kills = nightly.amount("EVOMERGE_KILLS")
    searches, saves, rounds = killed(tmp_path, kills, recipes)
    assert searches + saves == kills and searches > kills / 2
    record_property("kills in searches", searches)
    record_property("kills in saves", saves)
    record_property("runs", rounds)
