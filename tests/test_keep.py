"""Scores that a merge has to keep: in the search, at the end, and where nothing can keep them."""

import re
from statistics import NormalDist

import numpy as np
import pytest
from scipy import stats

import evomerge
from evomerge import confirm, constraints, errors, schema, status
from evomerge.answers import Answers
from evomerge.constraints import Constraints, penalised
from evomerge.estimation import Estimation
from evomerge.files.ledger import Answer, Ledger
from evomerge.maths.estimates import Estimate
from evomerge.objectives import Anchor
from evomerge.plugins import FAILED_LOSS, REFERENCE_POINT
from evomerge.recipe import resolve
from evomerge.report import plots
from evomerge.schema import Keep
from evomerge.worker import Result
from tests import families, ledgers


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


def give(answers, problem, key, scores, split="validation"):
    items = problem.banks["two"].split(split)
    rows = [Answer("two", i.id, split, s, {}) for i, s in zip(items, scores, strict=True)]
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
    m = n + 2  # one item won and one lost, by halves
    error = np.sqrt(((apart**2).sum() + 1) / m - (apart.sum() / m) ** 2) / m**0.5
    assert within.low == pytest.approx(within.mean - 1.6448536 * error)
    least = {"two": Keep(bank="two", at_least=0.3, confidence=0.5)}
    margin = Constraints(least, known, ends).margins("mine", "validation")["two"]
    assert margin.mean == margin.low == pytest.approx(mine.mean() - 0.3)


@pytest.mark.parametrize("n", [20, 50, 100, 200])
@pytest.mark.parametrize("lost", [0.02, 0.03, 0.05])
def test_what_loses_as_much_as_is_allowed_is_seldom_confirmed(n, lost):
    """Two points worse, within two points: of all, at most one in twenty and the rounding of
    few items."""
    draw = np.random.default_rng(0)
    apart = draw.choice([-1, 0, 1], (4000, n), p=[lost, 1.02 - 2 * lost, lost - 0.02])
    kept = [constraints.margin_within(row, 0.02, 0.95).low >= 0 for row in apart]
    assert np.mean(kept) < 0.075


@pytest.mark.parametrize("n", [20, 25, 50, 100, 400])
@pytest.mark.parametrize("least", [0.5, 0.8, 0.9, 0.95, 0.98])
def test_what_scores_just_the_least_is_seldom_confirmed(n, least):
    """By the binomial distribution, at most one in twenty and the rounding of few items."""
    rows = np.tri(n + 1, n, -1)  # none right, one right, and so on
    kept = [constraints.margin_over(row, least, 0.95).low >= 0 for row in rows]
    assert (stats.binom.pmf(range(n + 1), n, least) * kept).sum() < 0.075


def test_who_can_not_be_compared_with_is_named(answers):
    problem, known, ends = answers
    known.add([Result(ends["expert left"].key, failed="function: no such file")])
    limits = Constraints(problem.recipe.keep, known, ends)
    with pytest.raises(errors.Unconfirmed, match="compared with left on validation: function: no"):
        limits.kept({}, "validation")


def test_who_lacks_something_is_worse_than_any_who_does_not(answers):
    _, known, ends = answers
    keep = {"two": Keep(bank="two", at_least=0.5)}
    limits = Constraints(keep, known, ends)
    scores = (0.6, 0.5, 0.4, 0.0)
    found = [limits.lacking("", [Estimate(s, 0.1)], None, []) for s in scores]
    assert [lacks for lacks, _ in found] == pytest.approx([0, 0, 0.1, 0.5])
    assert [keeps for _, keeps in found] == pytest.approx([0.8413, 0.5, 0.1587, 0], abs=1e-4)
    seen = [penalised((0.3, 0.9), lacks, REFERENCE_POINT) for lacks, _ in found]
    assert seen[0] == seen[1] == (0.3, 0.9)
    assert REFERENCE_POINT < seen[2][0] == seen[2][1] < seen[3][0] < FAILED_LOSS


