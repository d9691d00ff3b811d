"""Answers of finished searches, small enough to keep beside the benchmark that replays them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from evomerge import Run, errors
from evomerge.files.ledger import Ledger

Array = npt.NDArray[np.float64]

STEP = 1 / 32
"""Margins are kept as whole numbers of this; beyond +-127 of them, as that."""
SIGNALS = ("score", "probability", "margin")
WIDE = frozenset({"sobol"})
"""Strategies whose candidates never close in on anything."""


@dataclass(frozen=True)
class Population:
    """What the models of one run answered, by bank: each array is (models, items).

    Rows are base and experts (`ends` of them), the run's first candidates, and its `last` ones.
    """

    name: str
    strategy: str
    ends: int
    last: int
    score: dict[str, Array]
    probability: dict[str, Array]
    margin: dict[str, Array]

    @property
    def kind(self) -> str:
        return "wide" if self.strategy in WIDE else "narrow"

    def turned(self) -> Population:
        """The first candidates as the last, so that they are ranked and the others known: for
        strategies whose candidates have no order."""
        models = len(next(iter(self.score.values())))
        rest = np.arange(self.ends, models)
        order = np.append(np.arange(self.ends), np.roll(rest, -self.last))
        signals = [
            {bank: table[order] for bank, table in signal.items()}
            for signal in (self.score, self.probability, self.margin)
        ]
        return replace(
            self, name=f"{self.name}, turned", **dict(zip(SIGNALS, signals, strict=True))
        )


def collect(runs: list[Path], file: Path, first: int, last: int) -> None:
    """Write the answers to `search` of each run's base, experts, first and last candidates."""
    columns, about = {}, []
    for number, folder in enumerate(runs):
        run = Run(folder)
        ends, keys = _models(run, first, last)
        skills = [name for name in run.objectives if run.recipe["objectives"][name]["bank"]]
        answers = _answers(Ledger(folder), set(keys), set(skills))
        for bank in skills:
            rows = [answers[key, bank] for key in keys]
            items = sorted(set.intersection(*(set(row) for row in rows)))
            # Items by models: what many models answer alike is packed well
            cells = np.array([[row[item] for row in rows] for item in items])
            at = f"{number}.{bank}"
            columns[f"{at}.score"] = np.packbits(cells[..., 0] > 0.5, axis=1)
            columns[f"{at}.probability"] = np.round(cells[..., 1] * 255).astype(np.uint8)
            margins = np.clip(np.round(cells[..., 2] / STEP), -127, 127)
            columns[f"{at}.margin"] = margins.astype(np.int8)
        about.append(
            {"name": folder.name, "strategy": run.recipe["strategy"]["name"], "ends": ends,
             "last": last, "models": len(keys), "banks": skills}
        )  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(file, allow_pickle=False, about=np.array(json.dumps(about)), **columns)


def _models(run: Run, first: int, last: int) -> tuple[int, list[str]]:
    """How many are base and experts, and plan keys in the order of `Population`, each once."""
    ledger = Ledger(run.folder)
    identity = ledger.meta("identity")
    wanted = [identity["base"], *identity["experts"].values()]
    answered = {key for key, answer in ledger.answers() if answer.split == "search"}
    plans = {key: ledger.plan(key) for key in answered}
    alone = {p["base"]["sha256"]: key for key, p in plans.items() if not p["groups"]}
    ends = [alone[sha] for sha in wanted if sha in alone]
    asked = [key for key in dict.fromkeys(run.asked().values()) if key in answered]
    asked = [key for key in asked if key not in ends]
    others = asked[:-last]
    if not others:
        raise errors.InputError(
            f"{run.folder}: {len(asked)} candidates have answers, needed are more than {last}"
        )
    return len(ends), [*ends, *others[:first], *asked[-last:]]


def _answers(
    ledger: Ledger, keys: set[str], banks: set[str]
) -> dict[tuple[str, str], dict[str, tuple[float, float, float]]]:
    """(score, probability, margin) by (plan, bank), then item."""
    found: dict[tuple[str, str], dict[str, tuple[float, float, float]]] = {}
    for key, a in ledger.answers():
        if key in keys and a.bank in banks and a.split == "search":
            cell = (a.score, a.extra["probability"], a.extra["margin"])
            found.setdefault((key, a.bank), {})[a.item] = cell
    return found


def load(file: Path) -> list[Population]:
    """Populations of a file that `collect` wrote; a wide one comes a second time, `turned`."""
    with np.load(file, allow_pickle=False) as stored:
        about = json.loads(str(stored["about"]))
        found = [_population(stored, number, a) for number, a in enumerate(about)]
    return [p for one in found for p in ([one, one.turned()] if one.kind == "wide" else [one])]


def _population(stored: npt.NDArray, number: int, about: dict) -> Population:
    signals: dict[str, dict[str, Array]] = {signal: {} for signal in SIGNALS}
    for bank in about["banks"]:
        at = f"{number}.{bank}"
        bits = np.unpackbits(stored[f"{at}.score"], axis=1, count=about["models"])
        signals["score"][bank] = bits.T.astype(float)
        signals["probability"][bank] = stored[f"{at}.probability"].T / 255
        signals["margin"][bank] = stored[f"{at}.margin"].T * STEP
    return Population(about["name"], about["strategy"], about["ends"], about["last"], **signals)
