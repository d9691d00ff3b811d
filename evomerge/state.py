"""What a search knows: its candidates, the items they are asked, how their answers are read.

It changes by events of the ledger alone, so that replaying them leads to where they were made.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from evomerge import confirm, plugins
from evomerge.answers import Answers, Place
from evomerge.candidates import Candidate, Candidates, best_of_front, point
from evomerge.constraints import Constraints, penalised
from evomerge.estimation import Estimation, fell_back
from evomerge.fidelity import Chosen
from evomerge.maths import pareto
from evomerge.objectives import Losses
from evomerge.plan import Plan
from evomerge.plugins import REFERENCE_POINT, Observation, Proposal
from evomerge.recipe import Problem

Report = Callable[[str, Mapping[str, Any]], None]

GROWTH = 1.5
"""Refits are so much rarer the longer a search is: all of them together cost a few of the last."""

TURNS = 1.01
"""So much rarer items rotate: to choose them looks at all candidates."""


class State:
    """Candidates; of those outstanding alone plans are kept, all others are read from the
    ledger."""

    def __init__(
        self, problem: Problem, answers: Answers, losses: Losses, strategy: plugins.Strategy,
        report: Report,
    ) -> None:  # fmt: skip
        self.problem, self.answers, self.losses = problem, answers, losses
        self.strategy, self.report = strategy, report
        self.fidelity = problem.recipe.fidelity
        self.ledger = answers.ledger
        self.where = str(self.ledger.folder)
        self.candidates = Candidates(self.ledger, len(problem.objectives))
        self._plans: dict[int, Plan] = {}
        self._fresh: list[Candidate] = []
        ends = confirm.endpoints(problem)
        self.ends = [plan.key for plan in ends.values()]
        signals = problem.signals | dict.fromkeys(problem.recipe.keep, "score")
        self.estimation = Estimation(self.fidelity, answers, signals, self.ends)
        self.constraints = Constraints(problem.recipe.keep, answers, ends)
        self.chosen = Chosen(self.fidelity, answers, problem.recipe.seed)
        self._fitted: int | None = None
        self._drawn: int | None = None
        self._admitted = 0  # since the last fit
        self.least: int | None = None  # items that the strategy has asked for, where it said

    @property
    def outstanding(self) -> dict[int, Candidate]:
        return self.candidates.outstanding

    @property
    def owed(self) -> int:
        """How many of the candidates that come next answer every item."""
        wanted = self.fidelity.fresh if self._fitted else self.fidelity.whole
        return max(0, wanted - self._admitted)

    # Proposals and observations

    def admit(self, proposal: Proposal, key: str | None = None) -> Candidate:
        """Make a proposal an outstanding candidate; `key`: the plan that the ledger has for it."""
        known = self.candidates.get(proposal.id)
        if known is not None:  # asked again: it stays the plan that it was
            key = known.key
        plan = None if proposal.point is None else self.problem.plan(proposal.point)
        if key is not None and (plan is None or plan.key != key):  # perhaps inputs have changed
            plan = Plan.parse(self.ledger.plan(key), "ledger")
        elif plan is None:
            plan = Plan.parse(proposal.plan, "strategy")
        if known is None:
            known = Candidate(proposal.id, proposal.point, plan.key, [], whole=self.owed > 0)
            self.candidates.add(known)
            self._admitted += 1
        known.asked = None if known.whole else proposal.items
        self.least = min(filter(None, (self.least, proposal.items)), default=None)
        known.places = self._wanted(known)
        self._plans[known.id] = plan
        self._await(known)
        return known

    def _await(self, candidate: Candidate) -> None:
        self.outstanding[candidate.id] = candidate
        self._fresh.append(candidate)

    def take_fresh(self) -> list[Candidate]:
        """Those that have become outstanding since they were taken last."""
        taken, self._fresh = self._fresh, []
        return taken

    def plan(self, candidate: Candidate) -> Plan:
        known = self._plans.get(candidate.id)
        return Plan.parse(self.ledger.plan(candidate.key), "ledger") if known is None else known

    def _wanted(self, candidate: Candidate) -> list[Place]:
        if candidate.whole:
            return self.answers.places("search")
        return self.chosen.wanted(candidate.asked)

    def tell(self, ready: Sequence[Candidate]) -> None:
        """Record what is known of candidates who have answered, then tell the strategy."""
        for candidate in ready:
            if self.answers.failed(candidate.key, candidate.places):
                candidate.fail()
            else:
                self._estimate(candidate)
        body = [candidate.observed() for candidate in ready]
        self.ledger.append("tell", body)
        self._pass_on(body)

    def _estimate(self, candidate: Candidate) -> None:
        found, items = self.estimation.of(candidate.key, candidate.places)
        scores, kept = found[: len(self.losses.anchors)], found[len(self.losses.anchors) :]
        losses, candidate.errors = self.losses.of(scores)
        candidate.lacks, candidate.keeps = self.constraints.lacking(
            candidate.key, kept, self.estimation, candidate.places
        )
        candidate.losses, candidate.seen = losses, None
        if candidate.lacks > 0:
            candidate.losses = penalised(losses, candidate.lacks, self._worst)
            candidate.seen = losses
        candidate.items = items

    @functools.cached_property
    def _worst(self) -> float:
        """The largest loss that base and experts have, or the reference point."""
        places = self.answers.places("search")
        seen = [self.losses.seen(self.answers, key, places) for key in self.ends]
        return max(REFERENCE_POINT, *(max(self.losses.of_scores(s)) for s in seen))

    def _pass_on(self, body: Sequence[Mapping[str, Any]]) -> None:
        """Give the strategy what a tell event holds."""
        named = self.problem.recipe.strategy
        needs = plugins.strategy_needs(named.name, named.options)
        observations = []
        for row in body:
            candidate = self.candidates[row["id"]]
            at = self.candidates.point(candidate)
            candidate.failed = row["losses"] is None
            candidate.losses = None if candidate.failed else tuple(row["losses"])
            candidate.errors, candidate.items = tuple(row["errors"]), row["items"]
            candidate.lacks, candidate.keeps = row.get("lacks", 0.0), row.get("keeps", 1.0)
            candidate.seen = tuple(row["seen"]) if "seen" in row else None
            known = (candidate.losses, candidate.errors, candidate.items)
            answers = self._answers_of(candidate) if "answers" in needs else None
            kept = (candidate.lacks, candidate.keeps)
            observations.append(Observation(candidate.id, at, *known, answers, *kept))
            self.candidates.settle(candidate)
            self._plans.pop(candidate.id, None)
        self.strategy.tell(observations)

    def _answers_of(self, candidate: Candidate) -> dict[str, dict[str, float]] | None:
        if candidate.failed:
            return None
        key, places = candidate.key, candidate.places
        return {name: self.answers.by_item(key, name, places) for name in self.problem.objectives}

    # Estimates and items, as answers come in

    def revise(self, more: bool) -> None:
        """Refit, tell again and choose items, as far as that is due; each is an event.

        Items only where `more` candidates will be asked: elites answer what is new.
        """
        if self._fit_is_due():
            keys = [c.key for c in self._known() if c.id not in self.outstanding]
            views = self.estimation.refitted(keys)
            body = {"told": self.candidates.told, "banks": views}
            with self.ledger.together():  # a resumed search tells nobody a second time
                self.ledger.append("calibrated", body)
                self._use_views(body)
                self._tell_again()
            self._say(views)
        if more and self._items_are_due():
            share = self.fidelity.rotates if self._drawn else None
            told = self.candidates.told if self._fitted else 0
            chosen = self.chosen.choose(told, self.estimation, self._front(), share)
            self.chosen.use(chosen["blocks"], self.where)
            again = [c.id for c in self._elite() if self._lacks(c)]
            body = {**chosen, "again": again}
            self.ledger.append("items", body)
            self._use_items(body)

    def _known(self) -> Iterator[Candidate]:
        return (c for c in self.candidates.by_id() if c.losses is not None)

    def _fit_is_due(self) -> bool:
        if self.fidelity.reads == "mean" and self.fidelity.name != "stratified":
            return False
        if self._fitted is None:
            return True
        if self._fitted == 0 and self.fidelity.whole:
            return sum(c.told for c in self.candidates if c.whole) >= self.fidelity.whole
        if not self.fidelity.refits:
            return False
        return self.candidates.told >= max(
            self._fitted + self.fidelity.every, GROWTH * self._fitted
        )

    def _items_are_due(self) -> bool:
        """At first, after the calibration, and then again and again where items rotate: oftener
        than refits, or a long search would find what is good at the same few items."""
        if not self.fidelity.draws:
            return False
        if not self._drawn:
            return self._drawn is None or bool(self._fitted)
        due = max(self._drawn + self.fidelity.every, TURNS * self._drawn)
        return self.fidelity.rotates > 0 and self.candidates.told >= due

    def _front(self) -> list[str]:
        """Plans of the nondominated among base, experts and candidates."""
        places, objectives = self.answers.places("search"), len(self.losses.anchors)
        found = [self.estimation.of(key, places)[0][:objectives] for key in self.ends]
        losses = [self.losses.of_scores([e.score for e in row]) for row in found]
        known = list(self._known())
        losses += [c.losses for c in known if c.losses is not None]
        keys = [*self.ends, *(c.key for c in known)]
        kept = pareto.nondominated(np.array(losses))
        return list(dict.fromkeys(k for k, good in zip(keys, kept, strict=True) if good))

    def _elite(self) -> list[Candidate]:
        """Who would be confirmed now, of the candidates: they answer newly chosen items too."""
        known = [c for c in self._known() if c.id not in self.outstanding]
        recipe = self.problem.recipe
        n = recipe.shortlist if recipe.fidelity.elites is None else recipe.fidelity.elites
        return best_of_front(known, n, self.losses.weights(recipe.prefer)) if known and n else []

    def _lacks(self, candidate: Candidate) -> bool:
        return bool(self.answers.missing(candidate.key, self._wanted(candidate)))

    def _tell_again(self) -> None:
        """Tell anew whose estimates another fit has changed."""
        changed = []
        for candidate in self._known():
            if candidate.id not in self.outstanding:
                before = candidate.observed()
                self._estimate(candidate)
                changed += [candidate] if candidate.observed() != before else []
        if changed:
            body = [candidate.observed() for candidate in changed]
            self.ledger.append("tell", body)
            self._pass_on(body)

    def _use_views(self, body: Mapping[str, Any]) -> None:
        self.estimation.use(body["banks"], self.where)
        self._fitted, self._admitted = body["told"], 0

    def _use_items(self, body: Mapping[str, Any]) -> None:
        self.chosen.use(body["blocks"], self.where)
        self._drawn = body["told"]
        for id in body["again"]:
            candidate = self.candidates[id]
            candidate.places = self._wanted(candidate)
            self._await(candidate)

    def _say(self, views: Mapping[str, Mapping[str, Any]]) -> None:
        """Why a bank is not read as the recipe wants, once the calibration is complete."""
        if self.candidates.told >= self.fidelity.whole:
            for text in fell_back(views):
                self.report("note", {"text": text})

    # An earlier session

    def replay(self) -> None:
        """Bring the strategy to where the ledger ends."""
        diverged = 0
        use: dict[str, Callable[[Any], None]] = {
            "tell": self._pass_on, "calibrated": self._use_views, "items": self._use_items
        }  # fmt: skip
        for event in self.ledger.events("ask", *use):
            if event.kind == "ask":
                diverged += self._asked(event.number, event.body)
            else:
                use[event.kind](event.body)
        if diverged:
            text = f"{diverged} asks came out otherwise than recorded; the record is used"
            self.report("note", {"text": text})

    def _asked(self, number: int, body: Mapping[str, Any]) -> bool:
        """Repeat an ask; whether it came out otherwise than recorded."""
        again = self.strategy.ask(body["n"])
        recorded = body["proposals"]
        for row in recorded:
            proposal = Proposal(row["id"], point(row["point"]), items=row["items"])
            self.candidates.recorded([self.admit(proposal, row["plan"])], number)
        rows = [(row["id"], point(row["point"])) for row in recorded]
        return [(p.id, p.point) for p in again] != rows
