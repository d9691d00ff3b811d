"""Every mistake in a recipe gets one message that says where, what and what instead."""

import json
import platform
import re
import shutil

import pytest
import torch

import evomerge
from evomerge import api, errors, schema
from evomerge.recipe import read
from tests import command, families

GENES = "space.genes"

# Names and values are refused although the models are not there: those are opened later.
ABSENT = {"base": "/absent/base", "experts": {"left": "/absent/left", "right": "/absent/right"}}

WRONG = [
    ({"seedd": 1}, "unknown key 'seedd'. Did you mean 'seed'?"),
    ({"space": {"block": 2}}, "space: unknown key 'block'. Did you mean 'blocks'?"),
    ({"objectives": {"a": {"bnk": "x"}}}, "objectives.a: unknown key 'bnk'. Did you mean 'bank'"),
    ({"objectives": {"a": None}}, "'a': expected a bank's name or path, or a mapping"),
    ({"objectives": {"a": {"bank": "x", "function": "y:z"}}}, "objectives.a: expected either"),
    ({"objectives": {"a": {"measure": "sparsity", "signal": "length"}}}, "is of a bank's answers"),
    ({"objectives": {"a": {"function": "os:sep", "signal": "plain"}}}, "'plain' is of a bank's"),
    ({"objectives": {}}, "objectives: expected at least one, such as"),
    ({"objectives": {"a": "tiny_cod"}}, "objectives.a: fitness: unknown bank 'tiny_cod'"),
    ({"objectives": {"a": "zoo:tiny/banks/cod.jsonl"}}, "Did you mean 'banks/code.jsonl'?"),
    ({"objectives": {"a": "zoo:tiny/base"}}, "zoo:tiny: unknown bank 'base'"),
    ({"objectives": {"a": {"function": "absent:f"}}}, "no module 'absent'"),
    (
        {"objectives": {"a": {"function": "json:dump_"}}},
        "unknown name 'dump_'. Did you mean 'dump'",
    ),
    ({"objectives": {"a": {"function": "json"}}}, "expected module:name, got 'json'"),
    ({"objectives": {"a": {"function": "os:sep"}}}, "'os:sep' is '/', which can not be called"),
    ({"budget": {"candidate": 3}}, "budget: unknown key 'candidate'. Did you mean 'candidates'?"),
    ({"budget": {"candidates": 0}}, "budget.candidates: expected at least 1, got 0"),
    ({"budget": {"seconds": float("inf")}}, "budget.seconds: expected a finite number, got inf"),
    ({"budget": {"until": 730}}, "budget.until: expected a text (quote what YAML reads otherwise"),
    ({"budget": {}}, "budget: give candidates, items, seconds or until"),
    ({"budget": [100]}, "budget: expected a mapping ('key: value' lines), got [100]"),
    (
        {"budget": "8 days"},
        ": budget: expected a time such as 8h or 1h30m, a number of candidates such as 500, or of "
        "items such as 200k-items, got '8 days'\n",
    ),
    (
        {"budget": {"until": "25:00"}},
        ": budget: until: expected a time such as 07:00, or a date and time such as 2026-03-29 "
        "07:00, got '25:00'\n",
    ),
    ({"disk_reserve": "much"}, "disk_reserve: expected a size such as 5GB or 500MB, got 'much'"),
    ({"fidelity": {"name": "first", "item": 3}}, "fidelity: unknown key 'item'"),
    ({"fidelity": "frist"}, "(did you mean 'first'?), got 'frist'"),
    ({"fidelity": "first"}, "fidelity.items: 'first' needs a number of items"),
    ({"fidelity": {"name": "all", "items": 5}}, "fidelity.items: 'all' asks every item"),
    (
        {"fidelity": {"name": "stratified", "items": 5, "every": 4}},
        "fidelity.every: nothing is fitted or replaced anew here: goes with 'rotate'",
    ),
    ({"operator": "tise"}, "operator: unknown operator 'tise'. Did you mean 'ties'?"),
    ({"operator": []}, "operator: expected an operator's name, or a list of names, got []"),
    ({"operator": ["ties", "ties"]}, "operator: an operator stands twice"),
    ({"operator": "os.path"}, "module 'os.path' is no operator: it lacks VERSION, GENES"),
    ({"operator": "."}, "operator: expected the name of a Python module, got '.'"),
    ({"strategy": "nsga"}, "strategy: unknown strategy 'nsga'. Did you mean 'nsga2'?"),
    ({"strategy": 3}, "strategy: expected a name, or a mapping with 'name' and options, got 3"),
    ({"strategy": {"population": 6}}, "strategy.name: is missing"),
    ({"strategy": "lab.absent"}, "strategy: no module 'lab.absent' in"),
    ({"strategy": {"name": "nsga2", "populaton": 6}}, "Did you mean 'population'?"),
    ({"strategy": {"name": "nsga2", "population": "many"}}, "got 'many', expected a whole number"),
    ({"strategy": {"name": "cma_es", "sigma0": 0}}, "strategy.cma_es.sigma0: got 0, expected"),
    (
        {"strategy": {"name": "seeded", "inner": {"name": "nsga2", "population": 10**6}}},
        "strategy.inner.population: 1000000 candidates are more than the budget has",
    ),
    (
        {"strategy": {"name": "staged", "candidates": 19}},
        "strategy.candidates: 19 candidates are more than the budget has (18): its second",
    ),
    ({"strategy": {"name": "seeded", "inner": "cma_es"}}, "got 'cma_es', expected a mapping"),
    ({"strategy": {"name": "seeded", "inner": {"name": "cma"}}}, "Did you mean 'cma_es'?"),
    (
        {"strategy": {"name": "seeded", "inner": {"name": "cma_es", "sigma0": -1}}},
        "strategy.cma_es.sigma0: got -1, expected",
    ),
    ({"strategy": "cma_es", "operator": ["ties", "dare"], "space": {}}, "'operator' is a choice"),
    ({"executor": "rya"}, "executor: unknown executor 'rya'. Did you mean 'ray'?"),
    ({"executor": {"name": "ray", "worker": 2}}, "Did you mean 'workers'?"),
    ({"executor": {"name": "ray", "workers": 0}}, "workers: got 0, expected at least 1"),
    ({"executor": {"name": "ray", "workers": "two"}}, "got 'two', expected a whole number"),
    ({"executor": {"name": "ray", "gpus": 1.5}}, "ray.gpus: got 1.5, a fraction lies on one GPU"),
    ({"executor": {"name": "ray", "gpus": -1}}, "gpus: got -1, expected at least 0"),
    ({"executor": {"name": "inline", "workers": 4}}, "workers: got 4, expected at most 1"),
    (
        {"space": {"genes": {"wieght": 1}}},
        f"{GENES}: unknown gene 'wieght'. Did you mean 'weight'",
    ),
    ({"space": {"genes": {"weight[lfet]": 1}}}, "unknown expert of a gene 'lfet'. Did you mean"),
    ({"space": {"blocks": 2, "genes": {"weight@3": 1}}}, "unknown group of a gene '3'. Known: 1"),
    ({"space": {"genes": {"weight[left": 1}}}, f"{GENES}: 'weight[left' is no gene; expected"),
    ({"space": {"genes": {"weight": [1, 0]}}}, "expected [low, high] with low < high, got [1.0"),
    ({"space": {"genes": {"weight": [0, 30]}}}, f"{GENES}.weight: 30.0 is outside the range [-1"),
    ({"space": {"genes": {"weight": 30}}}, f"{GENES}.weight: 30.0 is outside the range [-1, 1.5]"),
    ({"space": {"genes": {"weight": [0, "a"]}}}, "'weight': expected a number or a choice"),
    ({"space": {"genes": {"weight": True}}}, "'weight': expected a number or a choice"),
    ({"space": {"genes": {"weight": float("nan")}}}, "nan is outside the range"),
    ({"space": {"genes": {"weight": 0.5}}}, "the space has no genes: there is nothing to search"),
    ({"operator": "ties", "space": {"genes": {"reducer": "meen"}}}, "Did you mean 'mean'?"),
    ({"operator": "ties", "space": {"genes": {"reducer": ["sum", "sum"]}}}, "stands twice"),
    ({"space": {"blocks": 0}}, "space.blocks: expected a whole number from 1, or 'all', got 0"),
    ({"space": {"blocks": "al"}}, "expected a whole number from 1, or 'all', got 'al'"),
    ({"space": {"roles": ["mpl"]}}, "(did you mean 'mlp'?), got 'mpl'"),
    ({"batch": 0}, "batch: expected at least 1, got 0"),
    ({"ask": 0}, "ask: expected at least 1, got 0"),
    ({"seed": -1}, "seed: expected at least 0, got -1"),
    ({"seed": 2**70}, "seed: expected less than"),
    ({"device": "gpu"}, "device: unknown device 'gpu'"),
    ({"dtype": "bfloat"}, "(did you mean 'bfloat16'?), got 'bfloat'"),
    ({"name": ".."}, "name: expected letters, digits, then also . _ -, got '..'"),
    ({"experts": {}}, "experts: expected at least 1 item"),
    ({"experts": {"base": "/absent"}}, "no expert can be called 'base'"),
    ({"experts": {"a/b": "/absent"}}, "'a/b' is no name"),
    ({"objectives": {"point": "/absent"}}, "objectives: 'point' can not be the name of a score"),
    ({"objectives": {"items": "/absent"}}, "objectives: 'items' can not be the name of a score"),
    ({"objectives": {schema.LACKING: "/absent"}}, "to keep' can not be the name of a score"),
    ({"objectives": {"a_low": "/absent", "a": "/absent"}}, "objectives: 'a_low' can not be the"),
    ({"experts": {1: "/absent"}}, "expected a text (quote what YAML reads otherwise"),
    ({"base": "zoo:tinny/base"}, "base: zoo: unknown family 'tinny'. Did you mean 'tiny'?"),
    ({"base": "zoo:tiny"}, "base: zoo:tiny: unknown model ''. Known: base, code"),
    ({"experts": {"a": "zoo:tiny/cod"}}, "experts.a: zoo:tiny: unknown member 'cod'"),
]


