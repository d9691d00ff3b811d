"""How item response theory describes the answers of a run, and where its models stand."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evomerge import errors
from evomerge.answers import Scores
from evomerge.estimation import NO_SKILL
from evomerge.files.ledger import Ledger
from evomerge.maths import irt, irt_checks
from evomerge.maths.irt import Fit
from evomerge.maths.irt_checks import Dependence, HeldOut
from evomerge.run import Run

FEWEST_MODELS, FEWEST_ITEMS = 10, 10
CENTRAL = (0.05, 0.95)
"""The range of the candidates' abilities is that of the middle nine tenths."""

Rows = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Standing:
    """A model's ability with its standard error, from `items` answers on a split."""

    label: str
    kind: str
    ability: float
    error: float
    items: int
    split: str


@dataclass(frozen=True)
class BankFit:
    """The fit of one bank: `models` is how many answered, `ids` names its items, `counts` (I,) by
    how many models each was answered.

    `faults` says by id what is wrong with an item, `constant` by plan key which models answered
    all right or all wrong: the prior alone bounds their ability. `candidates` holds their
    abilities and standard errors (C,), under the prior of the endpoints; `range` is where the
    middle nine tenths of them lie.
    """

    name: str
    signal: str
    models: int
    ids: tuple[str, ...]
    counts: npt.NDArray[np.int_]
    fit: Fit
    held_out: HeldOut
    infit: Scores
    dependence: Dependence
    faults: Mapping[str, str]
    constant: Mapping[str, str]
    standings: tuple[Standing, ...]
    candidates: tuple[Scores, Scores]

    @property
    def range(self) -> tuple[float, float]:
        # Abilities that are there: between two candidates no other would be
        low, high = np.quantile(self.candidates[0], CENTRAL, method="closest_observation")
        return float(low), float(high)

    @cached_property
    def _inside(self) -> npt.NDArray[np.bool_]:
        """Which candidates' abilities are in the range (C,)."""
        low, high = self.range
        return (self.candidates[0] >= low) & (self.candidates[0] <= high)

    @property
    def error(self) -> float:
        """Mean standard error of the candidates whose ability is in the range."""
        return float(self.candidates[1][self._inside].mean())

    @cached_property
    def information(self) -> Scores:
        """Of each item (I,), averaged over the candidates in the range."""
        inside = self.candidates[0][self._inside]
        return np.asarray(self.fit.items.information(inside).mean(axis=0))

    def reasons(self) -> dict[str, list[str]]:
        """Ids of faulty items by the kind of their fault, the most frequent first."""
        kinds = {i: reason.partition(":")[0] for i, reason in self.faults.items()}
        counted = Counter(kinds.values()).most_common()
        return {kind: [i for i, k in kinds.items() if k == kind] for kind, _ in counted}

    def summary(self) -> dict[str, Any]:
        """The numbers of the bank as a plain row."""
        low, high = self.range
        inside = (self.infit >= irt_checks.INFIT[0]) & (self.infit <= irt_checks.INFIT[1])
        return {
            "bank": self.name, "signal": self.signal, "models": self.models,
            "items": len(self.ids), "model": self.fit.model, "converged": self.fit.converged,
            "mean_slope": float(self.fit.items.slopes.mean()), "dispersion": self.fit.dispersion,
            "candidates_low": low, "candidates_high": high, "ability_error": self.error,
            "shown_items": self.held_out.seen, "held_out": dict(self.held_out.errors),
            "rival": self.held_out.rival, "gain": self.held_out.gains[self.held_out.rival],
            "gain_error": self.held_out.gain_errors[self.held_out.rival],
            "better": self.held_out.better or None,
            "constant_models": dict(self.constant),
            "infit_outside": int(np.isfinite(self.infit).sum() - inside.sum()),
            "dependent_pairs": len(self.dependence.pairs),
            "examined_pairs": self.dependence.examined,
        }  # fmt: skip

    def to_plain(self) -> dict[str, Any]:
        """Everything, with a row an item and a row a model that has a name."""
        items = self.fit.items
        columns = {
            "answers": self.counts, "slope": items.slopes, "intercept": items.intercepts,
            "difficulty": items.difficulties, "information": self.information,
            "infit": self.infit,
        }  # fmt: skip
        rows = [
            {"item": name, **{key: _number(column[i]) for key, column in columns.items()},
             "fault": self.faults.get(name)}
            for i, name in enumerate(self.ids)
        ]  # fmt: skip
        pairs = [[self.ids[a], self.ids[b], excess] for a, b, excess in self.dependence.pairs[:20]]
        standings = [vars(standing) for standing in self.standings]
        return self.summary() | {"models_at": standings, "strongest_pairs": pairs, "rows": rows}


