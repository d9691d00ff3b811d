"""A run that begins with what another one found: its best points, and all answers that are alike.

What is taken is copied into the ledger of the new run; the old folder is not needed afterwards.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path

import numpy as np

from evomerge import errors, plugins
from evomerge.files.items import SPLITS
from evomerge.files.ledger import Answer, Ledger, begun
from evomerge.genome import Gene, Value
from evomerge.maths import pareto, sequences
from evomerge.plan import Plan
from evomerge.recipe import Problem
from evomerge.recorded import Recorded, comparable, looks
from evomerge.relay import Listed, Stages
from evomerge.session import LIBRARIES, versions

NAMED = 3
"""Reasons why points do not fit that a refusal says."""


@dataclass(frozen=True)
class Seeds:
    """Points (D,) by label of those plans of a run that this space can express; by labels of the
    others, why not; how many are the same plans here, names that answers to each of its objectives
    have here; looks at `test`; the seed that the strategy has here."""

    run: Path
    points: Mapping[str, tuple[float, ...]]
    strays: Mapping[str, str]
    same: int
    banks: Mapping[str, Sequence[str]]
    looks: int
    seed: int

    def notes(self) -> Iterator[str]:
        names = ", ".join(self.points)
        yield (
            f"seeds: {len(self.points)} points of {self.run} come first: {names}; {self.same} of "
            "them are the same plans here"
        )
        for labels, reason in self.strays.items():
            yield f"seeds: {labels} of {self.run} left out: {reason}"
        if not self.banks:
            yield f"seeds: no answers of {self.run} are used again: other banks or libraries"

    def take(self, ledger: Ledger) -> None:
        """Copy answers and points, all or nothing."""
        reused = dict.fromkeys(SPLITS, 0)
        with closing(Ledger(self.run)) as old, ledger.together():
            dropped = old.meta("dropped") or {}  # of a bank that has changed since
            for key, rows in groupby(old.answers(), key=lambda row: row[0]):
                kept = (a for _, a in rows if a.item not in dropped.get(a.bank, ()))
                found = list(self._renamed(kept))
                ledger.record(key, found, f"run:{self.run}", 0)
                for answer in found:
                    reused[answer.split] += 1
            ledger.append(
                "seeds",
                {"run": str(self.run), "points": dict(self.points), "strays": dict(self.strays),
                 "answers": reused, "looks": self.looks, "seed": self.seed},
            )  # fmt: skip

    def _renamed(self, answers: Iterable[Answer]) -> Iterator[Answer]:
        for answer in answers:
            for name in self.banks.get(answer.bank, ()):
                yield replace(answer, bank=name)


class Seeded(Stages):
    """The points of another run, then the recipe's strategy."""

    def __init__(self, begin: Callable[..., plugins.Strategy], ledger: Ledger) -> None:
        self._given, self._ledger = ledger.last("seeds"), ledger
        super().__init__(Listed([tuple(p) for p in self._given["points"].values()]), begin)

    def notes(self) -> list[str]:
        """How many candidates had been answered before, and what the strategy says."""
        asked, copied = Recorded(self._ledger.folder).asked(), self._ledger.copied()
        again = sum(key in copied for key in asked.values())
        line = f"seeds: {again} of {len(asked)} candidates had been answered by {{}} before"
        return [*([line.format(self._given["run"])] if again else []), *super().notes()]


def strategy(problem: Problem, ledger: Ledger) -> plugins.Strategy:
    """The recipe's strategy, after the points that this run began with, if there are some."""
    named = problem.recipe.strategy
    seed = _seed(ledger, problem.recipe.seed)
    begin: Callable[..., plugins.Strategy] = functools.partial(
        plugins.begin, named.name, named.options, problem.space, problem.objectives,
        seed=seed, where="strategy",
    )  # fmt: skip
    return begin() if ledger.last("seeds") is None else Seeded(begin, ledger)


def _seed(ledger: Ledger, given: int) -> int:
    """The seed of a run's strategy: that of its recipe, `given`, unless it had seeds.

    A strategy with the seed of the run before it would begin with the points that this one began
    with. Runs from before seeds had one go on with their recipe's.
    """
    return int((ledger.last("seeds") or {}).get("seed", given))


def found(problem: Problem, folder: Path | None = None) -> Seeds | None:
    """What the recipe's `seeds` give; None without any, or if `folder` holds them already.

    Raises InputError where there is no run, RecipeError where no point of it fits.
    """
    if problem.recipe.seeds is None:
        return None
    if folder is not None and begun(folder):
        with closing(Ledger(folder)) as mine:
            if mine.last("seeds") is not None:
                return None
    path = Path(problem.recipe.seeds.removeprefix("run:"))
    with errors.at("seeds"):
        if folder is not None and path.resolve() == folder.resolve():
            raise errors.RecipeError(f"{path} is this run's own folder: name another with -o")
        with closing(Ledger(path)) as old:
            return _of(problem, path, old)


def _of(problem: Problem, path: Path, old: Ledger) -> Seeds:
    once: dict[tuple[float, ...], str] = {}
    strays: dict[str, list[str]] = {}
    same = 0
    elites = _elites(Recorded(path), old, problem.recipe.shortlist)
    for label, key in elites.items():
        try:
            values = _values(problem, Plan.parse(old.plan(key), str(path)))
            point = problem.space.canonical(problem.space.encode(values))
        except errors.RecipeError as error:
            strays.setdefault(str(error), []).append(label)
        else:
            once.setdefault(tuple(point.tolist()), label)
            same += problem.plan(point).key == key
    reasons = {", ".join(labels): reason for reason, labels in strays.items()}
    if not once:
        shown = "; ".join(f"{labels}: {why}" for labels, why in islice(reasons.items(), NAMED))
        raise errors.RecipeError(
            f"{path}: none of its {len(elites)} best points fits this space ({shown})"
        )
    points = {label: point for point, label in once.items()}
    before = _seed(old, (old.meta("identity") or {}).get("seed", 0))
    seed = sequences.seed(problem.recipe.seed, before)
    return Seeds(path, points, reasons, same, _banks(problem, old), looks(old), seed)


