"""A whole search and all that can be made of it, in a process in which unpickling is an error.

python -m tests.security.unpickled FAMILY RUN
"""

import io
import pickle
import sys
from pathlib import Path

import torch

import evomerge
from evomerge import cli
from tests import families


class Unpickled(BaseException):
    """No `except Exception` hides it."""


def refuse(*arguments, **options):
    raise Unpickled(f"unpickled: {arguments}")


def audit(event: str, arguments: tuple[object, ...]) -> None:
    if event == "pickle.find_class":
        refuse(*arguments)


def raises(call, *arguments) -> bool:
    try:
        call(*arguments)
    except Unpickled:
        return True
    return False


def forbid() -> None:
    """Each way in is an error from here on, also for what has imported it already."""
    saved = io.BytesIO()
    torch.save({"w": torch.ones(1)}, saved)
    by_name = pickle.dumps(Path)
    original = pickle.loads
    sys.addaudithook(audit)
    assert raises(original, by_name)
    for module in (pickle, sys.modules["_pickle"]):
        for name in ("load", "loads", "Unpickler", "_Unpickler"):
            if hasattr(module, name):
                setattr(module, name, refuse)
    torch.load = refuse
    assert raises(pickle.loads, by_name) and raises(torch.load, saved)


def command(*words: object) -> None:
    sys.argv = ["evomerge", *map(str, words)]
    try:
        cli.main()
    except SystemExit as leaving:
        assert not leaving.code, (words, leaving.code)


def main() -> None:
    family, folder = Path(sys.argv[1]), Path(sys.argv[2])
    forbid()
    recipe = families.recipe(family, strategy="cma_es")
    evomerge.search(recipe, folder)
    run = evomerge.search({**recipe, "budget": {"candidates": 24}}, folder)
    run.report()
    run.save("best", folder / "best")
    run.save("best", folder / "adapter", adapter=2)
    command("export", folder, "best", "--mergekit", folder / "merge.yaml")
    command("import", folder / "merge.yaml", "-o", folder / "plan.json")
    command("front", folder, "--prefer", "one=1")
    command("evaluate", folder / "best", "-b", family / "one.jsonl")
    command("evaluate", folder, "--front", "-b", family / "two.jsonl", "--split", "search")
    command("compare", *(family / name for name in ("base", "left", "right")))
    command("calibrate", folder)
    command("status", folder)
    command("rebuild", folder, "best")


if __name__ == "__main__":
    main()