@pytest.mark.parametrize(("changes", "says"), WRONG, ids=[says[:40] for _, says in WRONG])
def test_a_wrong_recipe_is_refused_before_anything_is_opened(
    refused, family, tmp_path, monkeypatch, changes, says
):
    monkeypatch.setenv("EVOMERGE_HOME", str(tmp_path / "home"))
    path = command.write(tmp_path, families.recipe(family, **{**ABSENT, **changes}))
    refused("search", path, "-o", tmp_path / "run", code=errors.USAGE, says=[str(path), says])
    assert not (tmp_path / "run").exists() and not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("device", "says"),
    [("cuda:99", "'cuda:99' is not on this machine"), ("mps", "'mps' has no numbers of 64 bits")],
)
def test_a_device_that_can_not_be_used(refused, family, tmp_path, device, says):
    path = command.write(tmp_path, families.recipe(family, device=device))
    refused("plan", path, code=errors.ENVIRONMENT, says=says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected 'key: value' lines, got None"),
        ("- a\n", "expected 'key: value' lines, got ['a']"),
        ("name: a\n\tbase: b\n", "line 2: is not YAML"),
        ("name: a\nname: b\n", "line 2: key 'name' stands twice"),
        ("name: &a b\nbase: *a\n", "line 1: anchors and aliases"),
        ("name: [a\n", "is not YAML"),
        (b"name: caf\xe9\n", "is not UTF-8 at byte 9"),
        ("name: a\n", ["base: is missing", "operator: is missing"]),
        ("name: !!python/object/apply:os.getcwd []\n", "line 1: is not YAML"),
    ],
)
def test_yaml_that_is_no_recipe(refused, tmp_path, text, says):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    refused("plan", path, code=errors.USAGE, says=says)


