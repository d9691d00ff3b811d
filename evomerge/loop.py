"""The loop: ask, dispatch, record, tell. A run that is started again goes on where it was."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from evomerge import confirm, forecast, plugins, seeds
from evomerge.answers import Answers, Place, text
from evomerge.budget import Clock, steady
from evomerge.candidates import Candidate, Candidates
from evomerge.degenerate import Judge
from evomerge.desk import Desk
from evomerge.files import latest
from evomerge.files.ledger import Ledger
from evomerge.pace import Pace
from evomerge.recipe import Problem
from evomerge.session import facts, finish, finished, open_run, refuse_model, refuse_past
from evomerge.state import State
from evomerge.watch import Watch, interruptible, require_successes
from evomerge.worker import Result

Report = Callable[[str, Mapping[str, Any]], None]

MANY = 10**9
"""Proposals, where nothing limits them."""

REPEATED = 1000
"""Candidates that are all plans of before, after which no others are looked for."""


class Search:
    """One session of work on a run."""

    def __init__(
        self,
        problem: Problem,
        folder: Path,
        report: Report,
        *,
        clock: Clock | None = None,
        allow_change: bool = False,
    ) -> None:
        self.problem = problem
        self.recipe = problem.recipe
        self.folder = folder
        self.report = report
        self.clock, self._even = clock or time.time, clock or steady()
        self.allow_change = allow_change
        self._ready: set[int] = set()
        self._awaited: dict[str, list[Candidate]] = {}
        self._ended = False  # the strategy has nothing more to propose

    def run(self) -> None:
        """Work until the budget is used and the front is confirmed.

        Raises Interrupted after a signal, RecipeError for a folder of another recipe, Unconfirmed
        where the time ends before the front is confirmed.
        """
        given = seeds.found(self.problem, self.folder)  # refused before there is a folder
        refuse_model(self.folder)
        refuse_past(self.recipe.budget.until, self.folder, self.clock())
        with closing(Ledger(self.folder, write=True, clock=self._even)) as ledger:
            changed = open_run(ledger, self.problem, allow_change=self.allow_change)
            if given is not None:
                given.take(ledger)
                changed += given.notes()
            self.watch = watch = Watch.of(
                self.recipe, self.folder, ledger.seconds(), self.clock, self._even, self._note
            )
            ledger.add_session(facts(self.problem))
            self.answers = Answers(ledger, self.problem.setup)
            named = (self.recipe.executor.name, self.recipe.executor.options)
            pace = Pace(self.problem.setup, ledger.meta("pace"))
            self.desk = Desk(self.answers, named, pace, between=watch.between, note=self._note)
            for note in [*changed, *self.problem.notes()]:
                self._note(note)
            with closing(self.desk), interruptible(watch.stop):
                self._work(ledger)

    def _note(self, text: str) -> None:
        self.report("note", {"text": text})

    def _work(self, ledger: Ledger) -> None:
        self.ledger, watch = ledger, self.watch
        ends = watch.ends = watch.deadline.left > 0
        self.losses = confirm.freeze_anchors(self.problem, self.desk, self.report)
        self.desk.judge = Judge(self.answers, confirm.endpoints(self.problem))
        if (known := finished(ledger, self.problem)) is not None:
            return self.report("complete", {"candidates": known})
        ledger.set_meta("pace", self.desk.pace.medians())
        strategy = seeds.strategy(self.problem, ledger)
        self.state = State(self.problem, self.answers, self.losses, strategy, self.report)
        self.state.replay()
        require_successes(self.candidates, self.answers.failures, self.desk.traces)
        self._ended = not self.outstanding and self._waits()
        if self._is_complete():
            finish(ledger, self.problem, len(self.candidates))
            return self.report("complete", {"candidates": len(self.candidates)})
        self.report("stage", {"name": "search"})
        times = forecast.times(self.problem, self.desk.pace, self.desk.workers, watch.deadline)
        self.report("forecast", times)
        if not self._allowed():
            ends = False  # a session that has no time to search may confirm
            if watch.deadline.is_set and not self.candidates:
                kept = f"{self._confirming():.0f}"
                self._note(f"no time for a candidate: the confirmation may take {kept} s")
        watch.ends = False
        self._loop()
        for line in plugins.notes(strategy):
            self._note(line)
        watch.ends = ends
        ledger.set_meta("pace", self.desk.pace.medians())
        self._confirm(strategy)
        if self._is_complete():
            finish(ledger, self.problem, len(self.candidates))

    def _confirm(self, strategy: plugins.Strategy) -> None:
        shortlist = confirm.shortlist(
            self.problem, strategy, self._standing(), self.state.plan,
            self.losses.weights(self.recipe.prefer), self.ledger,
        )  # fmt: skip
        keys = {plan.key for plan in shortlist.values()}
        asked = {c.key for c in self.candidates if c.key in keys}
        others = [plan for plan in shortlist.values() if plan.key not in asked]
        self.desk.answer(others, self._usual(), self._told_result)
        confirm.confirm(self.problem, self.desk, self.losses, shortlist, self.report)

    def _standing(self) -> list[Candidate]:
        """All candidates; after a change of inputs, those that can still be built."""
        every = list(self.candidates)
        if self.ledger.last("changed") is None:
            return every
        kept = [c for c in every if confirm.standing(self.problem, self.state.plan(c))]
        if len(kept) < len(every):
            text = "are of inputs that have changed since, and are not confirmed"
            self._note(f"{len(every) - len(kept)} candidates {text}")
        return kept

    def _usual(self, items: int | None = None) -> list[Place]:
        """What most candidates are asked, or those of whom so many items are wanted."""
        first = self.answers.places("search", items or self.recipe.fidelity.items)
        return self.state.chosen.wanted(items) or first

    def _told_result(self, result: Result) -> None:
        self.report("answered", {"result": result})

    @property
    def candidates(self) -> Candidates:
        return self.state.candidates

    @property
    def outstanding(self) -> dict[int, Candidate]:
        return self.state.outstanding

    @property
    def _barrier(self) -> bool:
        return self.recipe.deterministic or self.desk.in_order

    def left(self) -> int:
        """How many more candidates the budget allows; a large number where it does not say."""
        return min(self._new(), self._room())

    def _new(self) -> int:
        most = 0 if self._ended or self._repeats else self.recipe.budget.candidates
        return MANY if most is None else max(0, most - len(self.candidates))

    @property
    def _repeats(self) -> bool:
        """Whether no number of candidates ends a search that finds no others."""
        return self.recipe.budget.candidates is None and self.candidates.repeat(REPEATED)

    def _room(self) -> int:
        """How many proposals items and time allow; the last may answer more than is left."""
        items, deadline = self.recipe.budget.items, self.watch.deadline
        if items is None and not deadline.is_set:
            return MANY
        fit = MANY if items is None else self._fitting(items - self.answers.searched)
        if deadline.is_set:
            room = deadline.room(self.desk.pace.of(self._usual()), self._confirming())
            fit = min(fit, self.desk.workers * room - len(self.outstanding))
        return max(0, fit)

    def _fitting(self, items: int) -> int:
        """How many proposals so many items are enough for, beside those that wait."""
        waiting = (self.answers.missing(c.key, c.places) for c in self.outstanding.values())
        items -= sum(map(self.answers.count, waiting))
        every = self.answers.count(self.answers.places("search"))
        whole = min(self.state.owed, math.ceil(items / every))
        each = self.answers.count(self._usual(self.state.least))
        return whole + max(0, math.ceil((items - whole * every) / each))

    def _allowed(self) -> int:
        """How many proposals the budget allows.

        Known candidates that are to answer more items come first and are not counted: those that
        came last would never be raced.
        """
        return min(self._new() + plugins.promoted(self.state.strategy), self._room())

    def _is_complete(self) -> bool:
        """Whether what was confirmed last is all that the budget allows.

        Where a session left candidates waiting, items or time were used up, and may not be now.
        """
        known = latest.known(self.ledger)
        if self.ledger.at("confirmed") <= known or self.left() > 0:
            return False
        if self.outstanding and not self._is_over():
            return False
        waited = (self.ledger.last("stopped") or {}).get("waiting", 0)
        return not (waited and self._allowed())

    def _waits(self) -> bool:
        """Whether the strategy, knowing all that it knows now, had nothing to propose; where none
        are outstanding it has ended."""
        asked = self.ledger.at("ask")
        return asked > self.ledger.at("tell") and not self.ledger.body(asked)["proposals"]

    def _confirming(self) -> float:
        """Seconds that are kept for confirming what is found."""
        incumbents = len(self.state.strategy.incumbents())
        return confirm.seconds(self.problem, self.desk.pace, self.desk.workers, incumbents)

    def _is_over(self) -> bool:
        """Whether what is left of the time is what confirming takes."""
        deadline = self.watch.deadline
        return deadline.is_set and deadline.left < self._confirming()

    def _loop(self) -> None:
        self.state.revise(self.left() > 0)
        while (self.outstanding and not self._is_over()) or self._allowed():
            if not (self._barrier and self.outstanding):
                self._ask()
            self._look_at(self.state.take_fresh())
            if self._ready and (not self._barrier or len(self._ready) == len(self.outstanding)):
                self._tell([c for id, c in self.outstanding.items() if id in self._ready])
                self.watch.between(self.desk)  # nobody waits for what is known
                continue
            if not self.outstanding:
                self._ended = True
                self._note("the strategy has nothing more to propose")
                break
            for result in self.desk.wait():
                self._told_result(result)
                self._look_at(self._awaited.pop(result.key, []))
        self.desk.cancel()
        if self._repeats:
            self._note(f"the last {REPEATED:,} candidates were all plans of before")
        if self.outstanding:
            self._note(f"the time is over: {len(self.outstanding)} candidates were not answered")
        stopped = {"candidates": len(self.candidates)}
        if waiting := plugins.promoted(self.state.strategy):
            stopped["waiting"] = waiting
        asked_since = self.ledger.at("ask") > self.ledger.at("stopped")
        if asked_since or self.ledger.last("stopped") != stopped:
            self.ledger.append("stopped", stopped)

    def _look_at(self, candidates: Iterable[Candidate]) -> None:
        """Note whose answers are all there; have those of the others asked for."""
        for candidate in candidates:
            key = candidate.key
            if candidate.id not in self.outstanding:
                continue
            if key in self.answers.failures or not self.answers.missing(key, candidate.places):
                self._ready.add(candidate.id)
                continue
            self._ready.discard(candidate.id)  # perhaps it is asked more than before
            self._awaited.setdefault(key, []).append(candidate)
            if not self.desk.is_flying(key):
                self.desk.submit(self.state.plan(candidate), candidate.places)

    def _ask(self) -> None:
        room = self.recipe.ask if self._barrier else 2 * self.desk.workers - len(self.outstanding)
        n = min(room, self._allowed())
        if n < 1 or self._waits():
            return
        proposals = self.state.strategy.ask(n)
        asked = [self.state.admit(proposal) for proposal in proposals]
        body = [
            {"id": p.id, "point": p.point, "items": p.items, "plan": c.key}
            | ({"whole": True} if p.items is not None and c.whole else {})
            for p, c in zip(proposals, asked, strict=True)
        ]
        with self.ledger.together():
            self.ledger.add_plans((c.key, text(self.state.plan(c))) for c in asked)
            event = self.ledger.append("ask", {"n": n, "proposals": body})
        self.candidates.recorded(asked, event)

    def _tell(self, ready: Sequence[Candidate]) -> None:
        self._ready.clear()
        self.state.tell(ready)
        require_successes(self.candidates, self.answers.failures, self.desk.traces)
        self.report("told", {"search": self, "told": list(ready)})
        self.state.revise(self.left() > 0)