@dataclass(frozen=True)
class Calibration:
    """The fits of a run's banks; `skipped` says why a bank has none."""

    folder: Path
    banks: tuple[BankFit, ...]
    skipped: Mapping[str, str]

    def to_json(self) -> str:
        """Everything as JSON; null for what is undefined."""
        banks = [bank.to_plain() for bank in self.banks]
        body = {"run": str(self.folder), "banks": banks, "skipped": dict(self.skipped)}
        return json.dumps(body, indent=1, allow_nan=False)

    def write(self, file: str | Path) -> Path:
        """The item map in one HTML file that needs nothing else."""
        from evomerge.report import item_map

        return item_map.write(self, Path(file))


def calibrate(
    folder: str | Path,
    *,
    shown: int = 30,
    told: Callable[[str], None] = lambda bank: None,
) -> Calibration:
    """Fit every bank of a run from its answers to `search`, in the signal that the recipe names.

    Only reads. Textbook merges answer no `search` items; they are placed by their answers to
    `validation`, whose items are put on the scale by the models that answered both. `shown` is
    how many items of a held-out model the check of the fit may see.
    Raises InputError where no bank has answers of 10 models to 10 items. A model that answered
    one item says nothing of two, and is left out.
    """
    if shown < 1:
        raise errors.RecipeError(f"shown: expected at least 1, got {shown}")
    given = _Given(Run(folder))
    banks, skipped = [], {}
    for name in given.run.objectives:
        anchor = given.run.searched.anchors.get(name)
        if anchor is not None and not anchor.skill:
            skipped[name] = NO_SKILL
            continue
        table = _Table(given.rows(name, "search"))
        models, items = table.values.shape
        if items < FEWEST_ITEMS or models < FEWEST_MODELS:
            skipped[name] = (
                f"{models} of {len(given.rows(name, 'search', 1))} models answered more than one "
                f"item of search, {items} items between them; needed are {FEWEST_MODELS} such "
                f"models and {FEWEST_ITEMS} items"
            )
            continue
        told(name)
        banks.append(_fit(given, name, table, shown))
    if not banks:
        reasons = "; ".join(f"'{name}': {reason}" for name, reason in skipped.items())
        raise errors.InputError(
            f"{folder}: no bank can be calibrated: {reasons or 'no answers yet'}"
        )
    return Calibration(Path(folder), tuple(banks), skipped)


class _Given:
    """What a run has answered, by whom, and who is who."""

    def __init__(self, run: Run) -> None:
        self.run = run
        ledger = Ledger(run.folder)
        self.failed = set(run.failures())
        named = run.recipe.get("objectives", {})
        wanted = {n: str(named.get(n, {}).get("signal", "score")) for n in run.objectives}
        self.signals = wanted
        self._tables: dict[tuple[str, str], Rows] = {}
        for key, answer in ledger.answers():
            there = answer.bank in wanted and answer.item not in run.dropped.get(answer.bank, ())
            if there and answer.split != "test" and key not in self.failed:
                rows = self._tables.setdefault((answer.bank, answer.split), {})
                rows.setdefault(key, {})[answer.item] = answer.seen(wanted[answer.bank])
        self.ends = self._endpoints(ledger)
        baselines = run.confirmed["baselines"] if run.is_confirmed else {}
        self.merges = {k: label for label, k in baselines.items() if k not in self.ends}

    def rows(self, name: str, split: str, least: int = 2) -> Rows:
        """Models that answered at least so many items of a split."""
        rows = self._tables.get((name, split), {})
        return {key: row for key, row in rows.items() if len(row) >= least}

    def _endpoints(self, ledger: Ledger) -> dict[str, str]:
        """Labels of base and experts by plan key: plans that merge nothing."""
        identity = ledger.meta("identity") or {"base": "", "experts": {}}
        labels = {sha: f"expert {name}" for name, sha in identity["experts"].items()}
        labels[identity["base"]] = "base"
        keys = sorted(ledger.plans() & {key for rows in self._tables.values() for key in rows})
        plans = {key: ledger.plan(key) for key in keys}
        alone = {key: plan["base"]["sha256"] for key, plan in plans.items() if not plan["groups"]}
        found = {key: labels[sha] for key, sha in alone.items() if sha in labels}
        order = ["base", *labels.values()]
        return dict(sorted(found.items(), key=lambda pair: order.index(pair[1])))