def _elites(run: Recorded, old: Ledger, most: int) -> dict[str, str]:
    """Plan key by label: what was chosen and confirmed, then what else the search found not to be
    dominated among those that can be compared, the best mean first."""
    plans, confirmed = run.asked(), old.last("confirmed")
    rows = {row["id"]: (e.number, row["losses"]) for e in old.events("tell") for row in e.body}
    events = {id: number for id, (number, losses) in rows.items() if losses is not None}
    told = {id: rows[id][1] for id in sorted(comparable(events, old.wanted()))}
    kept = pareto.nondominated(np.array(list(told.values()))).tolist() if told else []
    front = [id for id, good in zip(told, kept, strict=True) if good]
    front.sort(key=lambda id: float(np.mean(told[id])))
    listed = [(f"c{id}", plans[f"c{id}"]) for id in front]
    if confirmed is not None:
        plans = confirmed["shortlist"]
        labels = dict.fromkeys([confirmed["chosen"], *confirmed["front"], *plans])
        listed = [*((label, plans[label]) for label in labels), *listed]
    if not listed:
        raise errors.RecipeError(f"{run.folder}: none of its candidates has a score yet")
    once: dict[str, str] = {}
    for label, key in listed:
        once.setdefault(key, label)
    return {label: key for key, label in islice(once.items(), most)}


def _banks(problem: Problem, old: Ledger) -> dict[str, list[str]]:
    """For each objective and kept bank of the old run, the names that the same bank has here."""
    session, now = old.last_session(), versions()
    if session is None:
        return {}
    # An earlier evomerge noted fewer of them
    if any(session["versions"].get(name, now[name]) != now[name] for name in LIBRARIES):
        return {}
    identity = old.meta("identity") or {}
    theirs = {**identity.get("objectives", {}), **identity.get("keep", {})}
    names = {
        name: [mine for mine, bank in problem.banks.items() if bank.identity() == list(known[:3])]
        for name, known in theirs.items()
    }
    return {name: mine for name, mine in names.items() if mine}


def _values(problem: Problem, plan: Plan) -> dict[str, Value]:
    """Values of the genes that are searched, by which this recipe makes what a plan makes.

    A coarser plan fits a finer space: a group has the value that the plan gives all of its
    tensors. Raises RecipeError that says what does not fit.
    """
    frame = problem.template
    if plan.base.sha256 != frame.base.sha256 or plan.vocabulary != frame.vocabulary:
        raise errors.RecipeError("another base, or tokens of another layout")
    here = {expert.sha256: expert.name for expert in frame.experts}
    lacking = [e.name for e in plan.experts if e.sha256 not in here]
    lacking += [e.name for e in frame.experts if e.sha256 not in {x.sha256 for x in plan.experts}]
    if lacking:
        raise errors.RecipeError(f"expert '{lacking[0]}' is in one of the two runs alone")
    operators = sorted({(step.operator, step.version) for step in plan.groups.values()})
    known = {(name, plugins.load("operator", name).VERSION) for name in frame.operators}
    if len(operators) != 1 or operators[0] not in known:
        names = ", ".join(f"{name} {version}" for name, version in operators) or "none"
        here_too = ", ".join(f"{name} {version}" for name, version in sorted(known))
        raise errors.RecipeError(f"operator (and version) {names}, expected one of {here_too}")
    values = _given(problem, plan, operators[0][0], here)
    genes = {gene.key: gene for gene in frame.genes()}
    for key, value in problem.fixed.items():
        on_grid = genes[key].decode(genes[key].encode(value))  # as plans have it
        if values.pop(key, value) not in (value, on_grid):
            raise errors.RecipeError(f"{key} is another than {value}, at which it is held here")
    return values


def _given(
    problem: Problem, plan: Plan, operator: str, experts: Mapping[str, str]
) -> dict[str, Value]:
    """Values of all genes by key, as far as a plan says them."""
    tensors = list(problem.inputs.sources[0].tensors)
    theirs = plan.places(tensors)
    within: dict[str, set[str]] = {}
    for name, group in problem.template.layers.groups(tensors).items():
        within.setdefault(group, set()).add(theirs[name])
    names = {experts[expert.sha256]: expert.name for expert in plan.experts}
    values: dict[str, Value] = {}
    for gene in problem.template.genes():
        if gene.operator not in ("", operator):
            continue
        if gene.name == "operator" and not gene.group:
            values[gene.key] = operator
            continue
        groups = within[gene.group] if gene.group else set(theirs.values())
        found = {_value(plan, group, gene, names) for group in groups} - {None}
        if len(found) > 1:
            shown = " and ".join(sorted(map(str, found)))
            raise errors.RecipeError(f"{gene.key} would have to be {shown} at once")
        values.update((gene.key, value) for value in found if value is not None)
    return values


def _value(plan: Plan, group: str, gene: Gene, names: Mapping[str, str]) -> Value | None:
    step = plan.groups.get(group)
    given = step.genes.get(gene.name) if step is not None else None
    if isinstance(given, Mapping):
        return given.get(names[gene.expert]) if gene.expert else None
    return given
