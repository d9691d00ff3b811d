"""`evomerge calibrate` on a real run, and on its ledger with answers taken away."""

import dataclasses
import json
import re
import shutil
import sqlite3

import numpy as np
import pytest

import evomerge
from evomerge import calibration
from evomerge.files.ledger import Ledger
from evomerge.maths import irt
from evomerge.report import item_map
from tests import families


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    place = tmp_path_factory.mktemp("calibrate") / "run"
    objectives = {
        "one": {"bank": str(family / "one.jsonl"), "signal": "probability"},
        "two": {"bank": str(family / "two.jsonl"), "signal": "score"},
    }
    evomerge.search(families.recipe(family, objectives=objectives), place)
    return place


@pytest.fixture(scope="module")
def found(folder):
    return calibration.calibrate(folder, shown=8)


def changed(folder, tmp_path, *statements):
    """A copy of a run whose ledger went through SQL statements."""
    copy = shutil.copytree(folder, tmp_path / "changed")
    db = sqlite3.connect(copy / "ledger.sqlite")
    with db:
        for statement in statements:
            db.execute(statement)
    db.close()
    return copy


def test_items_that_were_taken_out_of_the_bank_are_fitted_no_more(folder, found, tmp_path):
    gone = found.banks[0].ids[4]
    row = f"('dropped', '{json.dumps({'one': [gone]})}')"
    copy = changed(folder, tmp_path, f"INSERT OR REPLACE INTO meta VALUES {row}")
    one, two = calibration.calibrate(copy, shown=8).banks
    assert set(found.banks[0].ids) - set(one.ids) == {gone}
    assert two.ids == found.banks[1].ids


def test_answers_that_were_copied_from_another_run_are_fitted_too(family, folder, tmp_path):
    """Without the plans of models that were not asked here; base and experts have their place."""
    before = evomerge.Run(folder)
    recipe = families.recipe(
        family, objectives=before.recipe["objectives"], seeds=f"run:{folder}", shortlist=1,
        strategy="sobol", budget={"candidates": 1},
    )  # fmt: skip
    run = evomerge.search(recipe, tmp_path / "run")
    assert set(before.asked().values()) - Ledger(run.folder).plans()
    for bank in calibration.calibrate(run.folder, shown=8).banks:
        assert bank.models >= len(set(before.asked().values()))
        labels = [standing.label for standing in bank.standings]
        assert labels[:3] == ["base", "expert left", "expert right"]


def test_the_fit_is_that_of_the_answers_in_the_ledger(folder, found):
    for bank, signal in zip(found.banks, ("probability", "score"), strict=True):
        assert bank.signal == signal
        rows = {}
        for plan, answer in Ledger(folder).answers():
            if (answer.bank, answer.split) == (bank.name, "search"):
                value = answer.score if signal == "score" else answer.extra[signal]
                rows.setdefault(plan, {})[answer.item] = value
        assert bank.models == len(rows) >= 10
        table = [[rows[key].get(item, np.nan) for item in bank.ids] for key in sorted(rows)]
        fit = irt.fit(table)
        assert np.array_equal(bank.fit.items.intercepts, fit.items.intercepts)
        assert bank.fit.model == "1PL" and bank.held_out.seen == 8
        assert bank.counts.tolist() == np.isfinite(table).sum(axis=0).tolist()


def test_base_experts_and_textbook_merges_have_their_place(folder, found):
    run = evomerge.Run(folder)
    for bank in found.banks:
        standings = {s.label: s for s in bank.standings}
        assert list(standings)[:3] == ["base", "expert left", "expert right"]
        assert [standings[label].items for label in list(standings)[:3]] == [30] * 3
        scan = [label for label in run.confirmed["baselines"] if label.startswith("task")]
        placed = [s for s in bank.standings if s.kind == "textbook"]
        assert [s.label for s in placed] == scan
        assert [(s.split, s.items) for s in placed] == [("validation", 20)] * len(scan)
        assert len(bank.candidates[0]) == bank.models - 3
        assert bank.range[0] <= bank.range[1] and 0 < bank.error < 3


def test_better_answers_are_a_higher_ability(folder, tmp_path):
    """The base, all right in one bank, stands above everybody there."""
    base = evomerge.Run(folder).confirmed["baselines"]["base"]
    copy = changed(
        folder, tmp_path, f"UPDATE answers SET score=1 WHERE bank='two' AND plan='{base}'"
    )
    bank = calibration.calibrate(copy, shown=8).banks[1]
    assert bank.constant == {base: "all right"}
    ability = {s.label: s.ability for s in bank.standings if s.split == "search"}
    assert ability["base"] == max(*ability.values(), bank.fit.abilities.max())


def test_a_run_that_is_not_confirmed_has_its_endpoints(folder, tmp_path):
    copy = changed(folder, tmp_path, "DELETE FROM events WHERE kind='confirmed'")
    for bank in calibration.calibrate(copy, shown=8).banks:
        assert [s.label for s in bank.standings] == ["base", "expert left", "expert right"]


