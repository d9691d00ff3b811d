"""Scores that a merge has to keep: in the search, at the end, and where nothing can keep them."""

import numpy as np
import pytest

import evomerge
from evomerge import confirm, errors
from evomerge.answers import Answers
from evomerge.constraints import Constraints
from evomerge.files.ledger import Answer, Ledger
from evomerge.maths.estimates import Estimate
from evomerge.plugins import FAILED_LOSS, REFERENCE_POINT
from evomerge.recipe import resolve
from evomerge.schema import Keep
from evomerge.worker import Result
from tests import families


def recipe(family, keep, **changes):
    """One objective; the other bank is what has to be kept."""
    bank = str(family / "two.jsonl")
    asked = {name: {"bank": bank, **one} for name, one in keep.items()}
    objectives = {"one": {"bank": str(family / "one.jsonl")}}
    return families.recipe(family, keep=asked, objectives=objectives, **changes)


@pytest.fixture
def answers(family, tmp_path):
    problem = resolve(recipe(family, {"two": {"within": 0.1, "of": "left"}}))
    ledger = Ledger(tmp_path, write=True)
    yield problem, Answers(ledger, problem.setup), confirm.endpoints(problem)
    ledger.close()


def give(answers, problem, key, scores):
    items = problem.banks["two"].split("validation")
    rows = [Answer("two", i.id, "validation", s, {}) for i, s in zip(items, scores, strict=True)]
    answers.add([Result(key, tuple(rows))])


def test_margins_are_paired_with_the_model_that_is_named(answers):
    problem, known, ends = answers
    n = len(problem.banks["two"].split("validation"))
    mine, theirs = np.arange(n) % 2, (np.arange(n) % 3 == 0) * 1
    give(known, problem, "mine", mine)
    give(known, problem, ends["expert left"].key, theirs)
    within = Constraints(problem.recipe.keep, known, ends).margins("mine", "validation")["two"]
    apart = mine - theirs
    assert within.mean == pytest.approx(apart.mean() + 0.1)
    assert within.low == pytest.approx(within.mean - 1.6448536 * apart.std() / n**0.5)
    least = {"two": Keep(bank="two", at_least=0.3, confidence=0.5)}
    margin = Constraints(least, known, ends).margins("mine", "validation")["two"]
    assert margin.mean == margin.low == pytest.approx(mine.mean() - 0.3)


def test_who_lacks_something_is_worse_than_any_who_does_not(answers):
    _, known, ends = answers
    keep = {"two": Keep(bank="two", at_least=0.5)}
    limits = Constraints(keep, known, ends)
    seen = [limits.losses((0.3, 0.9), [Estimate(s, 0.1)], None, []) for s in (0.6, 0.5, 0.4, 0.0)]
    assert seen[0] == seen[1] == (0.3, 0.9)
    assert REFERENCE_POINT < seen[2][0] == seen[2][1] < seen[3][0] < FAILED_LOSS


def test_a_search_keeps_what_it_has_to(family, tmp_path, run):
    wide = recipe(family, {"two": {"within": 0.9}})
    found = evomerge.search(wide, tmp_path / "wide")
    assert found.objectives == ["one"]
    (row,) = found.kept()
    assert row["wanted"] == "within 0.9 of base" and row["low"] >= 0
    assert 0 <= row["test"] <= 1
    assert "has to keep" in run("front", tmp_path / "wide")[1]
    again = evomerge.search(wide, tmp_path / "wide")
    assert again.confirmed == found.confirmed


def test_what_nothing_can_keep_ends_with_the_closest(family, tmp_path):
    impossible = recipe(family, {"two": {"at_least": 1.0}})
    with pytest.raises(errors.Unconfirmed, match=r"closest is [cm]\d+: 'two' .*at least 1"):
        evomerge.search(impossible, tmp_path)
    told = [losses for *_, losses in evomerge.Run(tmp_path).history()]
    assert told and all(REFERENCE_POINT < one[0] < FAILED_LOSS for one in told)


@pytest.mark.parametrize(
    ("keep", "says"),
    [
        ({"one": {"within": 0.1}}, "keep.one: is an objective too"),
        ({"two": {}}, "keep.two: expected either 'within' or 'at_least'"),
        ({"two": {"within": 0.1, "at_least": 0.2}}, "expected either"),
        ({"two": {"within": 0.1, "of": "lefd"}}, "Did you mean 'left'"),
        ({"two": {"within": 2}}, "keep.two.within"),
        ({"two": {"withn": 0.1}}, "withn"),
    ],
)
def test_wishes_that_are_none_are_refused(family, keep, says):
    with pytest.raises(errors.RecipeError, match=says):
        resolve(recipe(family, keep))
