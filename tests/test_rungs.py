"""What a strategy asks of candidates, what they have answered, and who is compared by that."""

import pytest

import evomerge
from evomerge import status
from evomerge.answers import Answers
from evomerge.blocks import block
from evomerge.candidates import best_of_front
from evomerge.files.ledger import Answer, Ledger
from evomerge.objectives import Anchor, Losses
from evomerge.plugins import Proposal
from evomerge.recipe import resolve
from evomerge.recorded import comparable
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
        losses = Losses(dict.fromkeys(("one", "two"), Anchor(1.0, 1.0)), self.problem.signals)
        said = (self.answers, losses, Listed([]), lambda *event: None)
        self.state = State(self.problem, *said)
        for key in self.state.ends:
            self.add(key, self.answers.places("search"), {"one": 0.5, "two": 0.5})
        self.state.revise(more=False)

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
            self.add(candidate.key, candidate.places, by_objective)
        self.state.tell([self.state.candidates[id] for id in scores])

    def add(self, key, places, by_objective):
        given = [
            Answer(name, item.id, split, by_objective[name], {})
            for name, split, number in self.answers.missing(key, places)
            for item in block(self.problem.banks[name], split, number, 10)
        ]
        self.answers.add([Result(key, tuple(given))])

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


CALIBRATED = {"name": "first", "items": 10, "estimator": "stratified", "calibration": 2}


def test_who_answers_every_item_can_be_confirmed_whatever_others_are_asked(asked):
    """What the strategy has asked of it is what a budget of items goes by, all the same."""
    search = asked(CALIBRATED)
    search.ask(dict.fromkeys(range(4), 10))
    search.answer({id: {"one": 0.9 - id / 10, "two": id / 10} for id in range(4)})
    search.ask({2: 30})
    search.answer({2: {"one": 0.7, "two": 0.2}})
    assert search.best() == [0, 1, 2] and search.state.least == 10


def test_a_ledger_says_who_of_a_race_answers_every_item(family, tmp_path):
    """So that what is shown of a run compares whom the search compares; a session that goes on
    repeats it."""
    race = {"name": "racing", "rungs": [10, 20], "inner": {"name": "sobol"}}
    recipe = families.recipe(family, fidelity=CALIBRATED, strategy=race, batch=10)
    notes = []
    for candidates in (3, 6):
        evomerge.search(
            recipe, tmp_path, budget={"candidates": candidates},
            report=lambda event, facts: notes.append(facts.get("text", "")),
        )  # fmt: skip
    ledger = Ledger(tmp_path)
    rows = [row for event in ledger.events("ask") for row in event.body["proposals"]]
    assert {row["id"] for row in rows if row.get("whole")} == {0, 1}
    assert {row["items"] for row in rows} == {10, 20}
    told = {row["id"]: event.number for event in ledger.events("tell") for row in event.body}
    among = comparable(told, ledger.wanted())
    assert {0, 1} < among == {0, 1} | {row["id"] for row in rows if row["items"] == 20}
    front = {row["point"] for row in status.read(tmp_path)["front"]}
    assert {point.label for point in evomerge.Run(tmp_path).front} <= front
    assert not any("otherwise than recorded" in text for text in notes)