def test_faulty_items_are_named(run, folder, tmp_path, found):
    first, second = found.banks[1].ids[:2]
    copy = changed(
        folder, tmp_path,
        f"UPDATE answers SET score=1 WHERE bank='two' AND item='{first}'",
        f"UPDATE answers SET score=0.25 WHERE bank='two' AND item='{second}'",
    )  # fmt: skip
    faults = calibration.calibrate(copy, shown=8).banks[1].faults
    assert faults[first] == "all right" and faults[second] == "all answers are 0.250"
    code, out, _ = run("calibrate", copy)
    assert code == 0 and f"two: all answers are 0.250: {second}\n" in out


def test_the_command_prints_tables_and_json(run, folder, found):
    before = Ledger(folder).last("confirmed")
    code, out, err = run("calibrate", folder, "--shown", 8)
    assert code == 0 and not err
    for bank in found.banks:
        errors = [f"{bank.held_out.errors[name]:.4f}" for name in bank.held_out.errors]
        assert all(error in out for error in errors)
    assert "expert left" in out and "* from validation" in out
    code, out, _ = run("calibrate", folder, "--shown", 8, "--json")
    body = json.loads(out)
    assert code == 0 and [bank["bank"] for bank in body["banks"]] == ["one", "two"]
    for bank, plain in zip(found.banks, body["banks"], strict=True):
        assert [row["item"] for row in plain["rows"]] == list(bank.ids)
        assert [row["slope"] for row in plain["rows"]] == bank.fit.items.slopes.tolist()
        assert plain["held_out"] == bank.held_out.errors
    assert Ledger(folder).last("confirmed") == before


def test_the_item_map_shows_every_item_and_model(run, folder, found, tmp_path):
    code, out, _ = run("calibrate", folder, "--html", tmp_path / "map.html")
    page = (tmp_path / "map.html").read_text()
    assert code == 0 and str(tmp_path / "map.html") in out.replace("\n", "")
    frame = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert not re.search(r"(?:src|href)=|url\(", frame) and "expert right" in page
    for bank in found.banks:
        figure = item_map.figure(bank)
        drawn = sum(len(t.x) for t in figure.data if t.name in ("items", "items to look at"))
        constant = sum(reason.startswith("all ") for reason in bank.faults.values())
        assert drawn == len(bank.ids) - constant
        labels = [t.y[0] for t in figure.data if t.yaxis == "y3"]
        assert labels == ["candidates", *(s.label for s in bank.standings)]
        curve = next(t for t in figure.data if t.yaxis == "y2")
        at = bank.fit.items.information(curve.x[7]).sum() / bank.fit.dispersion
        assert curve.y[7] == pytest.approx(at)


def test_two_candidates_have_a_range(found):
    """The middle nine tenths of two abilities lie between them, where no candidate is."""
    candidates = np.array([-1.0, 2.0]), np.array([0.25, 0.75])
    bank = dataclasses.replace(found.banks[0], candidates=candidates)
    assert bank.range == (-1.0, 2.0) and bank.error == 0.5
    both = bank.fit.items.information(candidates[0])
    assert np.array_equal(bank.information, both.mean(axis=0))


def test_what_can_not_be_calibrated_is_refused(refused, folder, tmp_path, found):
    refused("calibrate", tmp_path / "nothing", code=3, says="no run here")
    refused("calibrate", folder, "--shown", 0, code=2, says="expected at least 1")
    copy = changed(
        folder, tmp_path,
        "DELETE FROM answers WHERE plan NOT IN "
        "(SELECT DISTINCT plan FROM answers WHERE split='search' LIMIT 7)",
    )  # fmt: skip
    refused("calibrate", copy, code=3, says=["7 of 7 models answered", "needed are 10 s"])
    first = "(SELECT MIN(item) FROM answers WHERE split='search' AND bank=a.bank AND plan=a.plan)"
    only = f"DELETE FROM answers AS a WHERE split='search' AND item != {first}"
    models = found.banks[0].models
    says = f"'one': 0 of {models} models answered more than one item of search, 0 items between"
    refused("calibrate", changed(folder, tmp_path / "one", only), code=3, says=says)
    Ledger(tmp_path / "begun", write=True).close()
    refused("calibrate", tmp_path / "begun", code=3, says="no answers yet")


def test_a_bank_of_too_few_items_is_left_out_and_said(run, folder, tmp_path):
    kept = "SELECT item FROM answers WHERE bank='one' AND split='search' ORDER BY item LIMIT 9"
    copy = changed(
        folder, tmp_path, f"DELETE FROM answers WHERE bank='one' AND item NOT IN ({kept})"
    )
    code, out, _ = run("calibrate", copy, "--html", tmp_path / "map.html")
    assert code == 0 and "one: left out" in out
    assert "one is left out" in (tmp_path / "map.html").read_text()
