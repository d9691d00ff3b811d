"""Run folders of every schema that a ledger has had: opened, shown, extended."""

import json
import shutil
from pathlib import Path

import pytest

import evomerge
from evomerge.files import ledger
from tests import ledgers

GOLDEN = Path(__file__).parent / "golden"
SCHEMAS = range(1, ledger.SCHEMA + 1)


@pytest.fixture(params=SCHEMAS)
def recorded(request, tmp_path):
    """A copy of what tests/golden/record_run.py made when that schema was the present one."""
    source = GOLDEN / f"run_schema_{request.param}"
    assert sum(path.stat().st_size for path in source.rglob("*") if path.is_file()) < 100_000
    return shutil.copytree(source, tmp_path / "golden")


def test_it_shows_its_front(recorded, run):
    rows = json.loads((recorded / "front.json").read_text())
    opened = evomerge.Run(recorded / "run")
    found = {row["point"]: row for row in opened.front.rows()}  # equal ones may change places
    assert found.keys() == {row["point"] for row in rows}
    for row in rows:
        assert found[row["point"]] == pytest.approx(row)
    assert opened.report().is_file()
    code, out, _ = run("front", recorded / "run")
    assert code == 0 and all(f"{row['point']} " in out for row in rows)


def test_it_goes_on(recorded):
    """Its models may lie elsewhere now, and libraries may be newer, which has to be allowed."""
    before = ledgers.content(recorded / "run")
    again = evomerge.search(
        recorded / "recipe.yaml", recorded / "run", budget={"candidates": 12}, allow_change=True
    )
    after = ledgers.content(recorded / "run")
    assert after["events"][: len(before["events"])] == before["events"]
    assert set(before["answers"]) < set(after["answers"])
    assert len(again.asked()) == 12 and again.is_confirmed
    (recorded / "left").rename(recorded / "moved")
    assert evomerge.Run(recorded / "run").front.rows() == again.front.rows()
