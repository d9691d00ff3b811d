"""Which items a search asks, how it reads the answers, and that a resume repeats both."""

import html
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

import evomerge
from evomerge import errors
from evomerge.answers import Answers
from evomerge.confirm import endpoints
from evomerge.estimation import Estimation
from evomerge.fidelity import Chosen, _informative
from evomerge.files.ledger import Answer, Ledger
from evomerge.maths import estimates, irt
from evomerge.maths.irt import Items
from evomerge.recipe import resolve
from evomerge.schema import Fidelity
from evomerge.worker import Result
from tests import command, families, ledgers

INFORMATIVE = {"name": "informative", "items": 8, "every": 6, "random": 0.25, "rotate": 0.5}


def soft(family, **changes):
    """A recipe whose search sees probabilities."""
    objectives = {
        name: {"bank": str(family / f"{name}.jsonl"), "signal": "probability"}
        for name in ("one", "two")
    }
    return families.recipe(family, objectives=objectives, **changes)


class Stopped(Exception):
    pass


@pytest.mark.slow
def test_an_interrupted_search_ends_as_one_left_alone(family, tmp_path):
    """Stopped in the calibration, and where elites answer new items; refits, choices of items and
    candidates told again are repeated to the last digit."""
    recipe = soft(family, fidelity=INFORMATIVE, budget={"candidates": 13})
    seen = []

    def stop_at(numbers):
        def report(event, facts):
            seen.append(event)
            if event == "answered" and seen.count("answered") in numbers:
                raise Stopped

        return report

    evomerge.search(recipe, tmp_path / "whole", report=stop_at([]))
    seen.clear()
    for last in (7, 12, 16):
        with pytest.raises(Stopped):
            evomerge.search(recipe, tmp_path / "stopped", report=stop_at([last]))
    evomerge.search(recipe, tmp_path / "stopped")
    whole = ledgers.content(tmp_path / "whole")
    assert ledgers.content(tmp_path / "stopped") == whole
    check_items(whole["events"])
    assert [body["again"] for kind, body in whole["events"] if kind == "items"][2]


@pytest.mark.slow
def test_an_extended_search_chooses_as_the_longer_one(family, tmp_path):
    """The first ends where a fit is due, and items are chosen once there are more to ask."""
    recipe = soft(family, fidelity=INFORMATIVE, strategy="sobol")
    for name, budgets in (("grown", (6, 9)), ("whole", (9,))):
        for candidates in budgets:
            evomerge.search(recipe, tmp_path / name, budget={"candidates": candidates})
    kinds = ("calibrated", "items", "ask", "tell")
    grown, whole = (
        [event for event in ledgers.content(tmp_path / name)["events"] if event[0] in kinds]
        for name in ("grown", "whole")
    )
    assert grown == whole and sum(kind == "items" for kind, _ in whole) == 2


