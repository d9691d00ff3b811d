"""A front on banks that its search did not have: scored when someone asks, and kept in the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np

from evomerge import api, errors, shelf
from evomerge.files.bank import Bank
from evomerge.files.ledger import Ledger
from evomerge.front import Point
from evomerge.plan import Plan
from evomerge.recorded import dependence
from evomerge.run import Run
from evomerge.schema import require_own_keys
from evomerge.session import versions


def scores(
    run: Run,
    references: Sequence[str | Path],
    *,
    split: str = "test",
    told: Callable[[str], None] = lambda label: None,
    failed: Callable[[str, str], None] = lambda label, reason: None,
) -> dict[str, dict[str, api.Score]]:
    """Scores of each point of the front and each baseline, by label and name of the bank.

    What has been scored before, by the same libraries, is not scored again; `told` hears the label
    of what is, `failed` also why it has none. One process writes into a run: MachineError where
    another one does.
    """
    banks = api.by_name([shelf.load(reference) for reference in references])
    require_own_keys(list(banks), "bank")
    for bank in banks.values():
        bank.split(split)  # one that is not there is said before any model is built
    points = [*run.front.points, *run.baselines.points]
    libraries = versions()
    known = run.evaluated(libraries)
    keys = _keys(points, banks, split, libraries)
    lacking = {  # a point of the front may be a baseline too
        point.key: (point, {n: banks[n] for n, k in keys[point.label].items() if k not in known})
        for point in points
    }
    if any(asked for _, asked in lacking.values()):
        with closing(Ledger(run.folder, write=True)) as ledger:
            for point, asked in lacking.values():
                if asked:
                    told(point.label)
                    why = partial(failed, point.label)
                    for score in _scored(run.plan(point.label), asked, split, why):
                        body = {"key": keys[point.label][score.bank], "bank": score.bank}
                        ledger.append("evaluated", {**body, "scores": score.scores.tolist()})
        known = run.evaluated(libraries)
    return {
        label: {n: api.Score.of(n, np.array(known[k])) for n, k in row.items() if k in known}
        for label, row in keys.items()
    }


def _scored(
    plan: Plan, asked: Mapping[str, Bank], split: str, failed: Callable[[str], None]
) -> Iterator[api.Score]:
    for name, result in api.results(plan, asked, split):
        try:
            score = api.scored(plan, name, result)
        except errors.EvaluationError as error:
            failed(str(error))
        else:
            yield score


def _keys(
    points: Sequence[Point], banks: Mapping[str, Bank], split: str, libraries: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """What each score depends on, by label, then bank."""
    return {
        point.label: {
            name: dependence(point.key, *bank.identity(), split, libraries)
            for name, bank in banks.items()
        }
        for point in points
    }
