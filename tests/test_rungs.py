"""What a strategy asks of candidates, what they have answered, and who is compared by that."""

import pytest

from evomerge.answers import Answers
from evomerge.candidates import best_of_front
from evomerge.files.ledger import Answer, Ledger
from evomerge.objectives import Anchor, Losses
from evomerge.plugins import Proposal
from evomerge.recipe import resolve
from evomerge.relay import Listed
from evomerge.state import State
from evomerge.worker import Result
from tests import families


class Asked:
    """A search without models: what it asks and what is answered is said by a test."""

    def __init__(self, family, folder, fidelity):
        recipe = families.recipe(family, fidelity=fidelity, batch=10)
        self.problem = resolve(recipe)
        self.answers = Answers(Ledger(folder, write=True), self.problem.setup)
        self.begin()

    def begin(self):
        losses = Losses(dict.fromkeys(("one", "two"), Anchor(1.0, 1.0)), self.problem.signals)
        said = (self.answers, losses, Listed([]), lambda *event: None)
        self.state = State(self.problem, *said)

    def ask(self, items):
        """`items` of each candidate, by id."""
        genes = len(self.problem.space)
        proposals = [Proposal(id, ((id + 1) / 10,) * genes, items=n) for id, n in items.items()]
        asked = [self.state.admit(proposal) for proposal in proposals]
        body = [p.__dict__ | {"plan": c.key} for p, c in zip(proposals, asked, strict=True)]
        event = self.answers.ledger.append("ask", {"n": len(body), "proposals": body})
        self.state.candidates.recorded(asked, event)

    def answer(self, scores):
        """What is missing of each candidate, by id: a score on all items of an objective."""
        for id, by_objective in scores.items():
            candidate = self.state.candidates[id]
            given = [
                Answer(name, item.id, split, by_objective[name], {})
                for name, split, number in self.answers.missing(candidate.key, candidate.places)
                for item in self.answers._items((name, split, number))
            ]
            self.answers.add([Result(candidate.key, tuple(given))])
        self.state.tell([self.state.candidates[id] for id in scores])

    def best(self):
        told = [c for c in self.state.candidates if c.losses is not None]
        return [c.id for c in best_of_front(told, 4, [1, 1])]


@pytest.fixture
def asked(family, tmp_path):
    opened = []

    def begin(fidelity):
        opened.append(Asked(family, tmp_path / "run", fidelity))
        return opened[-1]

    yield begin
    for one in opened:
        one.answers.ledger.close()


def test_who_has_not_answered_what_it_is_asked_is_compared_by_what_it_has(asked):
    """As where the time ends in a race: the lucky one of a first rung does not stand alone."""
    search = asked("all")
    search.ask(dict.fromkeys(range(4), 10))
    search.answer({id: {"one": 0.5 + id / 10, "two": 0.5 + id / 10} for id in range(4)})
    search.ask({0: 30, 1: 30})
    assert search.best() == [3]
    search.answer({1: {"one": 0.6, "two": 0.6}})
    assert search.best() == [1]
    search.ask({2: 30})
    assert search.best() == [1]
