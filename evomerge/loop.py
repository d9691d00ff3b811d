"""The loop: ask, dispatch, record, tell. A run that is started again goes on where it was."""

from __future__ import annotations

import importlib
import json
import platform
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge import confirm, errors, plugins
from evomerge.answers import Answers, Desk, text
from evomerge.files.ledger import Ledger
from evomerge.files.writer import atomic_text
from evomerge.recipe import Problem
from evomerge.session import differences, interruptible
from evomerge.state import Candidate, State
from evomerge.worker import Result

Report = Callable[[str, Mapping[str, Any]], None]

_LIBRARIES = ("evomerge", "torch", "transformers", "numpy", "pymoo", "cma")


class Search:
    """One session of work on a run."""

    def __init__(self, problem: Problem, folder: Path, report: Report) -> None:
        self.problem = problem
        self.recipe = problem.recipe
        self.folder = folder
        self.report = report
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
        strategy = plugins.begin(
            named.name, named.options, self.problem.space, self.problem.objectives,
            seed=self.recipe.seed, where="strategy",
        )  # fmt: skip
        self.state = State(self.problem, self.answers, self.losses, strategy, self.report)
        self.state.replay()
        done = ledger.last("confirmed")
        if done and done["candidates"] == len(self.candidates) and not self._may_ask():
            self.report("complete", {"candidates": len(self.candidates)})
            return
        self.report("stage", {"name": "search"})
        self._loop()
        shortlist = self.state.shortlist()
        asked = {c.plan.key for c in self.candidates.values()}
        others = [plan for plan in shortlist.values() if plan.key not in asked]
        self.desk.answer(others, self.state.chosen.wanted(None), self._told_result)
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
    def candidates(self) -> dict[int, Candidate]:
        return self.state.candidates

    @property
    def outstanding(self) -> list[Candidate]:
        return self.state.outstanding

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
        self.state.revise(self._may_ask())
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
        proposals = self.state.strategy.ask(n)
        asked = [self.state.admit(proposal) for proposal in proposals]
        self.ledger.add_plans((c.plan.key, text(c.plan)) for c in asked)
        body = [
            {"id": p.id, "point": p.point, "items": p.items, "plan": c.plan.key}
            for p, c in zip(proposals, asked, strict=True)
        ]
        self.ledger.append("ask", {"n": n, "proposals": body})

    def _tell(self, ready: Sequence[Candidate]) -> None:
        self.state.tell(ready)
        self._check_failures()
        self.report("told", {"search": self, "told": list(ready)})
        self.state.revise(self._may_ask())

    def _check_failures(self) -> None:
        told = [c for c in self.candidates.values() if c.failed or c.losses is not None]
        failed = [c for c in told if c.failed]
        if len(told) >= 10 and len(failed) > 0.8 * len(told):
            reasons = Counter(self.answers.failures[c.plan.key] for c in failed)
            raise errors.TooManyFailures(
                f"{len(failed)} of {len(told)} candidates failed; most often: "
                f"{reasons.most_common(1)[0][0]}. Put it right, then search in another folder (-o)"
            )


def _banks(problem: Problem) -> dict[str, Any]:
    return {
        name: {"bank": bank.name, "scorer": bank.scorer} for name, bank in problem.banks.items()
    }
