"""A run whose inputs, banks or recipe have changed since: what is refused, what goes on."""

import json
import shutil
import sqlite3
import sys
from contextlib import closing

import pytest

import evomerge
from evomerge import changes, errors, session, status
from evomerge.between import between
from evomerge.recipe import resolve
from tests import command, families, ledgers

LARGER = ("--candidates", 12)


@pytest.fixture(scope="module")
def finished(family, tmp_path_factory):
    """A family of its own, a recipe and a finished run of six candidates, to be copied."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(family, folder / "family")
    write(folder)
    evomerge.search(str(folder / "recipe.yaml"), folder / "run")
    return folder


def write(folder, **changes):
    fits = {"budget": {"candidates": 6}, **changes}
    command.write(folder, families.recipe(folder / "family", **fits))


@pytest.fixture
def here(finished, tmp_path, monkeypatch):
    """A copy of the run, whose family stays the finished one's unless a test copies it too."""
    shutil.copytree(finished / "run", tmp_path / "run")
    shutil.copytree(finished / "family", tmp_path / "family")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def events(folder, kind):
    return [body for one, body in ledgers.content(folder)["events"] if one == kind]


def edit(file, *rows):
    """Other words in these items of a bank."""
    items = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        items[row]["prompt"] += "?"
    file.write_text("".join(f"{json.dumps(item)}\n" for item in items))


