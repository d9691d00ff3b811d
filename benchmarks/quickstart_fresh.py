"""The points that the quickstart's seeds have chosen, on questions that nobody has been asked.

    python benchmarks/quickstart_fresh.py [FOLDER] [--seeds 5] [--most 4000]

FOLDER holds finished runs, seed-N, as quickstart_seeds.py leaves them. The texts that zoo:tiny
holds out give more passages than its banks have; those left over make a further bank for each of
the four skills, of at most MOST questions each. Nothing is chosen by them: the point that each run
claims, and its baselines, answer all of them, and are compared as in a run: on these alone, and on
these and those of the `test` splits together. Answers are kept in FOLDER/fresh.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from evomerge import Run, api, shelf
from evomerge.confirm import textbook
from evomerge.files.bank import Bank
from evomerge.front import Point, Tested
from evomerge.plan import Plan
from evomerge.recipe import resolve
from evomerge.zoo import banks, texts

SKILLS = ("code", "docs", "unicode", "facts")
TEXTBOOK = {"uniform mean": "linear", "TIES": "ties"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--most", type=int, default=4000)
    options = parser.parse_args()
    kept = options.folder / "fresh"
    kept.mkdir(exist_ok=True)
    asked = [fresh(skill, kept, options.most) for skill in SKILLS]
    sizes = ", ".join(f"{bank.name} {len(bank.items):,}" for bank in asked)
    print(f"questions: {sizes}\n")
    head = "| seed | mean | nearest baseline | difference (95 %) | lowest of all | beats all |"
    found = [rows(seed, Run(options.folder / f"seed-{seed}"), asked, kept)
             for seed in range(options.seeds)]  # fmt: skip
    for title, table in zip(
        ("further questions", "with `test`"), zip(*found, strict=True), strict=True
    ):
        print("", title, "", head, "|---" * 6 + "|", *table, sep="\n", flush=True)


def rows(seed: int, run: Run, asked: list[Bank], kept: Path) -> tuple[str, str]:
    problem, found = resolve(run.recipe), [run.chosen, *run.baselines]
    plans = {p.label: run.plan(p.label) for p in found}
    # Made anew: operators may have got other last bits since the run was made.
    plans |= {label: textbook(problem, operator) for label, operator in TEXTBOOK.items()}
    further = {label: scores(plan, asked, kept) for label, plan in plans.items()}
    alone = [Point(p.label, p.key, {"test": further[p.label]}) for p in found]
    both = [
        replace(p, scores={"test": [*map(np.append, p.scores["test"], further[p.label])]})
        for p in found
    ]
    return line(seed, run, alone), line(seed, run, both)


def line(seed: int, run: Run, points: list[Point]) -> str:
    against = Tested(points).against(points[0].label, points[1:], run.kind)
    near = min(against, key=lambda c: float(c["difference"]))
    least = min(float(c["low"]) for c in against)
    return (
        f"| {seed} | {points[0].mean('test'):.4f} | {near['baseline']} "
        f"| {near['difference']:+.4f} ({near['low']:+.4f} to {near['high']:+.4f}) "
        f"| {least:+.4f} | {'yes' if least > 0 else 'no'} |"
    )


def scores(plan: Plan, asked: list[Bank], kept: Path) -> list[Any]:
    """What a plan scored on every question, by bank; no operator here draws anything, so that
    plans of all seeds are one."""
    plan = Plan.parse({**plan.model_dump(), "seed": 0}, "plan")
    names = hashlib.sha256("".join([plan.key, *(bank.sha256 for bank in asked)]).encode())
    file = kept / f"{names.hexdigest()[:24]}.json"
    if not file.exists():
        found = api.evaluate(plan, asked)
        file.write_text(json.dumps([found[bank.name].scores.tolist() for bank in asked]))
    return [np.array(column) for column in json.loads(file.read_text())]


def fresh(skill: str, folder: Path, most: int) -> Bank:
    """The bank of a skill with other questions, whose wrong choices are theirs alone."""
    known = shelf.load(f"tiny_{skill}")

    def items() -> Iterator[dict[str, object]]:
        chosen = unseen(skill, {item.prompt for item in known.items})[:most]
        return (banks.choice_item(passage, chosen, "test") for passage in chosen)

    return kept_bank(folder / f"{skill}-{most}.jsonl", known.name, items)


def kept_bank(file: Path, name: str, items: Callable[[], Iterable[dict[str, object]]]) -> Bank:
    """The bank in a file, which is written where it is not there yet."""
    if not file.exists():
        file.write_text("".join(json.dumps(item) + "\n" for item in items()))
    return replace(shelf.load(file), name=name)


def unseen(skill: str, known: set[str]) -> list[banks.Passage]:
    """Passages that are neither in the bank nor trained on, each once."""
    sides = texts.split(skill)
    trained = "".join(sides.train).encode()
    found = {p.prompt: p for p in banks.passages(skill, sides) if p.prompt not in known}
    return [p for p in found.values() if (p.prompt + p.continuation).encode() not in trained]


if __name__ == "__main__":
    main()
