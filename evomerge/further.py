"""A front on banks that its search did not have: scored when someone asks, and kept in the run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from evomerge import api, shelf
from evomerge.files.bank import Bank
from evomerge.files.ledger import Ledger
from evomerge.front import Point
from evomerge.run import Run
from evomerge.schema import require_own_keys
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
    require_own_keys(list(banks), "bank")
    for bank in banks.values():
        bank.split(split)  # one that is not there is said before any model is built
    points = [*run.front.points, *run.baselines.points]
    known = run.evaluated()
    keys = _keys(points, banks, split)
    lacking = {  # a point of the front may be a baseline too
        point.key: (point, [name for name in banks if keys[point.label, name] not in known])
        for point in points
    }
    if any(names for _, names in lacking.values()):
        with closing(Ledger(run.folder, write=True)) as ledger:
            for point, names in lacking.values():
                if asked := [banks[name] for name in names]:
                    told(point.label)
                    found = api.evaluate(run.plan(point.label), asked, split=split)
                    with ledger.together():
                        for name, score in found.items():
                            body = {"key": keys[point.label, name], "bank": name}
                            ledger.append("evaluated", {**body, "scores": score.scores.tolist()})
        known = run.evaluated()
    return {
        point.label: {
            name: api.Score.of(name, np.array(known[keys[point.label, name]])) for name in banks
        }
        for point in points
    }


def _keys(
    points: Sequence[Point], banks: Mapping[str, Bank], split: str
) -> dict[tuple[str, str], str]:
    """What each score depends on, by label and bank."""
    libraries = versions()
    return {
        (point.label, name): json.dumps(
            [point.key, *bank.identity(), split, libraries], sort_keys=True
        )
        for point in points
        for name, bank in banks.items()
    }