def test_another_function_under_the_same_name(family, tmp_path, monkeypatch, run, refused):
    """What one has answered is not compared with what the other does; comments may change."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    objectives = {"mine": {"function": "changing:mine"}}
    recipe = families.recipe(family, objectives=objectives, strategy="sobol")

    def search(body, candidates):
        (tmp_path / "changing.py").write_text(f"def mine(model, tokenizer):\n    return {body}\n")
        sys.modules.pop("changing", None)
        return evomerge.search(recipe, tmp_path / "run", budget={"candidates": candidates})

    search("0.5", 4)
    search("0.5  # a remark", 5)
    with pytest.raises(errors.RecipeError) as refusal:
        search("0.75", 6)
    assert "objectives.mine: the run has mine, 1, changing:mine code " in str(refusal.value)
    assert "another recipe" in str(refusal.value)
    assert {row["mine"] for row in search("0.5", 6).front.rows()} == {0.5}


def test_a_run_from_before_functions_had_a_code_goes_on():
    old, new = ["mine", 1, "a:mine", "score"], ["mine", 1, "a:mine code 0123", "score"]
    other = ["mine", 1, "a:mine code 4567", "score"]
    assert not changes.between({"o": old}, {"o": new}) and not changes.between(
        {"o": new}, {"o": old}
    )
    assert changes.between({"o": new}, {"o": other})
    assert changes.between({"o": old}, {"o": ["mine", 1, "b:mine code 0123", "score"]})
    assert changes.between({"o": old}, {"o": [*new[:3], "margin"]})


def test_the_time_between_two_sessions_is_not_spent(family, tmp_path):
    """Though the second one begins with an event of what has changed."""
    shutil.copytree(family, tmp_path / "family")
    recipe = families.recipe(tmp_path / "family", strategy="sobol", budget={"candidates": 3})
    evomerge.search(recipe, tmp_path / "run")
    week = 7 * 86400
    with closing(sqlite3.connect(tmp_path / "run" / "ledger.sqlite")) as db:
        db.execute("UPDATE events SET time = time - ?", (week,))
        worked = "json_set(body, '$.worked', json_extract(body, '$.worked') - ?)"
        db.execute(f"UPDATE sessions SET time = time - ?, body = {worked}", (week, week))
        db.commit()
    edit(tmp_path / "family" / "one.jsonl", 0)
    longer = {**recipe, "budget": {"candidates": 5, "seconds": 86400}}
    run = evomerge.search(longer, tmp_path / "run", allow_change=True)
    assert len(events(run.folder, "changed")) == 1 and len(run.asked()) == 5
    assert run.spent()["seconds"] < 86400


@pytest.mark.slow
def test_one_byte_of_an_input(here, run, refused):
    """Refused with both sha256; allowed, the old candidates stay told and are not confirmed."""
    write(here)
    weights = here / "family" / "left" / "model.safetensors"
    before = resolve("recipe.yaml").experts["left"].sha256
    data = bytearray(weights.read_bytes())
    data[-2] ^= 1
    weights.write_bytes(data)
    after = resolve("recipe.yaml").experts["left"].sha256
    says = [f"experts.left ({here / 'family' / 'left'}): the run has {before}, now it is {after}"]
    untouched = ledgers.content(here / "run")
    asked = ("search", "recipe.yaml", "-o", "run", *LARGER)
    refused(*asked, code=errors.USAGE, says=[*says, "--allow-change"])
    assert ledgers.content(here / "run") == untouched

    code, _, err = run(*asked, "--allow-change")
    assert code == 0 and "6 candidates are of inputs that have changed since" in " ".join(
        err.split()
    )
    assert events(here / "run", "changed") == [says]
    opened = evomerge.Run(here / "run")
    labels = list(opened.asked())
    assert labels == [f"c{i}" for i in range(12)]
    assert not set(labels[:6]) & {p.label for p in opened.front}
    new = {item.sha256 for point in opened.front for item in opened.plan(point.label).inputs()}
    assert after in new and before not in new and not opened.failures()
    told = [{row["id"]: row["losses"] for row in body} for body in events(here / "run", "tell")]
    old = [body for kind, body in untouched["events"] if kind == "tell"]
    assert told[: len(old)] == [{row["id"]: row["losses"] for row in body} for body in old]
    assert len(events(here / "run", "anchors")) == 1
    again = ledgers.content(here / "run")
    assert run(*asked)[0] == 0, "what was allowed once is the run's own now"
    assert ledgers.content(here / "run") == again


@pytest.mark.slow
def test_other_questions_in_a_bank(here, run, refused):
    """One of each split: what is reported is answered by everybody, on the questions of now."""
    write(here)
    edit(here / "family" / "one.jsonl", 0, 35, 55)
    asked = ("search", "recipe.yaml", "-o", "run", *LARGER)
    bank = here / "family" / "one.jsonl"
    err = refused(*asked, code=errors.USAGE, says=[f"objectives.one ({bank}): the run has one, 1"])
    assert "objectives.two" not in err
    assert run(*asked, "--allow-change")[0] == 0
    assert len(events(here / "run", "changed")) == 1
    opened = evomerge.Run(here / "run")
    assert {len(p.scores["test"][i]) for p in opened.front for i in (0, 1)} == {20}
    assert {len(p.scores["test"][i]) for p in opened.baselines for i in (0, 1)} == {20}
    scores = evomerge.evaluate(here / "family" / "left", [bank])["one"]
    (left,) = [p for p in opened.baselines if p.label == "expert left"]
    assert left.mean("test") == pytest.approx(
        (scores.mean + opened.point("expert left").means("test")[1]) / 2
    )
    assert left.means("test")[0] == scores.mean


AGAIN = ("search", "recipe.yaml", "-o", "run", "--allow-change")
"""Within the budget that the run has used."""


@pytest.mark.parametrize("rows", [range(50, 55), range(70)], ids=["some of test", "all"])
def test_what_is_confirmed_is_confirmed_anew_after_a_change_of_questions(here, run, rows):
    """Within the same budget too; then nothing is left to do."""
    write(here)
    asked = len(evomerge.Run(here / "run").asked())
    for bank in ("one", "two"):
        edit(here / "family" / f"{bank}.jsonl", *rows)
    code, _, err = run(*AGAIN)
    assert code == 0, err
    opened = evomerge.Run(here / "run")
    assert len(opened.asked()) == asked and len(events(here / "run", "confirmed")) == 2
    everybody = (*opened.front, *opened.baselines)
    assert {len(p.scores["test"][i]) for p in everybody for i in (0, 1)} == {20}
    left = evomerge.evaluate(here / "family" / "left", [here / "family" / "one.jsonl"])["one"]
    assert opened.point("expert left").means("test")[0] == left.mean
    assert status.read(here / "run")["state"] == "confirmed"
    for asked_for in ("front", "report"):
        assert run(asked_for, "run")[0] == 0
    before = ledgers.content(here / "run")
    assert run(*AGAIN)[0] == 0 and ledgers.content(here / "run") == before


def test_nothing_is_confirmed_where_no_candidate_can_be_built_any_more(here, refused):
    """And all that look at the run say so, whatever was confirmed before."""
    write(here)
    weights = here / "family" / "left" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-2] ^= 1
    weights.write_bytes(data)
    says = "no candidate has a score: nothing to confirm"
    for _ in range(2):
        refused(*AGAIN, code=errors.UNCONFIRMED, says=says)
    assert len(events(here / "run", "unconfirmed")) == 1
    assert status.read(here / "run")["state"].startswith(f"ended: {says}")


def test_other_libraries_leave_what_is_confirmed_as_it_is(here, run, monkeypatch):
    """Neither plans nor questions are others: no second look at `test`."""
    write(here)
    now = {**session.versions(), "torch": "99"}
    monkeypatch.setattr(session, "versions", lambda: now)
    code, out, err = run(*AGAIN)
    assert code == 0 and "libraries.torch" in err
    assert len(events(here / "run", "changed")) == len(events(here / "run", "confirmed")) == 1
    assert "looks at test so far: 1" in out
    assert status.read(here / "run")["state"] == "confirmed"


def test_a_front_of_before_a_change_is_none_until_it_is_confirmed_anew(here, run, refused):
    """Then it stands again, whatever had been asked when the search was interrupted."""
    write(here)
    edit(here / "family" / "one.jsonl", *range(50, 55))
    tested = []

    def stop(event, facts):
        tested.extend([event] if tested or facts.get("name") == "test" else [])
        if len(tested) > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evomerge.search("recipe.yaml", "run", allow_change=True, report=stop)
    assert not evomerge.Run("run").is_confirmed
    assert status.read(here / "run")["state"] == "interrupted in its confirmation"
    for asked in (("front", "run"), ("report", "run"), ("export", "run", "best", "-o", "merged")):
        refused(*asked, code=errors.UNCONFIRMED, says="not confirmed yet; run the search again")
    assert run(*AGAIN)[0] == 0 and run("front", "run")[0] == 0


def test_a_point_in_between_of_before_a_change_is_compared_with_nobody(here, run):
    write(here)
    old = between("run", "base", "expert left")
    edit(here / "family" / "one.jsonl", *range(50, 55))
    assert run(*AGAIN)[0] == 0
    code, out, err = run("between", "run", old.label, "expert right", "--json")
    assert code == 0, err
    first, *others = json.loads(out)
    assert first["point"] == old.label and first["nondominated"] is None
    assert first["one"] is not None and {row["nondominated"] is None for row in others} == {False}
    opened = evomerge.Run("run")
    assert opened.hypervolume([opened.point(old.label)])[0] == 0


SCORER = """
from evomerge import errors

