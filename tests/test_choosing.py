"""Choosing among the points of a front, and making further ones between them."""

import io
import json
import shutil
from contextlib import closing

import pytest
import torch

import evomerge
from evomerge import confirm, errors, front, further, status, tables
from evomerge.between import between, interpolated
from evomerge.console import Screen
from evomerge.files.ledger import Ledger
from evomerge.materialize import Merged, Workshop
from evomerge.preferences import Preference, parsed
from evomerge.recipe import resolve
from tests import families


@pytest.fixture(scope="module")
def done(family, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return evomerge.search(families.recipe(family), folder)


def test_a_preferred_point_is_saved_and_wrong_kinds_are_named(done, tmp_path, refused):
    saved = done.save(done.prefer({"one": 1}), tmp_path / "point")
    assert (saved / "model.safetensors").is_file()
    for wrong in ("one=2", {"one": "2"}, ["one"]):
        with pytest.raises(errors.RecipeError, match="weights: expected"):
            done.prefer(wrong)
    with pytest.raises(errors.EvomergeError, match="unknown point 'None'"):
        done.save(None, tmp_path / "none")
    options = ("--plan", "--mergekit", tmp_path / "x.yaml")
    refused("export", done.folder, *options, code=2, says="--plan and --mergekit exclude")
    for other in (("--plan",), ("--adapter", "2"), ("--mergekit", tmp_path / "x.yaml")):
        says = f"{other[0]} and --shard-size exclude"
        refused("export", done.folder, *other, "--shard-size", "1MB", code=2, says=says)
    with pytest.raises(errors.RecipeError, match="objectives: expected a mapping of names"):
        evomerge.search(done.recipe, tmp_path / "run", objectives=[len])


@pytest.fixture
def copied(done, tmp_path):
    return evomerge.Run(shutil.copytree(done.folder, tmp_path / "run"))


@pytest.mark.parametrize(("width", "intervals"), [(80, True), (56, True), (50, False)])
def test_a_score_is_whole_however_narrow_the_terminal(done, width, intervals):
    out = Screen(file=io.StringIO(), width=width)
    tables.rows(out, "baselines", done.baselines)
    shown = out.file.getvalue()
    assert max(map(len, shown.splitlines())) <= width
    for point in done.baselines:
        low, high = point.interval(0)
        assert set(point.label.split()) <= set(shown.split())
        assert f" {point.means('test')[0]:.3f} " in shown
        assert (f"{low:.2f}-{high:.2f}" in shown) == intervals
    assert ("a wider terminal" in shown) != intervals


def test_weights_pick_the_best_weighted_mean_and_equal_ones_the_chosen_point(done):
    assert done.prefer().label == done.prefer({"one": 2, "two": 2}).label == done.chosen.label
    for i, name in enumerate(done.objectives):
        best = max(point.means("validation")[i] for point in done.front)
        assert done.prefer({name: 1}).means("validation")[i] == best


def test_bounds_leave_the_best_of_those_within_them(done):
    for bound in sorted({point.means("validation")[0] for point in done.front}):
        allowed = [p for p in done.front if p.means("validation")[0] >= bound]
        found = done.prefer({"two": 1}, at_least={"one": bound})
        assert found.means("validation")[1] == max(p.means("validation")[1] for p in allowed)
    with pytest.raises(errors.RecipeError, match="closest is"):
        done.prefer(at_least={"one": 1.01})


def test_a_wish_that_is_a_point_of_the_front_finds_it(done):
    for point in done.front:
        wish = dict(zip(done.objectives, point.means("validation"), strict=True))
        found = done.prefer(near=wish)
        assert found.means("validation") == point.means("validation")


@pytest.mark.parametrize(
    "text", ["one", "one=", "=1", "one=x", "one:1", "", " ", ",", "one=1,one=2"]
)
def test_preferences_that_are_none_are_named(text):
    with pytest.raises(errors.RecipeError, match="--prefer"):
        Preference(parsed("--prefer", text))


def test_preferences_on_the_command_line(done, run, refused):
    assert parsed("--prefer", "one=2, two=1") == {"one": 2.0, "two": 1.0}
    code, out, _ = run("front", done.folder, "--prefer", "one=1", "--json")
    assert code == 0 and json.loads(out)["point"] == done.prefer({"one": 1}).label
    code, out, _ = run("front", done.folder, "--near", "one=0.5")
    assert code == 0 and "evomerge export" in out
    refused("front", done.folder, "--prefer", "ones=1", code=2, says="Did you mean 'one'?")
    for value in ("-1", "nan", "inf"):
        refused("front", done.folder, "--prefer", f"one={value}", code=2, says="0 or more")
    refused("front", done.folder, "--prefer", "one=0", code=2, says="all weights are 0")
    refused("front", done.folder, "--at-least", "one=2", code=2, says="closest")
    refused("front", done.folder, "--prefer", "one=1e308,two=1e308", code=2, says="too large")
    for option in ("--at-least", "--near"):
        for value in ("nan", "inf", "-inf"):
            refused("front", done.folder, option, f"one={value}", code=2, says="expected a number")
        refused("front", done.folder, option, "", code=2, says=f"{option}: expected objective=")


def test_a_wish_that_everybody_exceeds_is_pointed_out(done, run):
    lowest = [min(p.means("validation")[i] for p in done.front) for i in range(2)]
    for wish, said in ((lowest[0] - 0.1, True), (lowest[0], False), (1.0, False)):
        code, out, err = run("front", done.folder, "--near", f"one={wish},two={lowest[1] - 0.1}")
        assert code == 0 and "preferred:" in out
        assert ("every point of the front is better than" in err) == said


def test_a_point_between_two_is_their_weighted_mean(copied, tmp_path):
    """In weights, to the last bit of a float32 lerp; it is scored, remembered and exported."""
    looks = copied.looks
    point = between(copied.folder, "base", "expert left", 0.25)
    again = evomerge.Run(copied.folder)
    assert point.label == "base~expert left@0.25" and point.key == again.between()[point.label]
    assert len(point.scores["test"][0]) == len(again.chosen.scores["test"][0])
    assert again.looks == looks + 1
    plans = [again.plan(which) for which in ("base", "expert left", point.label)]
    base, left, made = [Merged(plan, Workshop.of(plan)) for plan in plans]
    for name in base.tensors:
        expected = torch.lerp(base.read(name).float(), left.read(name).float(), 0.25)
        assert torch.allclose(made.read(name).float(), expected, atol=1e-6)
    assert (again.save(point.label, tmp_path / "made") / "model.safetensors").exists()
    assert between(copied.folder, "base", "expert left", 0.25).key == point.key
    assert evomerge.Run(copied.folder).looks == looks + 1
    assert status.read(copied.folder)["looks at test"] == looks + 1


def test_a_look_counts_though_its_answers_were_there_before_the_point_was_recorded(copied):
    """As where a process ends between the two; later calls look at nothing new."""

    class Stopped(Exception):
        pass

    def stop(result):
        raise Stopped

    looks = copied.looks
    with pytest.raises(Stopped):
        between(copied.folder, "base", "expert left", 0.25, told=stop)
    assert evomerge.Run(copied.folder).looks == looks
    for _ in range(2):
        between(copied.folder, "base", "expert left", 0.25)
        assert evomerge.Run(copied.folder).looks == looks + 1


def test_between_on_the_command_line(copied, run, refused):
    ends = (copied.chosen.label, "uniform mean")
    report = copied.report()
    code, out, err = run("between", copied.folder, *ends, "--at", "0.5", "--json")
    assert code == 0, err
    rows = json.loads(out)
    labels = [row["point"] for row in rows]
    assert labels == [ends[0], f"{ends[0]}~{ends[1]}@0.5", ends[1]]
    assert f"looked at {evomerge.Run(copied.folder).looks} times" in report.read_text()
    again = evomerge.Run(copied.folder)
    every = [*again.front, *again.baselines, again.point(labels[1])]
    among = front.Tested(every).nondominated
    assert [row["nondominated"] for row in rows] == [among[label] for label in labels]
    refused("between", copied.folder, *ends, "--at", "1.5", code=2, says="between 0 and 1")
    refused("between", copied.folder, "c999", "best", code=2, says="c999")


def test_nothing_lies_between_a_model_and_itself(copied, refused):
    """By its plan, whatever it is called; nothing is scored."""
    looks = copied.looks
    for first, second in (("base", "base"), ("best", copied.chosen.label), ("knee", "knee")):
        refused("between", copied.folder, first, second, code=2, says="are the same model")
    again = evomerge.Run(copied.folder)
    assert again.looks == looks and not again.between()


def test_a_bank_of_another_day_scores_the_front_and_the_baselines(copied, family, run):
    options, report = ("-b", family / "two.jsonl", "--front", "--json"), copied.report()
    code, out, err = run("evaluate", copied.folder, *options)
    assert code == 0, err
    rows = json.loads(out)
    assert list(rows) == [p.label for p in (*copied.front, *copied.baselines)]
    for point in copied.front:
        assert rows[point.label]["two"]["mean"] == pytest.approx(point.means("test")[1])
        assert rows[point.label]["two"]["items"] == len(point.scores["test"][1])
    kept = {row["point"]: row["two"] for row in json.loads(copied.to_json())["further"]}
    assert kept == {label: pytest.approx(row["two"]["mean"]) for label, row in rows.items()}
    with closing(Ledger(copied.folder)) as ledger:  # one may be in the front and a baseline too
        once = {point.key for point in (*copied.front, *copied.baselines)}
        assert sum(1 for _ in ledger.events("evaluated")) == len(once)
    assert "further banks" in run("front", copied.folder)[1]
    assert "Further banks" in report.read_text()  # one that is there has them at once


def test_scores_from_before_a_library_was_noted_are_scores_still(copied, family, run):
    """They are not scored again, and stand beside those of today."""
    options = ("-b", family / "two.jsonl", "--front", "--json")
    first = run("evaluate", copied.folder, *options)
    with closing(Ledger(copied.folder, write=True)) as ledger, ledger.together():
        *rows, last = ledger.events("evaluated")
        ledger._db.execute("DELETE FROM events WHERE number=?", (last.number,))
        for row in rows:
            *what, libraries = json.loads(row.body["key"])
            del libraries["tokenizers"]
            body = json.dumps({**row.body, "key": json.dumps([*what, libraries], sort_keys=True)})
            ledger._db.execute("UPDATE events SET body=? WHERE number=?", (body, row.number))
    again = run("evaluate", copied.folder, *options)
    assert first[:2] == again[:2] and first[0] == 0
    assert again[2].count(" ...") == 1 < first[2].count(" ...")
    kept = {row["point"]: row["two"] for row in json.loads(copied.to_json())["further"]}
    assert kept == {p: row["two"]["mean"] for p, row in json.loads(first[1]).items()}
    with closing(Ledger(copied.folder)) as ledger:
        assert sum(1 for _ in ledger.events("evaluated")) == len(rows) + 1


SCORER = """
from evomerge import errors

def prepare(tokenizer, items, *, disliked):
    return len(items), disliked

def score(model, batch):
    n, disliked = batch
    if model.get_input_embeddings().weight.sum().item() == disliked:
        raise errors.EvaluationError("this model displeases")
    return {"score": [0.5] * n}
"""


def spoilt(family, folder, disliked):
    """A bank whose scorer fails for the model with these embeddings."""
    (folder / "spoilt").mkdir()
    (folder / "spoilt" / "scorer.py").write_text(SCORER)
    keys = {"name": "b", "version": 1, "scorer": {"name": "spoilt.scorer", "disliked": disliked}}
    bank = folder / "b.yaml"
    bank.write_text(json.dumps({**keys, "source": str(family / "two.jsonl")}))
    return bank


def embedded(plan):
    return evomerge.api.build(plan).get_input_embeddings().weight.sum().item()


def test_a_way_of_which_a_part_is_none_costs_no_look_at_test(copied, refused):
    looks = copied.looks
    shares = ("--at", "0.25", "--at", "1.5")
    says = "between 0 and 1, got 1.5"
    refused("between", copied.folder, "base", "expert left", *shares, code=2, says=says)
    assert evomerge.Run(copied.folder).looks == looks


def test_a_report_is_renewed_though_a_later_part_of_the_way_fails(
    family, tmp_path, refused, monkeypatch
):
    monkeypatch.syspath_prepend(tmp_path)
    problem = resolve(families.recipe(family))
    ends = list(confirm.endpoints(problem).values())[:2]
    bank = spoilt(family, tmp_path, embedded(interpolated(problem, *ends, 0.75)))
    budget = {"candidates": 2}
    recipe = families.recipe(family, objectives={"b": str(bank)}, strategy="sobol", budget=budget)
    done = evomerge.search(recipe, tmp_path / "run")
    report, shares = done.report(), ("--at", "0.25", "--at", "0.75")
    says = "base~expert left@0.75: this model displeases"
    refused("between", done.folder, "base", "expert left", *shares, code=errors.INPUT, says=says)
    assert evomerge.Run(done.folder).looks == 2 and "looked at 2 times" in report.read_text()


def test_who_can_not_be_scored_on_a_further_bank_is_named_after_the_others(
    copied, family, tmp_path, run, monkeypatch
):
    monkeypatch.syspath_prepend(tmp_path)
    bank = spoilt(family, tmp_path, embedded(copied.plan("expert left")))
    options = ("evaluate", copied.folder, "-b", bank, "-b", family / "two.jsonl")
    for more in ((), ("--json",)):  # what has been scored is shown again
        code, out, err = run(*options, "--front", *more)
        assert code == errors.INPUT
        assert "can not be scored: expert left: " in err and "this model displeases" in err
        assert "expert right" in out and (more or "0.500" in out)
    rows = json.loads(out)
    assert set(rows.pop("expert left")) == {"two"} and len(rows) > 3
    assert {row["b"]["mean"] for row in rows.values()} == {0.5}


def test_a_front_says_how_many_came_after_it(family, tmp_path, run):
    recipe = families.recipe(family, strategy="sobol", budget={"candidates": 3})
    evomerge.search(recipe, tmp_path)
    assert run("front", tmp_path)[2] == ""

    def stop(event, facts):
        if event == "told" and len(facts["search"].candidates) > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evomerge.search(recipe, tmp_path, budget={"candidates": 9}, report=stop)
    more = len(evomerge.Run(tmp_path).asked()) - 3
    code, _, err = run("front", tmp_path)
    assert more > 0 and (code, err) == (
        0,
        f"{more} candidates came after this front: run the search again\n",
    )


@pytest.mark.slow
def test_scores_on_other_items_do_not_stand_in_one_column(copied, family, tmp_path, run, refused):
    """Of a bank that has changed, where not all have answered it again."""
    bank = tmp_path / "new.jsonl"
    bank.write_text((family / "two.jsonl").read_text())
    assert run("evaluate", copied.folder, "-b", bank, "--front")[0] == 0
    bank.write_text(bank.read_text().replace('"answer": 0', '"answer": 1'))

    def stop(label):
        if label != copied.front.points[0].label:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        further.scores(copied, [bank], told=stop)
    rows = {row["point"]: row["new"] for row in json.loads(copied.to_json())["further"]}
    now = evomerge.evaluate(copied.plan(copied.front.points[0].label), [bank])["new"].mean
    assert rows.pop(copied.front.points[0].label) == pytest.approx(now)
    assert rows and set(rows.values()) == {None}
    bank.rename(tmp_path / "point.jsonl")
    refused("evaluate", copied.folder, "-b", tmp_path / "point.jsonl", "--front", code=2,
            says="'point' can not be the name of a score")  # fmt: skip
    code, _, err = run(
        "evaluate", copied.folder, "-b", family / "one.jsonl", "--front", "--split", "nope"
    )
    assert code == 2 and "unknown split 'nope'" in err and "..." not in err


@pytest.mark.slow
def test_what_was_scored_on_a_bank_of_another_day_is_kept(copied, family, tmp_path, run):
    """By the bank's content and the libraries; a search counts no time for it, and goes on."""
    options = ("-b", family / "two.jsonl", "--front", "--json")
    with closing(Ledger(copied.folder)) as ledger:
        seconds = ledger.seconds()
    first, again = (run("evaluate", copied.folder, *options) for _ in range(2))
    assert first[:2] == again[:2] and first[0] == 0
    assert f"{copied.chosen.label} ..." in first[2] and again[2] == ""
    with closing(Ledger(copied.folder)) as ledger:
        assert ledger.seconds() == seconds
    other = tmp_path / "two.jsonl"
    other.write_text((family / "two.jsonl").read_text().replace('"answer": 0', '"answer": 1'))
    changed = run("evaluate", copied.folder, "-b", other, "--front", "--json")
    assert changed[0] == 0 and changed[1] != first[1]
    longer = evomerge.search(families.recipe(family, budget={"candidates": 19}), copied.folder)
    assert len(longer.asked()) == 19


def test_a_run_is_no_model(done, family, refused):
    options = ("-b", family / "two.jsonl")
    refused("evaluate", done.folder, *options, code=2, says=[str(done.folder), "--front"])
    with pytest.raises(errors.RecipeError, match="is a run, expected a model"):
        evomerge.evaluate(done.folder, family / "two.jsonl")
