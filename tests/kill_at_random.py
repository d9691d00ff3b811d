"""Run a recipe (from standard input) whole in one folder; in another, killed at random moments.

    python -m tests.kill_at_random KILLED WHOLE KILLS

Every session is a forked child that shares the imports; before each kill the answers on disk
are noted, and none of them may be gone or changed afterwards.
"""

import ast
import os
import random
import signal
import sqlite3
import sys
import time
from pathlib import Path

from tests.kill_at_events import start


def answers(folder: Path) -> dict[tuple[str, str, str], float]:
    try:
        db = sqlite3.connect(f"file:{folder}/ledger.sqlite?mode=ro", uri=True)
        try:
            rows = db.execute("SELECT plan, bank, item, score FROM answers").fetchall()
        finally:
            db.close()
    except sqlite3.OperationalError:
        return {}
    return {(plan, bank, item): score for plan, bank, item, score in rows}


def main() -> None:
    recipe = ast.literal_eval(sys.stdin.read())
    killed, whole, wanted = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    begun = time.monotonic()
    assert os.waitpid(start(recipe, whole), 0)[1] == 0
    usual = time.monotonic() - begun
    draw = random.Random(0)
    kills = 0
    known: dict[tuple[str, str, str], float] = {}
    while kills < wanted:
        child = start(recipe, killed)
        # Short enough that a run is hit many times, long enough to get past loading.
        deadline = time.monotonic() + draw.uniform(0, 0.4) * usual
        while time.monotonic() < deadline and os.waitpid(child, os.WNOHANG)[0] == 0:
            known |= answers(killed)
            time.sleep(0.01)
        try:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):
            break  # it was complete
        kills += 1
        now = answers(killed)
        assert all(now.get(key) == score for key, score in known.items()), "an answer is lost"
    assert os.waitpid(start(recipe, killed), 0)[1] == 0
    print(kills)


if __name__ == "__main__":
    main()