def test_how_probable_it_is_that_something_is_lacking_goes_by_pairs(answers):
    """Of a model's answers and those of the one that it is compared with, to what it was asked."""
    problem, known, ends = answers
    n = len(problem.banks["two"].split("search"))
    mine, theirs = (np.arange(n) % 2, (np.arange(n) % 3 > 0) * 1)
    give(known, problem, "mine", mine, "search")
    give(known, problem, ends["expert left"].key, theirs, "search")
    estimation = Estimation(problem.recipe.fidelity, known, {"two": "score"}, [])
    places = known.places("search", 20)
    found = [estimation.one("mine", "two", places)[0]]
    limits = Constraints(problem.recipe.keep, known, ends)
    lacks, keeps = limits.lacking("mine", found, estimation, places)
    apart = (mine - theirs)[:20]
    assert lacks == pytest.approx(-0.1 - apart.mean())
    error = np.sqrt(((apart**2).sum() + 1) / 22 - (apart.sum() / 22) ** 2) / 22**0.5
    assert keeps == pytest.approx(1 - NormalDist(0, error).cdf(lacks))


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy",
    [
        {"name": "m2n2", "archive": 3, "ahead": 2},
        {"name": "racing", "inner": {"name": "sobol"}, "rungs": [10, 20]},
    ],
    ids=lambda strategy: strategy["name"],
)
def test_a_strategy_that_reads_answers_keeps_what_it_has_to(family, tmp_path, strategy):
    """It asks for others than without, and for the same again where it was interrupted."""
    least = {"two": {"at_least": 0.3, "confidence": 0.5}}
    changes = {"strategy": strategy, "fidelity": "all", "budget": {"candidates": 18}, "batch": 10}
    asked = {}
    for name, keep in (("free", {"two": {"at_least": 0.0}}), ("kept", least), ("cut", least)):
        folder, wanted = tmp_path / name, recipe(family, keep, **changes)
        if name == "cut":
            with pytest.raises(KeyboardInterrupt):
                evomerge.search(wanted, folder, report=interrupt)
        evomerge.search(wanted, folder)
        events = ledgers.content(folder)["events"]
        asks = [body["proposals"] for kind, body in events if kind == "ask"]
        asked[name] = [(row["id"], row["point"], row["items"]) for rows in asks for row in rows]
        told = [row for kind, body in events if kind == "tell" for row in body]
        assert any(row.get("lacks") for row in told) == (name != "free")
    assert asked["free"] != asked["kept"] == asked["cut"]
    assert ledgers.content(tmp_path / "kept") == ledgers.content(tmp_path / "cut")


def interrupt(event, facts):
    if event == "told" and len(facts["search"].candidates) > 8:
        raise KeyboardInterrupt


def test_a_search_keeps_what_it_has_to(family, tmp_path, run):
    wide = recipe(family, {"two": {"within": 0.9}})
    found = evomerge.search(wide, tmp_path / "wide")
    assert found.objectives == ["one"]
    (row,) = found.kept()
    assert row["wanted"] == "within 0.9 of base" and row["low"] >= 0
    assert 0 <= row["test"] <= 1
    assert "has to keep" in run("front", tmp_path / "wide")[1]
    assert "within 0.9 of base" in found.report().read_text()
    again = evomerge.search(wide, tmp_path / "wide")
    assert again.confirmed == found.confirmed


def test_the_plot_of_the_search_has_scores_whatever_is_lacking(family, tmp_path):
    least = {"two": {"at_least": 0.2, "confidence": 0.5}}
    changes = {"strategy": "sobol", "fidelity": "all", "budget": {"candidates": 8}}
    run = evomerge.search(recipe(family, least, **changes), tmp_path)
    rows = [row for body in Ledger(tmp_path).events("tell") for row in body.body]
    assert 0 < sum(row.get("lacks", 0) > 0 for row in rows) < len(rows)
    dots, best, _ = plots.progress(run).data
    answers = [Ledger(tmp_path).answers_of(run.asked()[f"c{row['id']}"]) for row in rows]
    means = [
        np.mean([a.score for a in of if (a.bank, a.split) == ("one", "search")]) for of in answers
    ]
    assert dots.y == pytest.approx(means)
    keep = [mean for mean, row in zip(means, rows, strict=True) if not row.get("lacks")]
    assert best.y[-1] == pytest.approx(max(keep))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["informative", "stratified"])
