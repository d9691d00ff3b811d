"""Searches on 600 questions a bank, collected for fitness.py: 300 can be asked, 300 be the truth.

    python benchmarks/fitness_long.py [FOLDER] [-o FILE]
    python benchmarks/fitness.py FILE --shown 300

The questions of `search` and `validation` of zoo:tiny are those of `search` here, `test` is cut in
two. Two searches of 100 candidates, seed 0: the quickstart as it was (`FORMER` of
fitness_search.py), and Sobol points in one block. An interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import fitness_data
from fitness_search import FORMER, SEARCH

from evomerge import recipe, shelf

FILE = Path(__file__).parent / "data" / "fitness_long.npz"
SKILLS = ("code", "docs", "unicode", "facts")
POPULATIONS: dict[str, dict[str, object]] = {
    "quickstart-long": FORMER,
    "sobol-long": {"space": {"blocks": 1, "genes": {"weight": [0, 1]}}, "strategy": "sobol"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/fitness-long"))
    parser.add_argument("-o", "--output", type=Path, default=FILE)
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    options.folder.mkdir(parents=True, exist_ok=True)
    objectives = {
        skill: {"bank": str(joined(skill, options.folder)), "signal": "probability"}
        for skill in SKILLS
    }
    keys = recipe.read("quickstart")[0].model_dump(mode="json")
    started = []
    for name, changes in POPULATIONS.items():
        asked = {**keys, **changes, "objectives": objectives, "fidelity": "all"}
        path = options.folder / f"{name}.yaml"
        path.write_text(json.dumps(asked))
        arguments = [str(path), str(options.folder / name), "0", "100", "{}"]
        started.append(subprocess.Popen([sys.executable, "-c", SEARCH, *arguments]))
    if any([search.wait() for search in started]):
        sys.exit("a search failed")
    runs = [options.folder / name for name in POPULATIONS]
    fitness_data.collect(runs, options.output, first=55, last=40)


def joined(skill: str, folder: Path) -> Path:
    """The bank of a skill with its items split otherwise."""
    path = folder / f"{skill}.jsonl"
    seen = 0
    with path.open("w") as file:
        for item in shelf.load(f"tiny_{skill}").items:
            split = "search"
            if item.split == "test":
                split, seen = ("validation", "test")[seen % 2], seen + 1
            row = {"prompt": item.prompt, "choices": item.choices, "answer": item.answer}
            file.write(json.dumps({**row, "split": split}) + "\n")
    return path


if __name__ == "__main__":
    main()