class _Table:
    """Answers as a matrix (models, items), nan where one is missing."""

    def __init__(self, rows: Rows) -> None:
        self.keys = sorted(rows)
        self.items = tuple(sorted({item for row in rows.values() for item in row}))
        cells = [[row.get(item, np.nan) for item in self.items] for _, row in sorted(rows.items())]
        self.values = np.array(cells).reshape(len(self.keys), len(self.items))

    def of(self, keys: Iterable[str]) -> Scores:
        return self.values[[self.keys.index(key) for key in keys]]


def _fit(given: _Given, name: str, table: _Table, shown: int) -> BankFit:
    fit = irt.fit(table.values)
    where = dict(zip(table.keys, fit.abilities.tolist(), strict=True))
    prior = irt.endpoint_prior([where[key] for key in given.ends if key in where])
    others = [key for key in table.keys if key not in given.ends] or table.keys
    faults = irt_checks.faults(table.values, fit)
    standings = [*_ends(given, table, fit), *_textbook(given, name, table, fit, prior)]
    return BankFit(
        name=name, signal=given.signals[name], models=len(table.keys), ids=table.items,
        counts=np.isfinite(table.values).sum(axis=0), fit=fit,
        held_out=irt_checks.held_out(table.values, seen=shown),
        infit=irt_checks.infit(table.values, fit),
        dependence=irt_checks.dependence(table.values, fit),
        faults={table.items[i]: reason for i, reason in faults.items()},
        constant={table.keys[m]: words
                  for m, words in irt_checks.constant_models(table.values).items()},
        standings=tuple(standings),
        candidates=irt.ability(fit.items, table.of(others), prior, fit.dispersion),
    )  # fmt: skip


def _ends(given: _Given, table: _Table, fit: Fit) -> Iterator[Standing]:
    for key, label in given.ends.items():
        if key in table.keys:
            i = table.keys.index(key)
            items = int(np.isfinite(table.values[i]).sum())
            at = float(fit.abilities[i]), float(fit.errors[i])
            yield Standing(label, label.split(" ")[0], *at, items, "search")


def _textbook(
    given: _Given, name: str, table: _Table, fit: Fit, prior: irt.Prior
) -> Iterator[Standing]:
    """Textbook merges, on `search` if they answered there, else by the items of `validation`."""
    later = _Table(given.rows(name, "validation"))
    both = [key for key in table.keys if key in later.keys]
    where = dict(zip(table.keys, fit.abilities.tolist(), strict=True))
    for key, label in given.merges.items():
        if key in table.keys:
            rows, items, split = table.of([key]), fit.items, "search"
        elif key in later.keys and both:
            items = irt.anchored(fit, [where[k] for k in both], later.of(both))
            rows, split = later.of([key]), "validation"
        else:
            continue
        (ability,), (error,) = irt.ability(items, rows, prior, fit.dispersion)
        n = int(np.isfinite(rows).sum())
        yield Standing(label, "textbook", float(ability), float(error), n, split)


def _number(value: Any) -> float | None:
    return value.item() if np.isfinite(value) else None
