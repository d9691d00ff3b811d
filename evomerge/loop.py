"""The loop: ask, dispatch, record, tell. A run that is started again goes on where it was."""

from __future__ import annotations

import importlib
import json
import platform
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evomerge import confirm, errors, fidelity, plugins
from evomerge.answers import Answers, Desk, Place, text
from evomerge.files.ledger import Ledger
from evomerge.files.writer import atomic_text
from evomerge.plan import Plan
from evomerge.plugins import Observation, Proposal
from evomerge.recipe import Problem
from evomerge.session import differences, interruptible
from evomerge.worker import Result

Report = Callable[[str, Mapping[str, Any]], None]

_LIBRARIES = ("evomerge", "torch", "transformers", "numpy", "pymoo", "cma")


@dataclass
class Candidate:
    """A plan that the strategy has proposed, and what is known of it."""

    id: int
    point: tuple[float, ...] | None
    plan: Plan
    places: list[Place]
    losses: tuple[float, ...] | None = None
    errors: tuple[float, ...] = ()
    items: int = 0
    failed: bool = False


class Search:
    """One session of work on a run."""

    def __init__(self, problem: Problem, folder: Path, report: Report) -> None:
        self.problem = problem
        self.recipe = problem.recipe
        self.folder = folder
        self.report = report
        self.candidates: dict[int, Candidate] = {}
        self.outstanding: list[Candidate] = []
        self._stop = threading.Event()

    def run(self) -> None:
        """Work until the budget is used and the front is confirmed.

        Raises Interrupted after a signal, RecipeError for a folder of another recipe.
        """
        ledger = Ledger(self.folder, write=True)
        desk = None
        try:
            self._identify(ledger)
            ledger.add_session(self._session())
            self.answers = Answers(ledger, self.problem.setup)
            named = (self.recipe.executor.name, self.recipe.executor.options)
            self.desk = desk = Desk(self.answers, named, stopping=self._stop.is_set)
            for note in self.problem.notes():
                self.report("note", {"text": note})
            with interruptible(self._stop):
                self._work(ledger)
        finally:
            if desk is not None:
                desk.close()
            ledger.close()

    def _work(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.losses = confirm.sanity(self.problem, self.desk, self.report)
        named = self.recipe.strategy
        self.strategy = plugins.begin(
            named.name, named.options, self.problem.space, self.problem.objectives,
            seed=self.recipe.seed, where="strategy",
        )  # fmt: skip
        self._replay()
        done = ledger.last("confirmed")
        if done and done["candidates"] == len(self.candidates) and not self._may_ask():
            self.report("complete", {"candidates": len(self.candidates)})
            return
        self.report("stage", {"name": "search"})
        self._loop()
        for line in plugins.notes(self.strategy):
            self.report("note", {"text": line})
        shortlist = self._shortlist()
        seen = fidelity.wanted(self.recipe.fidelity, self.answers, None)
        self.desk.answer(shortlist.values(), seen, self._told_result)
        confirm.confirm(self.problem, self.desk, self.losses, shortlist, self.report)

    def _told_result(self, result: Result) -> None:
        self.report("answered", {"result": result})

    def _identify(self, ledger: Ledger) -> None:
        """Refuse a folder that belongs to another recipe, with the differences."""
        mine = self.problem.identity()
        theirs = ledger.meta("identity")
        if theirs is None:
            ledger.set_meta("identity", mine)
            ledger.set_meta("banks", _banks(self.problem))
            ledger.set_meta("origins", self.problem.origins())
        elif theirs != mine:
            changes = "\n".join(f"  {line}" for line in differences(theirs, mine))
            raise errors.RecipeError(
                f"{self.folder}: this run was made from another recipe:\n{changes}\n"
                "Name another folder with -o, or undo the change"
            )
        recipe = self.problem.portable()
        ledger.set_meta("recipe", recipe)
        atomic_text(self.folder / "recipe.json", json.dumps(recipe, indent=1))

    def _session(self) -> dict[str, Any]:
        return {
            "executor": self.recipe.executor.model_dump(),
            "device": self.problem.setup.device,
            "host": platform.node(),
            "python": platform.python_version(),
            "versions": {name: importlib.import_module(name).__version__ for name in _LIBRARIES},
        }

    # The loop

    @property
    def _barrier(self) -> bool:
        return self.recipe.deterministic or self.desk.in_order

    def _may_ask(self) -> bool:
        return self.left() > 0

    def left(self) -> int:
        """How many more candidates the budget allows; a large number where it does not say."""
        budget = self.recipe.budget
        if budget.items is not None and self.answers.searched >= budget.items:
            return 0
        if budget.seconds is not None and self.ledger.seconds() >= budget.seconds:
            return 0
        return 10**9 if budget.candidates is None else budget.candidates - len(self.candidates)

    def _loop(self) -> None:
        while self.outstanding or self._may_ask():
            if self._may_ask() and not (self._barrier and self.outstanding):
                self._ask()
            ready = [c for c in self.outstanding if self._is_ready(c)]
            if ready and (not self._barrier or len(ready) == len(self.outstanding)):
                self._tell(ready)
                continue
            for candidate in self.outstanding:
                if not self._is_ready(candidate) and not self.desk.is_flying(candidate.plan.key):
                    self.desk.submit(candidate.plan, candidate.places)
            result = next(self.desk.completed(), None)
            if result is not None:
                self._told_result(result)
            elif not self.outstanding:
                self.report("note", {"text": "the strategy has nothing more to propose"})
                break
        stopped = {"candidates": len(self.candidates)}
        if self.ledger.last("stopped") != stopped:
            self.ledger.append("stopped", stopped)

    def _is_ready(self, candidate: Candidate) -> bool:
        key = candidate.plan.key
        return key in self.answers.failures or not self.answers.missing(key, candidate.places)

    def _ask(self) -> None:
        room = self.recipe.ask if self._barrier else 2 * self.desk.workers - len(self.outstanding)
        n = min(room, self.left())
        if n < 1:
            return
        proposals = self.strategy.ask(n)
        asked = [self._admit(proposal) for proposal in proposals]
        self.ledger.add_plans((c.plan.key, text(c.plan)) for c in asked)
        body = [
            {"id": p.id, "point": p.point, "items": p.items, "plan": c.plan.key}
            for p, c in zip(proposals, asked, strict=True)
        ]
        self.ledger.append("ask", {"n": n, "proposals": body})

    def _admit(self, proposal: Proposal, key: str | None = None) -> Candidate:
        """Make a proposal an outstanding candidate; `key`: the plan that the ledger has for it."""
        if key is not None and proposal.point is None:
            plan = Plan.parse(self.ledger.plan(key), "ledger")
        elif proposal.point is not None:
            plan = self.problem.plan(proposal.point)
        else:
            plan = Plan.parse(proposal.plan, "strategy")
        places = fidelity.wanted(self.recipe.fidelity, self.answers, proposal.items)
        known = self.candidates.get(proposal.id)
        if known is None:
            known = Candidate(proposal.id, proposal.point, plan, places)
            self.candidates[proposal.id] = known
        known.places = places
        self.outstanding.append(known)
        return known

    def _tell(self, ready: Sequence[Candidate]) -> None:
        for candidate in ready:
            candidate.failed = candidate.plan.key in self.answers.failures
            if not candidate.failed:
                candidate.losses, candidate.errors, candidate.items = self.losses.of(
                    self.answers, candidate.plan.key, candidate.places
                )
        body = [_observed(candidate) for candidate in ready]
        self.ledger.append("tell", body)
        self._pass_on(body)
        self._check_failures()
        self.report("told", {"search": self, "told": list(ready)})

    def _pass_on(self, body: Sequence[Mapping[str, Any]]) -> None:
        """Give the strategy what a tell event holds."""
        needs = plugins.strategy_needs(self.recipe.strategy.name, self.recipe.strategy.options)
        observations = []
        for row in body:
            candidate = self.candidates[row["id"]]
            candidate.failed = row["losses"] is None
            candidate.losses = None if candidate.failed else tuple(row["losses"])
            candidate.errors, candidate.items = tuple(row["errors"]), row["items"]
            known = (candidate.losses, candidate.errors, candidate.items)
            answers = self._answers_of(candidate) if "answers" in needs else None
            observations.append(Observation(candidate.id, candidate.point, *known, answers))
            if candidate in self.outstanding:
                self.outstanding.remove(candidate)
        self.strategy.tell(observations)

    def _answers_of(self, candidate: Candidate) -> dict[str, dict[str, float]] | None:
        if candidate.failed:
            return None
        key, places = candidate.plan.key, candidate.places
        return {name: self.answers.by_item(key, name, places) for name in self.problem.objectives}

    def _check_failures(self) -> None:
        told = [c for c in self.candidates.values() if c.failed or c.losses is not None]
        failed = [c for c in told if c.failed]
        if len(told) >= 10 and len(failed) > 0.8 * len(told):
            reasons = Counter(self.answers.failures[c.plan.key] for c in failed)
            raise errors.TooManyFailures(
                f"{len(failed)} of {len(told)} candidates failed; most often: "
                f"{reasons.most_common(1)[0][0]}. Put it right, then search in another folder (-o)"
            )

    def _replay(self) -> None:
        """Bring the strategy to where the ledger ends."""
        diverged = 0
        for event in self.ledger.events("ask", "tell"):
            if event.kind == "tell":
                self._pass_on(event.body)
                continue
            again = self.strategy.ask(event.body["n"])
            recorded = event.body["proposals"]
            diverged += [(p.id, p.point) for p in again] != [
                (row["id"], _point(row["point"])) for row in recorded
            ]
            for row in recorded:
                proposal = Proposal(row["id"], _point(row["point"]), items=row["items"])
                self._admit(proposal, row["plan"])
        if diverged:
            self.report(
                "note",
                {"text": f"{diverged} asks came out otherwise than recorded; the record is used"},
            )

    def _shortlist(self) -> dict[str, Plan]:
        """Label -> plan of what is confirmed: the strategy's incumbents, then of the front."""
        found: dict[str, Plan] = {}
        for i, point in enumerate(self.strategy.incumbents()):
            found[f"m{i}"] = self.problem.plan(self.problem.space.canonical(np.asarray(point)))
        told = [c for c in self.candidates.values() if c.losses is not None]
        room = max(1, self.recipe.shortlist - len(found))
        found |= {f"c{c.id}": c.plan for c in confirm.best_of_front(told, room)}
        unique = {plan.key: label for label, plan in found.items()}
        return {label: plan for label, plan in found.items() if unique[plan.key] == label}


def _banks(problem: Problem) -> dict[str, Any]:
    return {
        name: {"bank": bank.name, "scorer": bank.scorer} for name, bank in problem.banks.items()
    }


def _observed(candidate: Candidate) -> dict[str, Any]:
    return {
        "id": candidate.id,
        "losses": candidate.losses,
        "errors": candidate.errors,
        "items": candidate.items,
    }


def _point(value: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if value is None else tuple(value)