def test_what_has_to_be_kept_is_estimated_from_chosen_items_too(family, tmp_path, name):
    wanted = recipe(family, {"two": {"within": 0.9}}, fidelity={"name": name, "items": 8})
    found = evomerge.search(wanted, tmp_path)
    (row,) = found.kept()
    assert row["low"] >= 0 and found.objectives == ["one"]


@pytest.mark.slow
def test_what_is_lacking_is_told_again_only_where_it_has_changed(family, tmp_path):
    """Interrupted or not: a strategy that is told more goes another way."""
    keep = {"two": {"at_least": 0.3, "confidence": 0.5}}
    fidelity = {"name": "stratified", "items": 8}
    wanted = recipe(family, keep, fidelity=fidelity, strategy="tpe", deterministic=True)
    evomerge.search(wanted, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        evomerge.search(wanted, tmp_path / "cut", report=interrupt)
    evomerge.search(wanted, tmp_path / "cut")
    found = ledgers.content(tmp_path / "whole")
    assert any(
        row.get("lacks") for kind, body in found["events"] if kind == "tell" for row in body
    )
    assert ledgers.content(tmp_path / "cut") == found


def test_what_nothing_can_keep_ends_with_the_closest(family, tmp_path):
    impossible = recipe(family, {"two": {"at_least": 1.0}})
    says = r"none of 4 that .*closest is [cm]\d+: 'two' .*at least 1"
    with pytest.raises(errors.Unconfirmed, match=says):
        evomerge.search(impossible, tmp_path)
    told = [losses for *_, losses in evomerge.Run(tmp_path).history()]
    assert told and all(REFERENCE_POINT < one[0] < FAILED_LOSS for one in told)
    # people see the scores themselves, and what they lack
    rows = status.read(tmp_path)["front"]
    assert all(row[schema.LACKING] for row in rows)
    assert all(0.05 < row["one"] < 0.7 for row in rows)
    # whoever looks later is told why, as is who asks again
    assert re.match(f"ended: {says}", status.read(tmp_path)["state"])
    events = ledgers.content(tmp_path)["events"]
    with pytest.raises(errors.Unconfirmed, match=says):
        evomerge.search(impossible, tmp_path)
    with pytest.raises(errors.Unconfirmed, match=says):
        assert evomerge.Run(tmp_path).front
    assert ledgers.content(tmp_path)["events"] == events


@pytest.mark.slow
def test_who_lacks_something_is_worse_than_the_worst_expert(family, tmp_path, run):
    """Experts are many units below the base in how they agree with it."""
    near = tmp_path / "near.yaml"
    run("bank", "cache", family / "one.jsonl", "--expert", family / "base", "-o", near)
    near.write_text(near.read_text().replace("name: kl_to", "name: kl_to, measure: agreement"))
    wanted = recipe(family, {"two": {"at_least": 1.0}})
    wanted["objectives"] = {"near": str(near)}
    with pytest.raises(errors.Unconfirmed):
        evomerge.search(wanted, tmp_path / "run")
    scale = Anchor(**Ledger(tmp_path / "run").last("anchors")["near"])
    ends = [evomerge.evaluate(family / n, [near], split="search") for n in ("left", "right")]
    worst = max(scale.loss(end["near"].mean) for end in ends)
    assert worst > 2 * REFERENCE_POINT
    told = [losses for *_, losses in evomerge.Run(tmp_path / "run").history()]
    assert told and all(one[0] > worst for one in told)


@pytest.mark.parametrize(
    ("keep", "says"),
    [
        ({"one": {"within": 0.1}}, "keep.one: is an objective too"),
        ({"two": {}}, "keep.two: expected either 'within' or 'at_least'"),
        ({"two": {"at_least": 0.2, "of": "left"}}, "keep: 'two': 'of' goes with 'within' alone"),
        ({"two": {"within": 0.1, "at_least": 0.2}}, "expected either"),
        ({"two": {"within": 0.1, "of": "lefd"}}, "Did you mean 'left'"),
        ({"two": {"within": 2}}, "keep.two.within"),
        ({"two": {"withn": 0.1}}, "withn"),
    ],
)
def test_wishes_that_are_none_are_refused(family, keep, says):
    with pytest.raises(errors.RecipeError, match=says):
        resolve(recipe(family, keep))
