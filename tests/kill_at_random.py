"""Run recipes (a list, from standard input) killed at random moments, until there were KILLS.

    python -m tests.kill_at_random FOLDER KILLS

Every session is a forked child that shares the imports. A recipe is searched whole once; then,
in a folder of its own, killed again and again until it is complete: the answers on disk are noted
before each kill, and none of them may be gone or changed afterwards, nor the ledger be damaged.
The complete run has to equal the whole one. Then its best point is saved, killed likewise: the
folder is absent, or it is the one that was saved undisturbed.
"""

import ast
import os
import random
import shutil
import signal
import sqlite3
import sys
import time
from hashlib import sha256
from pathlib import Path

import evomerge
from tests import ledgers
from tests.kill_at_events import forked, load_what, start

SAVES = 4
"""One of so many kills hits a save."""


class Killer:
    """Kills children at random moments of the time that they usually take."""

    def __init__(self, wanted: int) -> None:
        self.draw = random.Random(0)
        self.wanted, self.kills = wanted, {"search": 0, "save": 0}

    def left(self) -> int:
        return self.wanted - sum(self.kills.values())

    def kill(self, kind: str, child: int, latest: float, meanwhile) -> bool:
        """False if the child ended by itself, which has to be well."""
        deadline = time.monotonic() + self.draw.uniform(0, latest)
        while time.monotonic() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                assert status == 0, f"a {kind} failed"
                return False
            meanwhile()
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status):
            assert status == 0, f"a {kind} failed"
            return False
        self.kills[kind] += 1
        return True


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


def whole(child: int) -> float:
    """Seconds that a child takes which is left alone."""
    begun = time.monotonic()
    assert os.waitpid(child, 0)[1] == 0
    return time.monotonic() - begun


def searched(killer: Killer, recipe: dict[str, object], folder: Path, usual: float) -> int:
    """A search, killed until it is complete or enough kills are left for saves; then completed.
    Returns the kills."""
    known: dict[tuple[str, str, str], float] = {}
    before, enough = killer.kills["search"], killer.left() // SAVES
    while killer.left() > enough:
        # short enough that a run is hit many times, long enough to get past loading
        child = start(recipe, folder)
        if not killer.kill("search", child, 0.4 * usual, lambda: known.update(answers(folder))):
            break
        now = answers(folder)
        assert all(now.get(key) == score for key, score in known.items()), "an answer is lost"
    whole(start(recipe, folder))
    return killer.kills["search"] - before


def search_and_save(recipe: dict[str, object], folder: Path) -> None:
    evomerge.search(recipe, folder).save("best", folder / "saved", shard_size="20KB")


def digests(folder: Path) -> dict[str, str]:
    """By file, but for the card, in which the folder's name stands."""
    return {
        path.name: sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name != "README.md"
    }


def saved(killer: Killer, folder: Path, kills: int) -> None:
    def save(target: Path) -> None:
        evomerge.Run(folder).save("best", target, shard_size="20KB")

    target = folder / "saves" / "best"
    usual = whole(forked(lambda: save(folder / "saved")))
    expected = digests(folder / "saved")
    assert expected
    for _ in range(kills):
        killer.kill("save", forked(lambda: save(target)), 1.1 * usual, lambda: None)
        if target.exists():
            assert digests(target) == expected
            shutil.rmtree(target)
    whole(forked(lambda: save(target)))
    assert digests(target) == expected
    assert [path.name for path in target.parent.iterdir()] == ["best"], "something is left over"


def main() -> None:
    recipes, place = ast.literal_eval(sys.stdin.read()), Path(sys.argv[1])
    killer = Killer(int(sys.argv[2]))
    load_what(lambda: search_and_save(recipes[0], place / "first"), place / "modules")
    usual = {}
    for i, recipe in enumerate(recipes):
        usual[i] = whole(start(recipe, place / f"whole-{i}"))
    rounds = 0
    while killer.left() > 0:
        i, folder = rounds % len(recipes), place / f"killed-{rounds}"
        kills = searched(killer, recipes[i], folder, usual[i])
        assert ledgers.content(folder) == ledgers.content(place / f"whole-{i}")
        fronts = [evomerge.Run(p).front.rows() for p in (folder, place / f"whole-{i}")]
        assert fronts[0] == fronts[1]
        saved(killer, folder, min(killer.left(), max(1, kills // (SAVES - 1))))
        shutil.rmtree(folder)
        rounds += 1
    print(killer.kills["search"], killer.kills["save"], rounds)


if __name__ == "__main__":
    main()