def test_a_folder_does_not_hide_the_recipe_of_its_name(tmp_path, monkeypatch):
    """`evomerge search quickstart -o quickstart`, again."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()
    assert read("quickstart")[0].name == "quickstart"


def test_a_recipe_that_is_not_there(refused, tmp_path):
    refused("plan", tmp_path, code=errors.USAGE, says="is a folder, expected a recipe file")
    refused("plan", tmp_path / "a.yaml", code=errors.USAGE, says="a.yaml: no such file")
    refused("plan", "quickstrt", code=errors.USAGE, says="Did you mean 'quickstart'?")


def test_exponents_are_numbers(run, family, tmp_path):
    """To YAML 1.1, which most people do not mean, 1e-3 is a text."""
    space = {"blocks": 2, "genes": {"weight@1": 0.5, "weight@2": [0, 0.5]}}
    path = command.write(tmp_path, families.recipe(family, space=space))
    path.write_text(path.read_text().replace("0.5", "5e-1"))
    assert run("plan", path)[0] == 0


def test_a_recipe_without_a_strategy_is_told_which_it_gets(run, family, tmp_path):
    path = command.write(tmp_path, families.recipe(family, strategy=None))
    code, out, _ = run("plan", path, "--json")
    notes = json.loads(out)["notes"]
    assert code == 0 and json.loads(out)["strategy"] == "auto"
    assert any(
        note.startswith("strategy auto: textbook merges, then cma_es (6 ") for note in notes
    )


FIRST = "no generation would follow the first one"
ITEMS = "candidates that the budget of items has at most"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"strategy": "nsga2"},
         f"nsga2: its population of 24 is more than the 18 candidates of the budget: {FIRST}"),
        ({"strategy": "racing"}, f"nsga2: its population of 24 is more than the 18 .*{FIRST}"),
        ({"strategy": "staged"}, "staged: its candidates of 32 is more .*would never begin"),
        ({"strategy": "m2n2"}, "m2n2: its archive of 20 is more .*have to leave it"),
        ({"strategy": {"name": "m2n2", "archive": 19}}, "m2n2: its archive of 19 is more"),
        ({"strategy": "gp", "budget": 15}, "gp: its startup of 16 .*nothing would be modelled"),
        ({"strategy": {"name": "nsga2", "population": 18}}, None),
        # of 400 items base and experts answer 180, candidates 40 each
        ({"budget": {"items": 400}, "strategy": {"name": "nsga2", "population": 7}},
         f"nsga2: its population of 7 is more than the 6 {ITEMS}: {FIRST}"),
        ({"budget": {"items": 400}, "strategy": {"name": "nsga2", "population": 6}}, None),
        ({"budget": {"items": 180}}, f"nsga2: its population of 6 is more than the 0 {ITEMS}"),
        ({"budget": {"items": 400}, "strategy": "racing"}, None),  # of few items each
        ({"budget": {"seconds": 60}, "strategy": "nsga2"}, None),
    ],
)  # fmt: skip
def test_what_a_budget_ends_before_is_said(run, family, tmp_path, changes, says):
    path = command.write(tmp_path, families.recipe(family, **changes))
    code, out, err = run("plan", path, "--json")
    assert code == 0, err
    found = [
        note for note in json.loads(out)["notes"] if "its " in note and " is more than" in note
    ]
    assert len(found) == (says is not None) and (not found or re.match(says, found[0])), found


def test_one_budget_is_given_once(refused, family, tmp_path):
    path = command.write(tmp_path, families.recipe(family))
    says = "--budget 5 and --candidates 100: give one of them"
    refused("search", path, "--budget", "5", "--candidates", "100", code=errors.USAGE, says=says)


def test_more_items_than_a_bank_has_are_all_asked(run, family, tmp_path):
    fidelity = {"name": "first", "items": 5000}
    path = command.write(tmp_path, families.recipe(family, fidelity=fidelity))
    code, out, _ = run("plan", path, "--json")
    found = json.loads(out)
    assert code == 0 and found["items per candidate"] == 60
    assert found["notes"][0] == "fidelity.items is 5000, and 'one' has 30: all are asked"


def test_a_bank_too_small_for_intervals_is_pointed_out(run, family, tmp_path):
    lines = (family / "one.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["split"] != "test"]
    tested = [line for line in lines if json.loads(line)["split"] == "test"]
    (tmp_path / "few.jsonl").write_text("".join(kept + tested[:3]))
    objectives = {"few": "few.jsonl", "two": str(family / "two.jsonl")}
    path = command.write(tmp_path, families.recipe(family, objectives=objectives))
    said = [note for note in json.loads(run("plan", path, "--json")[1])["notes"] if "test" in note]
    assert said == [
        "'few' has 3 test items: with fewer than 20, differences between models get no interval "
        "and no p-value"
    ]
    code, out, _ = run("search", path, "-o", tmp_path / "run")
    assert code == 0 and "-: a bank has fewer than 20 test items" in " ".join(out.split())


def test_rungs_beyond_a_bank_are_named(run, family, tmp_path):
    racing = {"name": "racing", "inner": {"name": "sobol"}, "rungs": [10, 30, 4000]}
    path = command.write(tmp_path, families.recipe(family, strategy=racing))
    found = json.loads(run("plan", path, "--json")[1])["notes"]
    says = "strategy.rungs has 4000, and '{}' has 30: all are asked"
    assert [n for n in found if "all are asked" in n] == [says.format(n) for n in ("one", "two")]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="others say nothing of bfloat16")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_type_that_this_processor_is_slow_at_is_named(run, family, tmp_path, dtype):
    path = command.write(tmp_path, families.recipe(family, dtype=dtype, device="cpu"))
    said = any(
        "slow at bfloat16" in note for note in json.loads(run("plan", path, "--json")[1])["notes"]
    )
    slow = torch.backends.cpu.get_cpu_capability() != "AVX512"
    assert said == (slow and dtype == "bfloat16")


def test_a_bank_smaller_than_a_block_has_no_more_items_than_it_has(run, family, tmp_path):
    path = command.write(tmp_path, families.recipe(family, batch=25, fidelity="all"))
    assert json.loads(run("plan", path, "--json")[1])["items per candidate"] == 60


def test_a_model_is_no_folder_for_a_run(family, tmp_path, refused):
    recipe, place = command.write(tmp_path, families.recipe(family)), tmp_path / "model"
    shutil.copytree(family / "left", place)
    before = sorted(place.iterdir())
    says = [f"{place}: holds a model, expected a new folder for the run"]
    refused("search", recipe, "-o", place, code=errors.USAGE, says=says)
    assert sorted(place.iterdir()) == before


def test_python_gets_the_same_refusals(family, tmp_path):
    with pytest.raises(errors.RecipeError, match="unknown key 'budgte'"):
        evomerge.search(families.recipe(family), tmp_path / "run", budgte=3)
    names = [family / "left", family / "right"]
    with pytest.raises(errors.RecipeError, match="a value for each of left, right"):
        evomerge.merge(family / "base", names, weight={"left": 1})
    with pytest.raises(errors.RecipeError, match="of left, right, got"):
        evomerge.merge(family / "base", names, weight={"left": 1}, blocks=2)
    with pytest.raises(errors.RecipeError, match="seed: expected a whole number of at least 0"):
        evomerge.merge(family / "base", names, seed=-1)
    with pytest.raises(errors.RecipeError, match="shard size: expected a size such as 5GB"):
        evomerge.merge(family / "base", names, shard_size=0, out=tmp_path / "made")
    with pytest.raises(errors.RecipeError, match=r"objectives.mine: expected a function, got 3"):
        evomerge.search(families.recipe(family), tmp_path / "run", objectives={"mine": 3})
    with pytest.raises(errors.RecipeError, match="expected one value, for all experts"):
        evomerge.merge(family / "base", names, "ties", density=[0.1, 0.2])
    with pytest.raises(errors.RecipeError, match="blocks: expected a whole number"):
        evomerge.merge(family / "base", names, blocks="al")
    for none in (None, []):
        with pytest.raises(errors.RecipeError, match="bank: expected one or more"):
            evomerge.evaluate(family / "base", none)
    with pytest.raises(errors.RecipeError, match="a whole number of at least 1, got 0"):
        evomerge.evaluate(family / "base", [family / "one.jsonl"], batch=0)
    one = evomerge.evaluate(family / "base", str(family / "one.jsonl"))
    assert list(one) == ["one"] and len(one["one"].scores) == 20
    assert api.plan_of(family / "base", family / "left", "linear").experts[0].name == "left"
    with pytest.raises(errors.InputError, match="no run here"):
        evomerge.Run(tmp_path)
    with pytest.raises(AttributeError, match="no attribute 'Pln'"):
        _ = evomerge.Pln
