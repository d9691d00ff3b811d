"""Runs that begin with what another run found."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

import evomerge
from evomerge import errors, plugins, preview, seeds
from evomerge.files.ledger import Ledger
from evomerge.plugins import Observation
from evomerge.recipe import resolve
from tests import families, ledgers

MORE = {"strategy": "sobol", "budget": {"candidates": 9}}


@pytest.fixture(scope="module")
def old(family, tmp_path_factory):
    return evomerge.search(families.recipe(family), tmp_path_factory.mktemp("old") / "run")


def seeded(family, old, **changes):
    return families.recipe(family, **{"seeds": f"run:{old.folder}", **MORE, **changes})


@pytest.mark.slow
def test_seeds_may_be_elsewhere_afterwards(family, old, tmp_path):
    """They are in the ledger; another run is refused all the same, and so is none."""
    shutil.copytree(old.folder, tmp_path / "coarse")
    recipe = seeded(family, old, seeds=f"run:{tmp_path / 'coarse'}")
    run = evomerge.search(recipe, tmp_path / "run")
    done = ledgers.content(run.folder)
    for other in (f"run:{old.folder}", None):
        with pytest.raises(errors.RecipeError, match=r"seeds: the run has run:.*coarse, now it"):
            evomerge.search({**recipe, "seeds": other}, run.folder)
    (tmp_path / "coarse").rename(tmp_path / "moved")
    evomerge.search({**recipe, "seeds": f"run:{tmp_path / 'moved'}"}, run.folder)
    assert ledgers.content(run.folder) == done


def taken(run):
    ledger = Ledger(run.folder)
    found = ledger.last("seeds")
    ledger.close()
    return found


def hosts(run):
    """Answers (plan, item) that were given by another run, and here."""
    with closing(sqlite3.connect(run.folder / "ledger.sqlite")) as db:
        rows = db.execute("SELECT plan, item, host, split FROM answers").fetchall()
    theirs = {(plan, item): split for plan, item, host, split in rows if host.startswith("run:")}
    mine = {(plan, item): split for plan, item, host, split in rows if not host.startswith("run:")}
    assert len(theirs) + len(mine) == len(rows)
    return theirs, mine


@pytest.fixture(scope="module")
def new(family, old, tmp_path_factory):
    return evomerge.search(seeded(family, old), tmp_path_factory.mktemp("new") / "run")


def test_what_another_run_confirmed_comes_first(old, new):
    event = taken(new)
    expected = [p.key for p in old.front if p.chosen] + [p.key for p in old.front]
    asked = [new.asked()[f"c{id}"] for id in range(len(event["points"]))]
    assert asked[0] == old.chosen.key and set(expected) <= set(asked)
    assert len(asked) <= 4 and len(asked) == len(set(asked))  # as many as are confirmed
    assert {old.asked()[label] for label in event["points"]} == set(asked)
    assert len(new.asked()) == 9 and event["strays"] == {}


def test_answers_to_the_same_plan_and_item_are_not_asked_again(old, new):
    theirs, mine = hosts(new)
    assert {plan for plan, _ in theirs} >= {p.key for p in [*old.front, *old.baselines]}
    assert taken(new)["answers"]["search"] == sum(s == "search" for s in theirs.values())
    again = {new.asked()[f"c{id}"] for id in range(len(taken(new)["points"]))}
    assert not again & {plan for plan, _ in mine}
    assert not {p.key for p in old.baselines} & {plan for plan, _ in mine}
    shared = {p.key: p for p in [*old.front, *old.baselines]}
    for point in [*new.front, *new.baselines]:
        if point.key in shared:
            assert point.means("test") == shared[point.key].means("test")
    assert new.looks == old.looks + 1


def test_answers_of_another_run_are_free_in_a_budget_of_items(family, old, tmp_path):
    recipe = seeded(family, old, budget={"items": 160}, ask=1)
    run = evomerge.search(recipe, tmp_path / "run")
    theirs, mine = hosts(run)
    assert sum(split == "search" for split in mine.values()) == 160
    known = [key for key in run.asked().values() if key in {plan for plan, _ in theirs}]
    assert len(run.asked()) == len(known) + 4  # two banks of 20 items each
    assert len(known) == len(taken(run)["points"])


def test_answers_from_before_a_library_was_noted_are_copied(family, old, tmp_path):
    """Those of a run that noted another one are not."""
    banks = []
    for n, change in enumerate(("json_remove(body, '$.versions.scipy')",
                                "json_set(body, '$.versions.scipy', '1.0')")):  # fmt: skip
        folder = shutil.copytree(old.folder, tmp_path / str(n))
        with closing(sqlite3.connect(folder / "ledger.sqlite")) as db, db:
            db.execute(f"UPDATE sessions SET body={change}")
        found = seeds.found(resolve(seeded(family, old, seeds=f"run:{folder}")))
        banks.append(dict(found.banks))
    assert banks == [{"one": ["one"], "two": ["two"]}, {}]


@pytest.mark.slow
def test_the_strategy_does_not_repeat_what_the_other_run_began_with(family, old, new, tmp_path):
    """Although the recipes have one seed; nor does a third run repeat the second."""
    notes = []
    third = evomerge.search(
        seeded(family, new), tmp_path / "run",
        report=lambda event, facts: notes.append(facts.get("text", "")),
    )  # fmt: skip
    assert old.recipe["seed"] == new.recipe["seed"] == third.recipe["seed"]
    for run, before in ((new, [old]), (third, [old, new])):
        first = len(taken(run)["points"])
        asked = [run.asked()[f"c{id}"] for id in range(first, 9)]
        assert not set(asked) & {key for other in before for key in other.asked().values()}
    assert len({taken(new)["seed"], taken(third)["seed"], 3}) == 3
    said = f"seeds: {first} of 9 candidates had been answered by {new.folder} before"
    assert notes.count(said) == 1
    again = evomerge.search(seeded(family, new), tmp_path / "again")
    assert ledgers.content(again.folder) == ledgers.content(third.folder)


def test_a_run_from_before_seeds_had_a_seed_goes_on_with_that_of_its_recipe(family, old, tmp_path):
    recipe = seeded(family, old)
    run = evomerge.search(recipe, tmp_path / "run")
    with closing(sqlite3.connect(run.folder / "ledger.sqlite")) as db, db:
        db.execute("UPDATE events SET body=json_remove(body, '$.seed') WHERE kind='seeds'")
    with closing(Ledger(run.folder)) as ledger:
        problem = resolve(recipe)
        first = [tuple(point) for point in ledger.last("seeds")["points"].values()]
        strategy = seeds.strategy(problem, ledger)
        asked = strategy.ask(9)
        assert [p.point for p in asked] == first
        strategy.tell([Observation(p.id, p.point, (0.0, 0.0)) for p in asked])
        sobol = plugins.begin("sobol", {}, problem.space, ["one", "two"], seed=3, where="")
        assert [p.point for p in strategy.ask(3)] == [p.point for p in sobol.ask(3)]


def test_a_gene_that_is_held_off_its_grid_is_what_plans_say_of_it(family, tmp_path, monkeypatch):
    """A coarse run of the same recipe, found from the current folder as other inputs are."""
    space = {"blocks": 1, "genes": {"weight": [0, 1], "density": 0.3}}
    recipe = families.recipe(
        family, operator="ties", space=space, strategy="sobol", budget={"candidates": 2}
    )
    first = evomerge.search(recipe, tmp_path / "coarse")
    assert {s.genes["density"] for s in first.plan("c0").groups.values()} != {0.3}
    (tmp_path / "recipes").mkdir()
    path = tmp_path / "recipes" / "next.json"
    path.write_text(json.dumps({**recipe, "seeds": "run:coarse"}))
    monkeypatch.chdir(tmp_path)
    problem = resolve(path)
    assert problem.recipe.seeds == f"run:{first.folder.resolve()}"
    found = seeds.found(problem)
    assert found.points and not found.strays
    (tmp_path / "recipes" / "near").symlink_to(first.folder)
    path.write_text(json.dumps({**recipe, "seeds": "run:near"}))
    assert seeds.found(resolve(path)).points == found.points


def test_a_plan_says_what_would_be_taken(family, old, new, run, tmp_path):
    recipe = tmp_path / "next.json"
    recipe.write_text(json.dumps(seeded(family, old)))
    code, out, _ = run("plan", recipe, "--json")
    assert code == 0
    count = len(taken(new)["points"])
    assert any(f"{count} points of {old.folder} come first" in x for x in json.loads(out)["notes"])
    recipe.write_text(json.dumps(seeded(family, old, seed=4)))
    notes = json.loads(run("plan", recipe, "--json")[1])["notes"]  # a plan has its recipe's seed
    assert any("0 of them are the same plans here" in note for note in notes)


def test_the_strategy_knows_what_they_scored(family, old, tmp_path):
    """NSGA-II counts them in its first generation, and does not ask for them again."""
    strategy = {"name": "nsga2", "population": 6}
    run = evomerge.search(seeded(family, old, strategy=strategy), tmp_path / "run")
    keys = list(run.asked().values())
    assert len(keys) == len(set(keys)) == 9


@pytest.mark.nightly
@pytest.mark.parametrize("changes", [{}, {"strategy": {"name": "racing", "rungs": [10, 20]}}])
def test_killed_at_every_event_it_ends_as_one_left_alone(family, old, tmp_path, changes):
    recipe = seeded(family, old, budget={"candidates": 16}, batch=10, **changes)
    done = subprocess.run(
        [sys.executable, "-m", "tests.kill_at_events", str(tmp_path / "a"), str(tmp_path / "b")],
        input=repr(recipe), text=True, capture_output=True, timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ledgers.content(tmp_path / "a") == ledgers.content(tmp_path / "b")


@pytest.mark.slow
def test_a_run_goes_on_without_the_one_that_it_began_with(family, old, tmp_path):
    moved = evomerge.Run(shutil.copytree(old.folder, tmp_path / "old"))
    recipe = seeded(family, moved)
    whole = evomerge.search(recipe, tmp_path / "whole")

    def stop(event, facts):
        if event == "told":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evomerge.search(recipe, tmp_path / "halved", report=stop)
    shutil.rmtree(moved.folder)
    assert preview.describe(tmp_path / "halved" / "recipe.json", tmp_path / "halved")["notes"]
    halved = evomerge.search(tmp_path / "halved" / "recipe.json", tmp_path / "halved")
    assert ledgers.content(halved.folder) == ledgers.content(whole.folder)
    with pytest.raises(errors.RecipeError, match="seeds: the run has run:"):
        evomerge.search({**recipe, "seeds": None}, halved.folder)


@pytest.mark.slow
def test_a_coarse_run_is_refined(family, old, tmp_path):
    """Its plans are others, its values are those of the finer groups."""
    coarse = {"blocks": 1, "genes": {"weight": [0, 1.2]}}
    first = evomerge.search(families.recipe(family, space=coarse), tmp_path / "coarse")
    run = evomerge.search(seeded(family, first), tmp_path / "fine")
    for label, id in zip(taken(run)["points"], range(9), strict=False):
        before, after = first.plan(label), run.plan(f"c{id}")
        assert before.key != after.key
        assert after.groups["1"] == after.groups["2"] == before.groups["1"]
        assert after.groups["embedding"] == before.groups["embedding"]


def test_what_does_not_fit_is_said_and_the_rest_is_taken(family, old, new, tmp_path):
    plans = [old.plan(label) for label in taken(new)["points"]]
    weights = sorted(
        max(max(step.genes["weight"].values()) for step in plan.groups.values()) for plan in plans
    )
    assert weights[0] < weights[-1]
    high = (weights[0] + weights[-1]) / 2
    space = {"blocks": 2, "genes": {"weight": [0, high]}}
    notes = []
    run = evomerge.search(
        seeded(family, old, space=space), tmp_path / "run",
        report=lambda event, facts: notes.append(facts.get("text", "")),
    )  # fmt: skip
    strays = taken(run)["strays"]
    assert strays and taken(run)["points"]
    for labels, reason in strays.items():
        assert "is outside the range" in reason
        assert any(f"{labels} of {old.folder} left out: {reason}" in note for note in notes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"operator": "ties"}, "task_arithmetic 2, expected one of ties 2"),
        ({"space": {"blocks": 2, "genes": {"weight": [1.3, 1.4]}}}, "is outside the range"),
        ({"space": {"genes": {"weight@1": 0.3}}}, "would have to be .* and .* at once|is held"),
        ({"experts": "left"}, "expert 'right' is in one of the two runs alone"),
    ],
)
def test_a_run_of_which_nothing_fits_is_refused_before_there_is_a_folder(
    family, old, tmp_path, changes, says
):
    recipe = seeded(family, old, **changes)
    if "experts" in changes:
        recipe["experts"] = {"left": str(family / "left")}
    with pytest.raises(errors.RecipeError, match=f"none of its .* points fits .*{says}"):
        evomerge.search(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_no_run_is_refused(family, old, tmp_path):
    with pytest.raises(errors.InputError, match=r"seeds: .*nowhere: no run here"):
        evomerge.search(seeded(family, old, seeds=f"run:{tmp_path}/nowhere"), tmp_path / "run")
    with pytest.raises(errors.RecipeError, match="is this run's own folder"):
        evomerge.search(seeded(family, old, seeds=f"run:{tmp_path}/run"), tmp_path / "run")
    for wrong in (str(old.folder), "run:", ""):
        with pytest.raises(errors.RecipeError, match=r"seeds: expected run:FOLDER, got '"):
            resolve(seeded(family, old, seeds=wrong))


def test_operators_to_choose_from_take_the_plans_of_one(family, old, tmp_path):
    space = {"blocks": 2, "genes": {"task_arithmetic.weight": [0, 1.2]}}
    recipe = seeded(family, old, operator=["ties", "task_arithmetic"], space=space)
    run = evomerge.search(recipe, tmp_path / "run")
    first = len(taken(run)["points"])
    asked = [run.asked()[f"c{id}"] for id in range(first)]
    searched = {plan for (plan, _), split in hosts(run)[1].items() if split == "search"}
    assert asked[0] == old.chosen.key and not set(asked) & searched
