"""Budgets of time: what they are called, when they end, and that the front is there by then."""

import os
import signal
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

import evomerge
from evomerge import budget, confirm, errors, loop, status, worker
from evomerge.files.ledger import Ledger
from evomerge.loop import Search
from evomerge.pace import BUILD, Pace
from evomerge.recipe import resolve
from evomerge.run import Run
from tests import families, ledgers

BERLIN = ZoneInfo("Europe/Berlin")
"""Clocks there skip 02:00 to 03:00 on 2026-03-29, and have it twice on 2026-10-25."""


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("8h", {"seconds": 8 * 3600}),
        ("1h30m", {"seconds": 5400}),
        ("2d", {"seconds": 172800}),
        ("0.5h", {"seconds": 1800}),
        ("500", {"candidates": 500}),
        ("3k", {"candidates": 3000}),
        ("20 candidates", {"candidates": 20}),
        ("200k-items", {"items": 200_000}),
        ("1.5M-items", {"items": 1_500_000}),
    ],
)
def test_what_a_budget_is_called(text, keys):
    assert budget.parse(text) == keys


@pytest.mark.parametrize(
    "text", ["", "8 hours", "h", "0h", "0", "-5", "30m1h", "5k-answers", "1" * 400]
)
def test_what_is_no_budget(text):
    with pytest.raises(errors.RecipeError, match="expected a time such as 8h"):
        budget.parse(text)


@pytest.mark.parametrize(
    ("now", "text", "expected"),
    [
        ("2026-06-10T22:00+02:00", "07:00", "2026-06-11T07:00+02:00"),
        ("2026-06-10T06:59+02:00", "7:00", "2026-06-10T07:00+02:00"),
        ("2026-06-10T07:00+02:00", "07:00", "2026-06-11T07:00+02:00"),
        ("2026-03-28T22:00+01:00", "07:00", "2026-03-29T07:00+02:00"),  # 8 hours, not 9
        ("2026-10-24T22:00+02:00", "07:00", "2026-10-25T07:00+01:00"),  # 10 hours, not 9
        ("2026-03-28T22:00+01:00", "02:30", "2026-03-29T03:30+02:00"),  # is skipped
        ("2026-10-25T01:00+02:00", "02:30", "2026-10-25T02:30+02:00"),  # the first of two
        ("2026-10-25T02:45+02:00", "02:30", "2026-10-25T02:30+01:00"),  # the second
        ("2026-06-10T22:00+02:00", "2026-06-13 07:00", "2026-06-13T07:00+02:00"),
        ("2026-12-31T23:59+01:00", "00:10", "2027-01-01T00:10+01:00"),
    ],
)
def test_the_next_time_that_clocks_show(now, text, expected):
    moments = [datetime.fromisoformat(moment).timestamp() for moment in (now, expected)]
    assert budget.until(text, moments[0], BERLIN) == moments[1]


