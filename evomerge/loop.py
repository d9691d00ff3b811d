"""The loop: ask, dispatch, record, tell. A run that is started again goes on where it was."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge import confirm, fidelity, forecast, plugins
from evomerge.answers import Answers, Place, text
from evomerge.budget import Clock
from evomerge.desk import Desk
from evomerge.files.ledger import Ledger
from evomerge.pace import Pace
from evomerge.plan import Plan
from evomerge.plugins import Observation, Proposal
from evomerge.recipe import Problem
from evomerge.session import facts, open_run
from evomerge.watch import Watch, interruptible, too_many
from evomerge.worker import Result

Report = Callable[[str, Mapping[str, Any]], None]


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

    def __init__(
        self,
        problem: Problem,
        folder: Path,
        report: Report,
        *,
        clock: Clock = time.time,
        allow_change: bool = False,
    ) -> None:
        self.problem = problem
        self.recipe = problem.recipe
        self.folder = folder
        self.report = report
        self.clock = clock
        self.allow_change = allow_change
        self.candidates: dict[int, Candidate] = {}
        self.outstanding: list[Candidate] = []

    def run(self) -> None:
        """Work until the budget is used and the front is confirmed.

        Raises Interrupted after a signal, RecipeError for a folder of another recipe, Unconfirmed
        where the time ends before the front is confirmed.
        """
        ledger = Ledger(self.folder, write=True, clock=self.clock)
        desk = None
        try:
            changed = open_run(ledger, self.problem, allow_change=self.allow_change)
            self.watch = watch = Watch.of(
                self.recipe, self.folder, ledger.seconds(), self.clock, self._note
            )
            ledger.add_session(facts(self.problem))
            self.answers = Answers(ledger, self.problem.setup)
            named = (self.recipe.executor.name, self.recipe.executor.options)
            pace = Pace(self.problem.setup, ledger.meta("pace"))
            self.desk = desk = Desk(
                self.answers, named, pace, between=watch.between, note=self._note
            )
            for note in [*changed, *self.problem.notes()]:
                self._note(note)
            with interruptible(watch.stop):
                self._work(ledger)
        finally:
            if desk is not None:
                desk.close()
            ledger.close()

    def _note(self, text: str) -> None:
        self.report("note", {"text": text})

    def _work(self, ledger: Ledger) -> None:
        self.ledger = ledger
        watch = self.watch
        confirm_by = watch.by = watch.deadline.at if watch.deadline.left > 0 else math.inf
        self.losses = confirm.sanity(self.problem, self.desk, self.report)
        ledger.set_meta("pace", self.desk.pace.medians())
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
        self.report(
            "forecast",
            forecast.times(self.problem, self.desk.pace, self.desk.workers, watch.deadline),
        )
        if not self._may_ask():
            confirm_by = math.inf  # a session that has no time to search may confirm
            if watch.deadline.is_set and not self.candidates:
                kept = f"{self._confirming():.0f}"
                self._note(f"no time for a candidate: the confirmation may take {kept} s")
        watch.by = math.inf
        self._loop()
        for line in plugins.notes(self.strategy):
            self._note(line)
        watch.by = confirm_by
        ledger.set_meta("pace", self.desk.pace.medians())
        shortlist = confirm.shortlist(self.problem, self.strategy, self.candidates.values())
        self.desk.answer(shortlist.values(), self._usual(), self._told_result)
        confirm.confirm(self.problem, self.desk, self.losses, shortlist, self.report)

    def _usual(self) -> list[Place]:
        return fidelity.wanted(self.recipe.fidelity, self.answers, None)

    def _told_result(self, result: Result) -> None:
        self.report("answered", {"result": result})

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
        many = 10**9 if budget.candidates is None else budget.candidates - len(self.candidates)
        deadline = self.watch.deadline
        if not deadline.is_set:
            return many
        each = self.desk.pace.of(self._usual())
        fit = self.desk.workers * deadline.room(each, self._confirming())
        return max(0, min(many, fit - len(self.outstanding)))

    def _confirming(self) -> float:
        """Seconds that are kept for confirming what is found."""
        return confirm.seconds(self.problem, self.desk.pace, self.desk.workers)

    def _is_over(self) -> bool:
        """Whether what is left of the time is what confirming takes."""
        deadline = self.watch.deadline
        return deadline.is_set and deadline.left < self._confirming()

    def _loop(self) -> None:
        while (self.outstanding and not self._is_over()) or self._may_ask():
            if self._may_ask() and not (self._barrier and self.outstanding):
                self._ask()
            ready = [c for c in self.outstanding if self._is_ready(c)]
            if ready and (not self._barrier or len(ready) == len(self.outstanding)):
                self._tell(ready)
                continue
            for candidate in self.outstanding:
                if not self._is_ready(candidate) and not self.desk.is_flying(candidate.plan.key):
                    self.desk.submit(candidate.plan, candidate.places)
            if not self.outstanding:
                self._note("the strategy has nothing more to propose")
                break
            result = self.desk.wait()
            if result is not None:
                self._told_result(result)
        self.desk.cancel()
        if self.outstanding:
            self._note(f"the time is over: {len(self.outstanding)} candidates were not answered")
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
        told = [c for c in self.candidates.values() if c.failed or c.losses is not None]
        failed = [c.plan.key if c.failed else None for c in told]
        too_many(failed, self.answers.failures, self.desk.traces)
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


def _observed(candidate: Candidate) -> dict[str, Any]:
    return {
        "id": candidate.id,
        "losses": candidate.losses,
        "errors": candidate.errors,
        "items": candidate.items,
    }


def _point(value: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if value is None else tuple(value)