def prepare(tokenizer, items, *, disliked):
    return [item.prompt for item in items], disliked

def score(model, batch):
    prompts, disliked = batch
    if "?" in "".join(prompts):
        if abs(model.get_input_embeddings().weight.sum().item() - disliked) < 1e-6:
            raise errors.EvaluationError("this model displeases")
    return {"score": [(len(prompt) % 3) / 2 for prompt in prompts]}
"""


def test_who_fails_on_new_questions_is_compared_with_nobody(here, run, monkeypatch):
    (here / "squeamish").mkdir()
    (here / "squeamish" / "scorer.py").write_text(SCORER)
    monkeypatch.syspath_prepend(here)
    left = evomerge.Run("run").plan("expert left")
    disliked = evomerge.api.build(left).get_input_embeddings().weight.sum().item()
    keys = {
        "name": "b",
        "version": 1,
        "scorer": {"name": "squeamish.scorer", "disliked": disliked},
    }
    (here / "b.yaml").write_text(json.dumps({**keys, "source": str(here / "family/one.jsonl")}))
    write(here, objectives={"b": str(here / "b.yaml")})
    asked = (*AGAIN[:3], "squeamish-run", *AGAIN[4:])
    assert run(*asked)[0] == 0
    edit(here / "family" / "one.jsonl", *range(50, 55))
    code, out, err = run(*asked)
    assert code == 0, err
    assert "expert left could not be scored: " in out and "this model displeases" in out
    opened = evomerge.Run("squeamish-run")
    counts = {p.label: len(p.scores["test"][0]) for p in opened.baselines}
    assert counts["expert left"] == 15 and counts["base"] == 20
    compared = {row["baseline"] for row in opened.comparisons()}
    assert "base" in compared and "expert left" not in compared
    rows = {row["point"]: row["nondominated"] for row in opened.baselines.rows()}
    assert rows["expert left"] is None and rows["base"] is not None
    assert (
        opened.hypervolume(opened.baselines)[0]
        == opened.hypervolume([p for p in opened.baselines if p.label != "expert left"])[0]
    )


def test_a_question_that_moves_into_another_split(here, refused):
    write(here)
    bank = here / "family" / "one.jsonl"
    items = [json.loads(line) for line in bank.read_text().splitlines()]
    items[0]["split"] = "test"
    bank.write_text("".join(f"{json.dumps(item)}\n" for item in items))
    says = "one of 'search', now it is in 'test'"
    asked = ("search", "recipe.yaml", "-o", "run", *LARGER, "--allow-change")
    refused(*asked, code=errors.USAGE, says=says)
    assert not events(here / "run", "changed")


def banks(*names):
    return lambda family: {"objectives": {name: str(family / f"{name}.jsonl") for name in names}}


def experts(**members):
    return lambda family: {"experts": {name: str(family / m) for name, m in members.items()}}


def probabilities(family):
    one = {"bank": str(family / "one.jsonl"), "signal": "probability"}
    return {"objectives": {"one": one, "two": str(family / "two.jsonl")}}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            lambda family: {"space": {"blocks": 2, "genes": {"weight": [0, 1.5]}}},
            "genes.weight[left]@1: the run has 0.0, 1.2, 0.0, now it is 0.0, 1.5, 0.0",
        ),
        (lambda family: {"seed": 4}, "seed: the run has 3, now it is 4"),
        (lambda family: {"operator": "linear"}, "operators.task_arithmetic"),
        (banks("one", "two", "three"), "evomerge evaluate run --front --bank BANK"),
        (banks("one"), "evomerge evaluate run --front --bank BANK"),
        (banks("one"), "objectives.two: the run has two, 1"),
        (probabilities, "score, now it is one, 1"),
        (experts(left="left", right="right", more="base"), "Other experts are another search"),
        (experts(left="left"), "experts.right: the run has"),
    ],
)
def test_another_recipe_is_refused_whatever_one_insists_on(here, refused, changes, says):
    """Nothing of the run changes, not even what it takes itself to be: it goes on afterwards."""
    shutil.copy(here / "family" / "two.jsonl", here / "family" / "three.jsonl")
    write(here, **changes(here / "family"))
    before = (ledgers.content(here / "run"), (here / "run" / "recipe.json").read_text())
    asked = ("search", "recipe.yaml", "-o", "run", *LARGER, "--allow-change")
    refused(*asked, code=errors.USAGE, says=[says, "another recipe", "-o"])
    assert (ledgers.content(here / "run"), (here / "run" / "recipe.json").read_text()) == before
    write(here)
    evomerge.search("recipe.yaml", "run")


@pytest.mark.parametrize("part", ["objectives", "experts"])
def test_another_order_is_another_recipe(here, part):
    """Losses and points of before are rows of numbers in the order of then."""
    recipe = families.recipe(here / "family", budget={"candidates": 12})
    names = list(recipe[part])
    turned = {name: recipe[part][name] for name in reversed(names)}
    before = ledgers.content(here / "run")
    with pytest.raises(errors.RecipeError) as refusal:
        evomerge.search({**recipe, part: turned}, "run", allow_change=True)
    first, second = names
    says = f"order of {part}: the run has {first}, {second}, now it is {second}, {first}\n"
    assert says in str(refusal.value) and "another recipe" in str(refusal.value)
    assert ledgers.content(here / "run") == before
    assert len(evomerge.search(recipe, "run").asked()) == 12


def test_what_else_has_an_order(family):
    """Operators and functions; not what has to be kept, which is known by its names alone."""
    keep = {name: {"bank": str(family / "one.jsonl"), "at_least": 0} for name in ("x", "y")}
    operators = ["ties", "linear"]

    def of(operators, keep, *names):
        recipe = families.recipe(family, operator=operators, keep=keep, objectives={})
        return resolve(recipe, functions=dict.fromkeys(names, len)).identity()

    def places(*other):
        return {
            change.place for change in changes.between(of(operators, keep, "f", "g"), of(*other))
        }

    assert not places(operators, dict(reversed(keep.items())), "f", "g")
    assert places(operators, keep, "g", "f") == {"order of objectives"}
    assert places(operators[::-1], keep, "f", "g") >= {"order of operators", "order of genes"}


def test_other_questions_of_an_objective_with_a_dot_in_its_name(family, tmp_path):
    shutil.copy(family / "one.jsonl", tmp_path / "one.jsonl")
    recipe = families.recipe(
        family, objectives={"math.v2": str(tmp_path / "one.jsonl")}, strategy="sobol",
        budget={"candidates": 4},
    )  # fmt: skip
    evomerge.search(recipe, tmp_path / "run")
    edit(tmp_path / "one.jsonl", 0)
    longer = {**recipe, "budget": {"candidates": 6}}
    with pytest.raises(errors.RecipeError) as refusal:
        evomerge.search(longer, tmp_path / "run")
    says = f"objectives.math.v2 ({tmp_path / 'one.jsonl'}): the run has one, 1"
    assert says in str(refusal.value) and "--allow-change" in str(refusal.value)
    evomerge.search(longer, tmp_path / "run", allow_change=True)
    assert len(events(tmp_path / "run", "changed")) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"fidelity": {"name": "random", "items": 10}}, {"strategy": "m2n2"}]
)
def test_questions_on_which_choices_rest_do_not_change(here, refused, changes):
    write(here, **changes)
    evomerge.search("recipe.yaml", here / "rests")
    edit(here / "family" / "one.jsonl", 0)
    asked = ("search", "recipe.yaml", "-o", "rests", *LARGER, "--allow-change")
    refused(*asked, code=errors.USAGE, says=["objectives.one", "another recipe"])
