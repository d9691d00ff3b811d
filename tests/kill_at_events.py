"""Run a recipe (from standard input) whole in one folder; in another, killed at every event.

Forked children share the imports; each is killed with SIGKILL as soon as it has written the
next event.
"""

import ast
import importlib
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from evomerge import api

LIBRARIES = ("evomerge", "transformers", "tokenizers", "pymoo", "cma", "optuna", "scipy")


def events(folder: Path) -> int:
    try:
        db = sqlite3.connect(f"file:{folder}/ledger.sqlite?mode=ro", uri=True)
        try:
            return int(db.execute("SELECT count(*) FROM events").fetchone()[0])
        finally:
            db.close()
    except sqlite3.OperationalError:
        return 0


def start(recipe: dict[str, object], folder: Path) -> int:
    return forked(lambda: api.search(recipe, folder))


def forked(action: Callable[[], object]) -> int:
    """The process id of a child that does `action` and nothing else."""
    child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    return child


def load_what(action: Callable[[], object], listed: Path) -> None:
    """Let a child do `action`, and import what it imported as it went (written to `listed`): a
    later child then begins with its work, and kills hit that, not the imports."""

    def told() -> None:
        action()
        listed.write_text("\n".join(sys.modules))

    assert os.waitpid(forked(told), 0)[1] == 0
    for name in listed.read_text().split():
        if name.partition(".")[0] in LIBRARIES:
            with suppress(ImportError):  # names that a library only pretends to have
                importlib.import_module(name)


def main() -> None:
    recipe = ast.literal_eval(sys.stdin.read())
    killed, whole = Path(sys.argv[1]), Path(sys.argv[2])
    load_what(lambda: api.search(recipe, whole), whole.with_name("modules"))
    kills = 0
    while True:
        seen = events(killed)
        child = start(recipe, killed)
        while (done := os.waitpid(child, os.WNOHANG))[0] == 0:
            if events(killed) > seen:
                os.kill(child, signal.SIGKILL)
                done = os.waitpid(child, 0)
                break
            time.sleep(0.01)
        if os.WIFEXITED(done[1]):
            assert os.WEXITSTATUS(done[1]) == 0, "a session failed"
            break
        kills += 1
    assert kills >= 5, kills


if __name__ == "__main__":
    main()