@pytest.mark.nightly
def test_a_kill_after_any_event_changes_nothing(family, tmp_path):
    recipe = soft(family, fidelity=INFORMATIVE, budget={"candidates": 15})
    done = subprocess.run(
        [sys.executable, "-m", "tests.kill_at_events", str(tmp_path / "killed"),
         str(tmp_path / "whole")],
        input=repr(recipe), text=True, capture_output=True, timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    killed, whole = (ledgers.content(tmp_path / name) for name in ("killed", "whole"))
    assert killed == whole
    kinds = [kind for kind, _ in whole["events"]]
    assert kinds.count("calibrated") == 3 and kinds.count("items") == 3
    told = [row["id"] for kind, body in whole["events"] if kind == "tell" for row in body]
    assert set(told) == set(range(15)) and len(told) > 15
    check_items(whole["events"])


def check_items(events):
    """Blocks of distinct items, as many as asked for; at most half of them replaced."""
    chosen = [body for kind, body in events if kind == "items"]
    for name in ("one", "two"):
        sets = [[id for block in body["blocks"][name] for id in block] for body in chosen]
        assert all(len(ids) == len(set(ids)) == 8 for ids in sets)
        assert len(set(sets[1]) - set(sets[2])) <= 4


@pytest.fixture
def known(family, tmp_path):
    """Answers of ten plans by 1PL to both banks, as a run would hold them."""
    problem = resolve(soft(family, fidelity=INFORMATIVE, batch=10))
    answers = Answers(Ledger(tmp_path / "run", write=True), problem.setup)
    rng = np.random.default_rng(0)
    ends = [plan.key for plan in endpoints(problem).values()]
    keys = [*ends, *(f"{i:064}" for i in range(7))]
    for objective, bank in problem.banks.items():
        items, difficulty = bank.split("search"), np.linspace(-2, 2, 30)
        for key, ability in zip(keys, rng.normal(size=10), strict=True):
            noise = rng.normal(size=30, scale=0.2)
            p = 1 / (1 + np.exp(difficulty - ability + noise))
            given = tuple(
                Answer(objective, item.id, "search", float(x > 0.5), {"probability": float(x)})
                for item, x in zip(items, p, strict=True)
            )
            answers.add([Result(key, given)])
    yield answers, problem, ends, keys
    answers.ledger.close()


def estimated(known, **fidelity):
    answers, problem, ends, keys = known
    wanted = Fidelity(**fidelity)
    estimation = Estimation(wanted, answers, problem.signals, ends)
    estimation.use(estimation.refitted(keys), "here")
    return estimation, Chosen(wanted, answers, 0)


def test_informative_items_have_the_most_information_and_a_share_is_drawn(known):
    keys = known[3]
    estimation, chosen = estimated(known, name="informative", items=10, random=0.3)
    view = estimation.views["one"]
    assert view.trusted and view.whole == 10 and view.estimator == "stratified"
    asked_for = estimated(known, name="informative", items=10, estimator="p_irt")[0].views["one"]
    assert asked_for.trusted and asked_for.estimator == "p_irt"
    equated = estimated(known, name="random", items=10, estimator="equated")[0].views["one"]
    answers = known[0].row(keys[0], "one", known[1].signals["one"])
    seen = np.where(np.arange(len(answers)) < 10, answers, np.nan)
    assert equated.trusted and equated.of(answers).score == pytest.approx(answers.mean())
    assert equated.of(seen) == estimates.equated(
        seen,
        equated.items,
        irt.Prior(*equated.prior),
        np.array(equated.item_means),
        equated.misfit,
    )
    event = chosen.choose(5, estimation, keys[:4], None)
    chosen.use(event["blocks"], "here")
    asked = [id for _, _, block in chosen.wanted(None) for id in block][:10]
    at = [estimation.ability(key, "one") for key in keys[:4]]
    total = view.items.information(at).sum(axis=0)
    ids = [item.id for item in known[1].banks["one"].split("search")]
    drawn = [asked.pop(place) for place in (9, 5, 2)]
    assert asked == [ids[i] for i in np.argsort(-total, kind="stable")[:7]]
    assert len({*asked, *drawn}) == 10
    other = list(sum(chosen.choose(6, estimation, keys[:4], None)["blocks"]["one"], ()))
    assert [other.pop(place) for place in (9, 5, 2)] != drawn and other == asked
    assert event == chosen.choose(5, estimation, keys[:4], None)


@pytest.mark.parametrize("name", ["random", "stratified", "informative"])
def test_a_strategy_that_wants_more_gets_the_chosen_items_first(known, name):
    estimation, chosen = estimated(known, name=name, items=7)
    chosen.use(chosen.choose(0, estimation, known[3], None)["blocks"], "here")
    sets = [
        [id for o, _, block in chosen.wanted(n) if o == "one" for id in block]
        for n in (None, 7, 12, 1000)
    ]
    assert sets[0] == sets[1] and len(sets[1]) == 7 and len(sets[2]) == 17
    assert sets[2] == sets[3][:17] and len(set(sets[3])) == len(sets[3]) == 30


def test_the_first_of_informative_items_are_of_strata_in_the_same_share(known):
    """A rung of a race asks them alone: of 12 items, 4 of them from strata, 2 of the first 6."""
    estimation, chosen = estimated(known, name="informative", items=12, random=1 / 3)
    at = np.array([estimation.ability(key, "one") for key in known[3][:4]])
    view = estimation.views["one"]
    order = _informative(view, at, np.linspace(0, 0.99, 30), 12, 1 / 3, None)
    most = np.argsort(-view.items.information(at).sum(axis=0), kind="stable")[:8].tolist()
    assert [i in most for i in order[:12]] == [True, True, False] * 4
    everything = _informative(view, at, np.linspace(0, 0.99, 30), 5, 1.0, None)
    assert np.bincount(view.strata[everything[:5]]).tolist() == [1] * 5
    assert _informative(view, at, np.zeros(30), 8, 0.0, None)[:8].tolist() == most
    assert sorted(order) == sorted(everything) == list(range(30))
    event = chosen.choose(0, estimation, known[3][:4], None)
    assert len(set(sum(event["blocks"]["one"], ()))) == 12


def test_stratified_items_come_from_all_strata(known):
    estimation, chosen = estimated(known, name="stratified", items=10)
    blocks = chosen.choose(0, estimation, (), None)["blocks"]["two"]
    ids = [item.id for item in known[1].banks["two"].split("search")]
    where = estimation.views["two"].strata[[ids.index(id) for block in blocks for id in block]]
    assert np.bincount(where).tolist() == [2] * 5


def test_rotation_keeps_the_rest_and_gives_new_items_a_block(known):
    estimation, chosen = estimated(known, name="random", items=12, estimator="stratified")
    chosen.use(chosen.choose(0, estimation, (), None)["blocks"], "here")
    before = sum(chosen.blocks["one"], ())
    after = chosen.choose(9, estimation, (), 0.25)["blocks"]["one"]
    assert [len(block) for block in after] == [9, 3]
    assert set(after[0]) < set(before) and not set(after[1]) & set(before)


def test_a_share_of_less_than_an_item_replaces_one(known):
    estimation, chosen = estimated(known, name="random", items=10, estimator="stratified")
    chosen.use(chosen.choose(0, estimation, (), None)["blocks"], "here")
    before = sum(chosen.blocks["one"], ())
    after = sum(chosen.choose(9, estimation, (), 0.04)["blocks"]["one"], ())
    assert len(after) == 10 and len(set(after) - set(before)) == 1


def test_one_number_has_nothing_to_be_modelled(known):
    """A measure or a function beside banks: no model of it, and nothing to fall back from."""
    view = estimated(known, name="informative", items=10)[0]._view(np.full((12, 1), 0.5), None)
    assert view.estimator == "stratified" and not view.fallback and not view.slopes


def test_all_items_may_be_replaced(known):
    estimation, chosen = estimated(known, name="random", items=10, estimator="stratified")
    chosen.use(chosen.choose(0, estimation, (), None)["blocks"], "here")
    before = sum(chosen.blocks["one"], ())
    after = sum(chosen.choose(9, estimation, (), 1.0)["blocks"]["one"], ())
    assert len(set(after)) == 10 and set(after) != set(before)


def test_items_that_turn_are_drawn_with_weights_of_their_information(known):
    """The share of draws in which an item is the only one, against its share of the information;
    four standard errors of 2,000 draws."""
    estimation, chosen = estimated(known, name="informative", items=1, random=0)
    keys, draws = known[3][:1], 2000
    at = np.array([estimation.ability(key, "one") for key in keys])
    total = estimation.views["one"].items.information(at).sum(axis=0)
    ids = [item.id for item in known[1].banks["one"].split("search")]
    chosen.use(chosen.choose(0, estimation, keys, None)["blocks"], "here")
    found = np.zeros(len(ids))
    for told in range(draws):
        (block,) = chosen.choose(told, estimation, keys, 1.0)["blocks"]["one"]
        found[ids.index(block[0])] += 1
    wanted = total / total.sum()
    assert found.sum() == draws
    assert (np.abs(found / draws - wanted) < 4 * np.sqrt(wanted / draws)).all()


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_a_share_stays_drawn_from_strata_however_often_items_turn(known, share):
    """Of ten items five are of strata, of whose 25 items ten say nothing: two, if it stays so."""
    estimation, chosen = estimated(known, name="informative", items=10, random=0.5)
    slopes = [1.0] * 20 + [1e-9] * 10
    views = {name: replace(v, slopes=slopes) for name, v in estimation.views.items()}
    estimation.views.update(views)
    ids = [item.id for item in known[1].banks["one"].split("search")]
    chosen.use(chosen.choose(0, estimation, known[3][:4], None)["blocks"], "here")
    counts = []
    for told in range(1, 60):
        chosen.use(chosen.choose(told, estimation, known[3][:4], share)["blocks"], "here")
        counts.append(len(set(sum(chosen.blocks["one"], ())) & set(ids[20:])))
    assert 1 < np.mean(counts[20:]) < 4


def test_the_share_from_strata_does_not_lean_to_items_without_information(known):
    """Three items of six in each of five strata say nothing, the others as much as each other.
    Five are drawn for their information, k of a stratum, and one of the 6 - k left of each."""
    estimation, chosen = estimated(known, name="informative", items=10, random=0.5)
    strata = estimation.views["one"].strata
    silent = np.zeros(30, dtype=bool)
    silent[[i for s in range(5) for i in np.flatnonzero(strata == s)[:3]]] = True
    slopes = list(np.where(silent, 1e-9, 1.0))
    view = replace(estimation.views["one"], slopes=slopes, intercepts=[0.0] * 30)
    estimation.views.update(one=view, two=view)
    ids = [item.id for item in known[1].banks["one"].split("search")]
    chosen.use(chosen.choose(0, estimation, known[3][:1], None)["blocks"], "here")
    found = []
    for told in range(2000):
        blocks = chosen.choose(told, estimation, known[3][:1], 1.0)["blocks"]["one"]
        found.append(sum(silent[ids.index(id)] for block in blocks for id in block))
    taken = np.arange(4)
    wanted = 5 * (stats.hypergeom.pmf(taken, 15, 3, 5) * 3 / (6 - taken)).sum()
    assert abs(np.mean(found) - wanted) < 4 * np.std(found) / np.sqrt(len(found))


def test_what_nobody_can_say_anything_of_is_still_drawn_in_some_order(known):
    view = estimated(known, name="informative", items=10, random=0)[0].views["one"]
    far = Items(np.full(30, 50.0), np.linspace(4000, 5000, 30))
    order = _informative(replace(view, slopes=list(far.slopes), intercepts=list(far.intercepts)),
                         np.zeros(2), np.zeros(30), 10, 0.0, np.linspace(0, 0.99, 30))  # fmt: skip
    assert sorted(order) == list(range(30))


@pytest.mark.slow
@pytest.mark.parametrize(("elites", "most"), [(None, 2), (0, 0)])
def test_items_turn_more_often_than_refits_and_the_best_answer_them(
    family, tmp_path, elites, most
):
    fidelity = {**INFORMATIVE, "every": 2, "elites": elites}
    recipe = soft(family, fidelity=fidelity, strategy="sobol", shortlist=2, ask=2)
    evomerge.search(recipe, tmp_path / "run", budget={"candidates": 24})
    events = ledgers.content(tmp_path / "run")["events"]
    told = {kind: [b["told"] for k, b in events if k == kind] for kind in ("calibrated", "items")}
    check_items(events)
    assert told["items"] == [0, *range(6, 24, 2)]
    assert told["calibrated"] == [0, 6, 10, 16, 24]
    again = [body["again"] for kind, body in events if kind == "items"]
    assert max(map(len, again)) == most


def test_all_answers_leave_nothing_to_estimate(known):
    estimation, _ = estimated(known, name="informative", items=10)
    for key in known[3]:
        found, items = estimation.of(key, ())
        assert items == 60 and all(e.error < 1e-12 for e in found)
        rows = [known[0].row(key, o, "probability") for o in ("one", "two")]
        assert np.allclose([e.score for e in found], [row.mean() for row in rows], rtol=1e-12)


def test_without_enough_whole_rows_the_stratified_mean_is_used(known):
    answers, problem, ends, keys = known
    estimation = Estimation(Fidelity(**INFORMATIVE), answers, problem.signals, ends)
    view = estimation.refitted(keys[3:7])["one"]
    assert view["estimator"] == "stratified" and "7 models answered all of 30" in view["fallback"]
    assert estimation.refitted(keys)["one"]["fallback"] == ""


def test_where_theory_predicts_worse_the_stratified_mean_is_used(known):
    """Answers that depend on groups of items, and on no ability."""
    answers, problem, ends, _ = known
    rng = np.random.default_rng(1)
    estimation = Estimation(Fidelity(**INFORMATIVE), answers, problem.signals, ends)
    table = np.where(np.arange(30) < 15, *rng.uniform(0.1, 0.9, (2, 12, 1)))
    table += np.where(np.arange(30) % 2, 1e-3, -1e-3)
    view = estimation._view(table, None)
    assert view.held_out["irt"] > view.held_out["stratified"]
    assert view.estimator == "stratified" and "worse than the stratified mean" in view.fallback
    assert not view.trusted


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_constant_columns_and_rows_have_finite_estimates(known, value):
    answers, problem, ends, _ = known
    estimation = Estimation(Fidelity(**INFORMATIVE), answers, problem.signals, ends)
    table = np.full((9, 30), value)
    view = estimation._view(table, None)
    few = np.where(np.arange(30) < 4, value, np.nan)
    for found in (view.of(few), view.of(table[0])):
        assert np.isfinite(found).all() and 0 <= found.score <= 1
    assert irt.fit(table).items.slopes.min() > 0


@pytest.mark.parametrize("change", [lambda v: v["item_means"].pop(), lambda v: v["slopes"].pop()])
def test_a_calibration_of_other_items_is_refused(known, change):
    answers, problem, ends, keys = known
    estimation = Estimation(Fidelity(**INFORMATIVE), answers, problem.signals, ends)
    views = estimation.refitted(keys)
    change(views["two"])
    with pytest.raises(errors.InputError, match=r"here: the calibration of 'two'.*other items"):
        estimation.use(views, "here")


def test_items_of_another_bank_are_refused(known):
    chosen = estimated(known, name="random", items=3)[1]
    with pytest.raises(
        errors.InputError, match=r"here: .*'one' are not those .* no 'x' in search"
    ):
        chosen.use({"one": [["x"]]}, "here")


@pytest.mark.slow
def test_the_reason_of_a_fallback_is_printed(family, tmp_path):
    """Calibration is done, and too few have answered everything to check a fit."""
    notes = []
    fidelity = {**INFORMATIVE, "calibration": 2}
    evomerge.search(
        soft(family, fidelity=fidelity, budget={"candidates": 6}), tmp_path / "run",
        report=lambda event, facts: notes.append(facts.get("text", "")),
    )  # fmt: skip
    assert any("'one': 5 models answered all of 30 items, and 8" in note for note in notes)
    said = [note for note in notes if "strata are used instead" in note]
    assert len(said) == 2 and evomerge.Run(tmp_path / "run").fallbacks == said
    page = html.unescape(evomerge.Run(tmp_path / "run").report().read_text())
    assert all(note in page for note in said)


def test_strata_without_an_item_are_pointed_out(family):
    def said(**fidelity):
        return [n for n in resolve(soft(family, fidelity=fidelity)).notes() if "strata" in n]

    assert said(name="informative", items=10) == [
        "fidelity: 3 of 10 items a bank are drawn from its 5 strata of difficulty: where one has "
        "none, estimates are rougher than they say"
    ]
    assert said(name="stratified", items=4) and said(
        name="random", items=4, estimator="stratified"
    )
    assert not said(name="informative", items=20) and not said(name="random", items=4)
    assert not said(name="informative", items=10, estimator="p_irt")


@pytest.mark.slow
def test_optimism_is_told_beside_that_of_base_and_experts(family, tmp_path, run):
    """Items that are chosen are easier or harder than others, for whoever answers them."""
    recipe = soft(family, fidelity=INFORMATIVE, budget={"candidates": 16})
    code, out, _ = run("search", command.write(tmp_path, recipe), "-o", tmp_path / "run")
    found = evomerge.Run(tmp_path / "run")
    gaps = {point.label: seen - tested for point, seen, tested in found.optimism()}
    others = [gap for label, gap in gaps.items() if label == "base" or "expert" in label]
    assert code == 0 and len(others) == 3
    said = (
        f"optimism of the search: {gaps[found.chosen.label]:+.3f} (its items of "
        f"{found.chosen.label} less test's), of base and experts {np.mean(others):+.3f}"
    )
    assert said in " ".join(out.split())


@pytest.mark.slow
def test_more_items_than_there_are_is_everything(family, tmp_path):
    fidelity = {"name": "random", "items": 500}
    recipe = soft(family, fidelity=fidelity, budget={"candidates": 3}, strategy="sobol")
    run = evomerge.search(recipe, tmp_path / "run")
    assert [items for _, items, _ in run.history()] == [60, 120, 180]


@pytest.mark.parametrize(
    ("fidelity", "says"),
    [
        ("informative", "fidelity.items: 'informative' needs a number of items"),
        ({"name": "informative", "items": 9, "estimator": "mean"}, "fidelity.estimator: the mean"),
        ({"name": "all", "estimator": "p_irt"}, "fidelity.estimator: 'all' asks every item"),
        ({"name": "random", "items": 9, "random": 0.5}, "fidelity.random: goes with"),
        ({"name": "random", "items": 9, "rotate": 0.5}, "fidelity.rotate: goes with"),
        ({"name": "first", "items": 9, "calibration": 3}, "fidelity.calibration: goes with"),
        ({"name": "first", "items": 9, "estimator": "p_irt", "rotate": 0.5},
         "fidelity.rotate: 'first' has one fixed order"),
        ({"name": "random", "items": 9, "estimator": "stratified", "elites": 2},
         "fidelity.elites: goes with 'rotate'"),
        ({"name": "random", "items": 9, "estimator": "pirt"}, "did you mean 'p_irt'"),
        ({"name": "informative", "items": 9, "random": 1.5}, "fidelity.random"),
    ],
)  # fmt: skip
def test_a_wrong_fidelity_is_named(family, fidelity, says):
    with pytest.raises(errors.RecipeError) as refusal:
        resolve(soft(family, fidelity=fidelity))
    assert says in str(refusal.value)


def test_a_run_from_before_these_options_keeps_its_identity(family):
    recipe = resolve(families.recipe(family)).identity()
    assert recipe["fidelity"] == {"name": "first", "items": 20}
