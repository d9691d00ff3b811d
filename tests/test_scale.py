"""What makes large searches cheap changes nothing of what they find."""

import json
import sqlite3
import zlib

import pytest

import evomerge
from evomerge.files.ledger import Answer, Ledger
from tests import families, ledgers

ANSWERS = [Answer("one", name, "search", 0.5, {}) for name in "ab"]


@pytest.mark.slow
def test_answers_that_are_read_again_from_the_ledger(family, tmp_path, monkeypatch):
    """A search that keeps hardly any in memory, whose racing candidates are asked more later."""
    inner = {"name": "nsga2", "population": 6}
    strategy = {"name": "racing", "inner": inner, "rungs": [10, 20]}
    recipe = families.recipe(family, strategy=strategy, batch=10)
    evomerge.search(recipe, tmp_path / "all")
    monkeypatch.setattr("evomerge.answers.KEPT", 25)
    evomerge.search(recipe, tmp_path / "few")
    assert ledgers.content(tmp_path / "few") == ledgers.content(tmp_path / "all")


def test_results_together_are_all_there_or_none(tmp_path):
    ledger = Ledger(tmp_path, write=True)
    with pytest.raises(KeyError), ledger.together():
        ledger.record("first", ANSWERS, "", 0)
        ledger.record_failure("second", "why", "", 0)
        raise KeyError
    assert not list(ledger.answers()) and not ledger.failures()
    with ledger.together():
        ledger.record("first", ANSWERS, "", 0)
        ledger.record_failure("second", "why", "", 0)
        seen = Ledger(tmp_path)  # as whoever reads sees it before the end
        assert not list(seen.answers())
    assert list(seen.answers_of("first")) == ANSWERS and seen.failures() == {"second": "why"}
    assert seen.searched() == 2


@pytest.mark.slow
def test_a_ledger_with_plans_as_text_goes_on(family, tmp_path):
    """Schema 1, as it was written before plans were compressed."""
    recipe = families.recipe(family)
    evomerge.search(recipe, tmp_path / "old", budget={"candidates": 9})
    with sqlite3.connect(tmp_path / "old" / "ledger.sqlite") as db:
        rows = db.execute("SELECT key, plan FROM plans").fetchall()
        texts = [(zlib.decompress(plan).decode(), key) for key, plan in rows]
        db.executemany("UPDATE plans SET plan=? WHERE key=?", texts)
        db.execute("UPDATE meta SET value='1' WHERE key='schema'")
    db.close()
    run = evomerge.search(recipe, tmp_path / "old")
    assert len(run.asked()) == 18 and run._ledger.meta("schema") == 2
    for text, key in texts:
        assert run._ledger.plan(key) == json.loads(text)
    assert run.plan("c0").key == run.asked()["c0"]
