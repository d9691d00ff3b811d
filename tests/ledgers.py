"""What two runs must agree on: every column of the ledger but time, host and slot."""

import json
import sqlite3
from pathlib import Path


def content(folder: Path) -> dict[str, object]:
    db = sqlite3.connect(folder / "ledger.sqlite")
    try:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        events = db.execute("SELECT kind, body FROM events ORDER BY number").fetchall()
        answers = "SELECT plan, bank, item, split, score, extra FROM answers ORDER BY 1, 2, 3"
        return {
            "events": [(kind, json.loads(body)) for kind, body in events],
            "answers": db.execute(answers).fetchall(),
            "plans": sorted(db.execute("SELECT key, plan FROM plans").fetchall()),
            "failures": sorted(db.execute("SELECT plan, reason FROM failures").fetchall()),
        }
    finally:
        db.close()