def test_a_new_run_that_is_to_end_before_it_begins(family, tmp_path):
    recipe = families.recipe(family, budget={"until": "2020-01-01"})
    with pytest.raises(errors.RecipeError, match="'2020-01-01' is over"):
        evomerge.search(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_clock_that_is_put_forward_costs_no_time(monkeypatch):
    now = budget.time.time()
    steady = budget.steady()
    assert 0 <= steady() - now < 1
    monkeypatch.setattr(budget.time, "time", lambda: now + 86400)
    assert 0 <= steady() - now < 1


def test_a_span_goes_on_evenly_and_an_hour_is_that_of_the_wall():
    wall, even = Clock(), Clock()
    span = budget.Deadline.of(3600.0, None, 600.0, wall, even)
    hour = budget.Deadline.of(None, "07:00", 0.0, wall, even)
    both = budget.Deadline.of(60.0, "07:00", 0.0, wall, even)
    before = hour.left
    wall.now += 86400
    assert span.left == 3000 and hour.left == before - 86400 == both.left
    even.now += 3001
    assert span.left == -1 and hour.left == before - 86400
    assert not budget.Deadline.of(None, None, 0.0).is_set and span.is_set and both.is_set


def test_a_clock_put_forward_during_a_search_does_not_end_its_span(family, tmp_path, monkeypatch):
    budgeted = {"seconds": 3600, "candidates": 3}
    recipe = families.recipe(family, budget=budgeted, strategy="sobol", ask=1)
    now = budget.time.time

    def forward(event, facts):
        if event == "told":
            monkeypatch.setattr(budget.time, "time", lambda: now() + 86400)

    run = evomerge.search(recipe, tmp_path / "run", report=forward)
    assert run.is_confirmed and len(run.asked()) == 3


def test_candidates_that_answer_every_item_count_in_a_budget_of_items(family, tmp_path):
    """60 items for base and two experts each; 80 more are enough for two, not for eight."""
    fidelity = {"name": "informative", "items": 5, "calibration": 6}
    recipe = families.recipe(family, fidelity=fidelity, batch=5, ask=8, budget={"items": 260})
    run = evomerge.search(recipe, tmp_path / "run")
    items = sum(len(bank.split("search")) for bank in resolve(recipe).banks.values())
    room = 260 - 3 * items
    assert len(run.asked()) == -(-room // items)


def test_a_terminal_that_is_closed_ends_what_nohup_did_not_begin():
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        assert budget.endings() == [signal.SIGTERM, signal.SIGHUP]
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        assert budget.endings() == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGHUP, before)


class Clock:
    def __init__(self):
        self.now = 1e9

    def __call__(self):
        return self.now


@pytest.fixture
def timed(family, tmp_path, monkeypatch):
    """A search in which an objective takes the seconds it is told, by a clock of its own."""
    clock = Clock()
    monkeypatch.setattr(worker, "perf_counter", clock)

    def start(seconds, takes, **more):
        recipe = families.recipe(
            family, budget={"seconds": seconds, **more}, strategy="sobol", batch=30,
            objectives={"one": str(family / "one.jsonl")},
        )  # fmt: skip
        calls = []

        def objective(model, tokenizer):
            calls.append(1)
            clock.now += takes(len(calls))
            return 0.5

        problem = resolve(recipe, functions={"timed": objective})
        Search(problem, tmp_path / "run", lambda event, facts: None, clock=clock).run()
        return Run(tmp_path / "run")

    start.clock, start.folder = clock, tmp_path / "run"
    return start


def test_the_front_is_confirmed_within_the_time(timed):
    """Each answer takes 10 s. Confirming takes 13 + 10 of them, a quarter more is reserved."""
    begun = timed.clock.now
    run = timed(600, lambda call: 10)
    assert run.is_confirmed
    assert 450 < timed.clock.now - begun <= 600
    asked = len(run.asked())
    assert 24 <= asked <= 32
    again = timed(600, lambda call: 10)
    assert len(again.asked()) == asked and again.confirmed["looks"] == 1
    longer = timed(900, lambda call: 10)
    assert len(longer.asked()) > asked and longer.confirmed["looks"] == 2
    assert timed.clock.now - begun <= 900


@pytest.mark.slow
@pytest.mark.parametrize("shortlist", [1, 3, 5])
def test_incumbents_are_part_of_the_shortlist_and_of_the_time_kept_free(
    family, tmp_path, shortlist
):
    """CMA-ES has three means, which nobody has scored."""
    keep = {"one too": {"bank": str(family / "one.jsonl"), "within": 1, "of": "left"}}
    recipe = families.recipe(
        family, strategy={"name": "cma_es", "population": 4}, budget={"candidates": 12},
        shortlist=shortlist, keep=keep,
    )  # fmt: skip
    jobs = []

    def report(event, facts):
        jobs.clear() if event == "told" else jobs.extend(["job"] * (event == "answered"))

    run = evomerge.search(recipe, tmp_path / "run", report=report)
    confirmed = list(run.confirmed["shortlist"])
    assert len(confirmed) <= shortlist and any(label[0] == "c" for label in confirmed)
    assert [x for x in confirmed if x[0] == "m"] == [f"m{i}" for i in range(min(shortlist - 1, 3))]
    problem = resolve(recipe)
    pace = Pace(problem.setup, {BUILD: 1.0})  # a second a job
    kept = (confirm.seconds(problem, pace, 1, 3) - confirm.REPORTED) / confirm.SAFETY
    assert len(jobs) <= kept <= len(jobs) + 2 * shortlist


def test_what_a_build_takes_in_items_of_each_bank(family):
    setup = resolve(families.recipe(family)).setup
    assert Pace(setup, {BUILD: 1.0, "one": 0.15, "two": 0.1}).build() == pytest.approx(4)
    assert Pace(setup).build() == Pace(setup, {BUILD: 1.0}).build() == 0  # nothing is known yet


@pytest.mark.parametrize("steps", [8, pytest.param(24, marks=pytest.mark.slow)])
def test_an_objective_that_gets_slow_breaks_no_deadline(timed, steps):
    """After some quick answers each takes 100 s: the time ends between two of them, and what was
    answered is there; the next session confirms."""
    begun = timed.clock.now
    with pytest.raises(errors.Unconfirmed, match="run the same command again to confirm it"):
        timed(400, lambda call: 10 if call <= steps else 100)
    assert 400 < timed.clock.now - begun <= 500
    run = timed(400, lambda call: 0)
    assert run.is_confirmed and len(run.asked()) > 0


def test_an_hour_that_is_over_is_that_of_tomorrow(timed):
    """So that another command confirms, and asks no further candidates."""
    hour = f"{datetime.fromtimestamp(timed.clock.now + 420):%H:%M}"
    says = "again, with --budget 1s and no hour, which would be that of tomorrow, to confirm it"
    with pytest.raises(errors.Unconfirmed, match=says):
        timed(10**6, lambda call: 10 if call <= 8 else 100, until=hour)
    asked = len(Run(timed.folder).asked())
    run = timed(budget.parse("1s")["seconds"], lambda call: 0)
    assert run.is_confirmed and len(run.asked()) == asked > 1


@pytest.mark.slow
def test_who_was_not_answered_in_time_is_where_there_is_more(timed):
    """The time ends while one of three is answered; then there is more of it."""
    with pytest.raises(errors.Unconfirmed):
        timed(400, lambda call: 10 if call <= 8 else 100)
    left = timed(400, lambda call: 0)
    told = left.spent()["items"]
    asked = len(left.asked())
    assert left.is_confirmed and status.read(left.folder)["told"] < asked
    longer = timed(4000, lambda call: 0, candidates=asked)
    assert status.read(left.folder)["told"] == len(longer.asked()) == asked
    assert longer.confirmed["looks"] == 2 and longer.spent()["items"] > told
    assert status.read(left.folder)["state"] == "confirmed"


def test_a_time_too_short_for_one_candidate(timed, tmp_path):
    """Whoever looks later is told why it ended, not to do the same again."""
    for _ in range(2):
        with pytest.raises(errors.Unconfirmed, match="no candidate has a score"):
            timed(100, lambda call: 10)
    assert status.read(tmp_path / "run")["state"].startswith("ended: no candidate has a score")
    with pytest.raises(errors.Unconfirmed, match="no candidate has a score"):
        assert Run(tmp_path / "run").front
    kinds = [kind for kind, _ in ledgers.content(tmp_path / "run")["events"]]
    assert kinds.count("unconfirmed") == 1
    assert timed(600, lambda call: 10).is_confirmed
    assert status.read(tmp_path / "run")["state"] == "confirmed"


@pytest.mark.slow
def test_a_strategy_that_has_ended_leaves_a_complete_run(family, tmp_path):
    """It could have had more candidates: `test` is looked at once even so."""
    recipe = families.recipe(
        family, strategy="greedy_soup", budget={"candidates": 20}, deterministic=True
    )

    def stop(event, facts):
        if event == "stage" and facts["name"] != "search":
            raise KeyboardInterrupt

    run = evomerge.search(recipe, tmp_path / "whole")
    done = ledgers.content(run.folder)
    assert len(run.asked()) < 20
    for most in (20, 30):
        assert evomerge.search(recipe, run.folder, budget={"candidates": most}).looks == 1
    assert ledgers.content(run.folder) == done
    with pytest.raises(KeyboardInterrupt):
        evomerge.search(recipe, tmp_path / "cut", report=stop)
    evomerge.search(recipe, tmp_path / "cut")
    assert ledgers.content(tmp_path / "cut") == done


@pytest.mark.slow
def test_a_space_that_holds_no_more_ends_the_search(family, tmp_path, monkeypatch):
    """Whose plans are all answered long before the budget of items is used up; it hears signals
    although it waits for no answers."""
    recipe = families.recipe(
        family, operator=["task_arithmetic", "linear"], strategy="sobol",
        space={"blocks": 1, "genes": {"weight": 0.5}}, budget={"items": 1000},
    )  # fmt: skip
    notes = []

    def stop(event, facts):
        if event == "told" and len(facts["search"].candidates) == 90:
            os.kill(os.getpid(), signal.SIGINT)

    def report(event, facts):
        notes.append(facts.get("text"))

    with pytest.raises(errors.Interrupted):
        evomerge.search(recipe, tmp_path / "cut", report=stop)
    assert len(evomerge.Run(tmp_path / "cut").asked()) == 90
    monkeypatch.setattr(loop, "REPEATED", 60)
    for name in ("cut", "whole", "whole"):
        run = evomerge.search(recipe, tmp_path / name, report=report)
        assert len(run.asked()) == 120 and run.looks == 1
    assert notes.count("the last 60 candidates were all plans of before") == 2
    assert ledgers.content(tmp_path / "cut") == ledgers.content(tmp_path / "whole")


def test_time_until_the_last_answer_counts(tmp_path):
    """A session that ends before it has told anything has worked even so; a copy of answers is
    no work."""
    now = [100.0]
    ledger = Ledger(tmp_path, write=True, clock=lambda: now[0])
    ledger.record("a", [], "run:old", 0)
    assert ledger.seconds() == 0
    for session in (1, 2):
        ledger.add_session({})
        now[0] += 7
        ledger.record("b", [], "here", 0)
        assert ledger.seconds() == 7 * session and ledger.last_time() == now[0]
        now[0] += 50
    ledger.append("tell", [])
    assert ledger.seconds() == 7 + 57
    ledger.close()
