"""A front on banks that its search did not have: scored when someone asks, and kept in the run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from evomerge import api, shelf
from evomerge.files.bank import Bank
from evomerge.files.ledger import Ledger
from evomerge.front import Point
from evomerge.run import Run
from evomerge.session import versions


def scores(
    run: Run,
    references: Sequence[str | Path],
    *,
    split: str = "test",
    told: Callable[[str], None] = lambda label: None,
) -> dict[str, dict[str, api.Score]]:
    """Scores of each point of the front and each baseline, by label and name of the bank.

    What has been scored before, by the same libraries, is not scored again; `told` hears the label
    of what is. One process writes into a run: MachineError where another one does.
    """
    banks = api.by_name([shelf.load(reference) for reference in references])
    points = [*run.front.points, *run.baselines.points]
    known = run.evaluated()
    lacking = {
        point.label: [bank for bank in banks.values() if _key(point, bank, split) not in known]
        for point in points
    }
    if any(lacking.values()):
        with closing(Ledger(run.folder, write=True)) as ledger:
            for point in points:
                if asked := lacking[point.label]:
                    told(point.label)
                    found = api.evaluate(run.plan(point.label), asked, split=split)
                    with ledger.together():
                        _keep(ledger, point, asked, split, found.values())
        known = run.evaluated()
    return {
        point.label: {
            name: api.Score.of(name, np.array(known[_key(point, bank, split)]))
            for name, bank in banks.items()
        }
        for point in points
    }


def _keep(
    ledger: Ledger, point: Point, banks: Iterable[Bank], split: str, found: Iterable[api.Score]
) -> None:
    for bank, score in zip(banks, found, strict=True):
        key = _key(point, bank, split)
        ledger.append(
            "evaluated", {"key": key, "bank": bank.name, "scores": score.scores.tolist()}
        )


def _key(point: Point, bank: Bank, split: str) -> str:
    """What a score depends on."""
    return json.dumps([point.key, *bank.identity(), split, versions()], sort_keys=True)
