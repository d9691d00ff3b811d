"""A search whose candidates fail in every way ends, and finds the best of those that do not."""

import os
import subprocess
import sys

import pytest
from transformers import AutoModelForCausalLM

import evomerge
from tests import awful, families

SEARCH = """
import ast, sys, evomerge
from evomerge import budget, desk
desk.PATIENCE, budget.WINDOW = 5.0, 100
evomerge.search(ast.literal_eval(sys.stdin.read()), sys.argv[1],
                report=lambda event, facts: print(event, facts.get("text", ""), file=sys.stderr))
"""

REASONS = (
    "RuntimeError: this model displeases", "got None", "got nan", "got 'good'", "SystemExit: 0",
    "its worker died (a crash", "slow: no answer within 5 s", "can't allocate memory",
)  # fmt: skip


@pytest.mark.nightly
def test_no_candidate_stops_a_search(family, tmp_path):
    """Seven of ten of them raise, return what is no number, exit, crash, hang, or take all
    memory, on two Ray workers."""
    spared = []
    for name in ("base", "left", "right"):
        model = AutoModelForCausalLM.from_pretrained(family / name)
        spared.append(f"{awful.total(model):.9f}")
    recipe = families.recipe(
        family, strategy="sobol", budget={"candidates": 24}, shortlist=3,
        objectives={"awful": {"function": "tests.awful:score"}},
        executor={"name": "ray", "workers": 2},
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", SEARCH, str(tmp_path / "run")], input=repr(recipe), text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "AWFUL_SPARES": str(spared)},
        capture_output=True, timeout=550,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = evomerge.Run(tmp_path / "run")
    reasons = list(run.failures().values())
    assert len(run.asked()) == 24
    for reason in REASONS:
        assert any(reason in found for found in reasons), (reason, reasons)
    assert run.chosen.means("test") == [awful.BEST]
