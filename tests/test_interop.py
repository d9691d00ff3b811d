"""mergekit's files in and out: the same weights as mergekit's own, and refusals by name.

The parity tests run mergekit itself where EVOMERGE_MERGEKIT_PYTHON names a Python that has it.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
import yaml

from evomerge import api, errors, recipe
from evomerge.files import plain
from evomerge.files.checkpoint import Checkpoint
from evomerge.interop import evolve, export, mergekit, methods, plans
from evomerge.materialize import Merged, Workshop
from evomerge.plan import Plan

PYTHON = os.environ.get("EVOMERGE_MERGEKIT_PYTHON")
needs_mergekit = pytest.mark.skipif(
    not PYTHON, reason="EVOMERGE_MERGEKIT_PYTHON names no Python with mergekit"
)
RUN = """
import sys
from pathlib import Path
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
for file in sys.argv[1:]:
    config = MergeConfiguration.model_validate(yaml.safe_load(Path(file).read_text()))
    options = MergeOptions(write_model_card=False, quiet=True, random_seed=0)
    run_merge(config, str(Path(file).with_suffix("")), options)
"""


def mergekit_builds(files):
    """Have mergekit build each YAML beside it, all in one process."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [PYTHON, "-c", RUN, *map(str, files)], env=environment, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr


def tensors(source) -> dict[str, torch.Tensor]:
    if isinstance(source, Plan):
        merged = Merged(source, Workshop.of(source))
        return {name: merged.read(name) for name in merged.tensors}
    opened = Checkpoint.open(source)
    return {name: opened.read(name) for name in opened.tensors}


def differ(one, other) -> float:
    """The largest difference; of different tensors, infinite."""
    if one.keys() != other.keys() or any(one[n].dtype != other[n].dtype for n in one):
        return float("inf")
    return max(float((one[name].float() - other[name].float()).abs().max()) for name in one)


LAYERS = [
    {"sources": [{"model": "left", "layer_range": [0, 1], "parameters": {"weight": 0.1}},
                 {"model": "right", "layer_range": [0, 1], "parameters": {"weight": 0.4}},
                 {"model": "base", "layer_range": [0, 1]}]},
    {"sources": [{"model": "base", "layer_range": [1, 2]},
                 {"model": "right", "layer_range": [1, 2]}],
     "parameters": {"weight": [{"filter": "mlp", "value": [0.3, 0.9]}, {"value": 0.2}]}},
]  # fmt: skip


def both(left, right=None, **more):
    """The two experts with their parameters, in float32."""
    given = [
        {"model": "left", "parameters": left},
        {"model": "right", "parameters": right or left},
    ]
    return {"models": given, "dtype": "float32", **more}


W, B = {"weight": 0.7}, {"base_model": "base"}
FILTERS = [{"filter": "mlp", "value": [0.1, 0.5]}, {"filter": "q_proj", "value": 0.2},
           {"filter": "*", "value": 0.9}]  # fmt: skip
CASES = {
    "linear": {"merge_method": "linear", **both({"weight": 2}, {"weight": 0.5})},
    "linear plain": {"merge_method": "linear", **both(W, W, parameters={"normalize": False})},
    "linear negative": {"merge_method": "linear", **both(W, {"weight": -0.2}, **B,
                        parameters={"weight": 1.2})},
    "task arithmetic": {"merge_method": "task_arithmetic", **both(W, {"weight": -0.3}, **B)},
    "gradient": {"merge_method": "task_arithmetic", **both({"weight": [0.1, 0.9]}, W, **B,
                 parameters={"lambda": 0.7})},
    "filters": {"merge_method": "task_arithmetic", **both({"weight": FILTERS}, W, **B,
                parameters={"normalize": True})},
    "slices": {"merge_method": "task_arithmetic", "slices": LAYERS, **B, "dtype": "float32"},
    "ties": {"merge_method": "ties", **both({**W, "density": 0.53}, {"weight": 0.3,
             "density": 0.53}, **B)},
    "ties sum": {"merge_method": "ties", **both({**W, "density": [0.2, 0.9]}, **B,
                 parameters={"normalize": False, "lambda": 0.6, "int8_mask": True})},
    "ties negative": {"merge_method": "ties", **both({**W, "density": 0.4}, {"weight": -0.5,
                      "density": 0.4}, **B)},
    "dare of all": {"merge_method": "dare_ties", **both({**W, "density": 1.0}, **B)},
    "breadcrumbs": {"merge_method": "breadcrumbs", **both({**W, "density": 0.7, "gamma": 0.02},
                    **B, parameters={"normalize": True})},
    "breadcrumbs ties": {"merge_method": "breadcrumbs_ties", **both({**W, "density": 0.7,
                         "gamma": 0.05}, **B, parameters={"lambda": 0.5})},
    "slerp": {"merge_method": "slerp", "models": [{"model": "base"}, {"model": "left"}], **B,
              "parameters": {"t": [{"filter": "self_attn", "value": [0, 0.5, 0.3]},
                                   {"value": 0.4}]}, "dtype": "float32"},
    "karcher": {"merge_method": "karcher", **both({})},
    "model stock": {"merge_method": "model_stock", **both({}, **B)},
    "model stock rows": {"merge_method": "model_stock", **both({}, **B,
                         parameters={"filter_wise": True})},
    "sce": {"merge_method": "sce", **both({}, **B, parameters={"select_topk": 0.3})},
    "saved in half": {"merge_method": "task_arithmetic", **both(W, **B), "out_dtype": "bfloat16"},
}  # fmt: skip
ROUNDING = 1e-6


def absolute(data, family):
    """The same content with the models' folders."""
    if isinstance(data, dict):
        return {key: absolute(value, family) for key, value in data.items()}
    if isinstance(data, list):
        return [absolute(value, family) for value in data]
    return str(family / data) if data in ("base", "left", "right") else data


@pytest.fixture(scope="module")
def built(family, tmp_path_factory):
    """What mergekit makes of all cases."""
    folder = tmp_path_factory.mktemp("mergekit")
    files = {name: folder / f"{name.replace(' ', '-')}.yaml" for name in CASES}
    for name, file in files.items():
        file.write_text(yaml.safe_dump(absolute(CASES[name], family)))
    mergekit_builds(files.values())
    return {name: file.with_suffix("") for name, file in files.items()}


@needs_mergekit
@pytest.mark.parametrize("name", CASES)
def test_an_imported_merge_has_mergekits_weights(family, built, name):
    imported = plans.plan_of(absolute(CASES[name], family), name, family)
    got, want = tensors(imported.plan), tensors(built[name])
    assert differ(got, want) <= (2**-8 if name == "saved in half" else ROUNDING)
    base = {key: value.to(got[key].dtype) for key, value in tensors(family / "base").items()}
    assert differ(got, base) > 0.01


RANDOM = ("dare_linear", "dare_ties", "della", "della_linear")


@needs_mergekit
def test_random_masks_are_alike_in_distribution(family, tmp_path):
    """The masks are each's own: the size of the change and the share left alone are the same."""
    given = both({"weight": 0.7, "density": 0.6}, **B)
    configs = {name: absolute({"merge_method": name, **given}, family) for name in RANDOM}
    for name, config in configs.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(config))
    mergekit_builds(tmp_path / f"{name}.yaml" for name in RANDOM)
    base = torch.cat([value.flatten() for value in tensors(family / "base").values()])
    for name, config in configs.items():
        imported = plans.plan_of(config, name, family)
        assert any("random masks" in note for note in imported.notes)
        ours, theirs = (
            torch.cat([value.flatten() for value in tensors(one).values()]) - base
            for one in (imported.plan, tmp_path / name)
        )
        assert float(ours.abs().mean()) == pytest.approx(float(theirs.abs().mean()), rel=0.1)
        alone = float((ours == 0).float().mean()), float((theirs == 0).float().mean())
        assert alone[0] == pytest.approx(alone[1], abs=0.03)
        assert float(ours @ theirs / ours.norm() / theirs.norm()) > 0.5


def by_hand(family, operator, **options):
    experts = [family / "left", family / "right"]
    return api.plan_of(family / "base", experts, operator, **options)


PLANS = {
    "linear": ("linear", {"weight": [1, 0.5]}),
    "linear negative": ("linear", {"weight": [1, -0.5]}),
    "linear plain": ("linear", {"weight": [0.2, 0.5], "normalize": "no"}),
    "task arithmetic": ("task_arithmetic", {"weight": [0.7, -0.5], "blocks": 2}),
    "ties of the model": ("ties", {"weight": [1, 0.4], "density": 77 / 256, "scale": 1.2}),
    "ties of tensors": ("ties", {"weight": [1, 0.4], "density": 26 / 256, "reducer": "sum",
                                 "threshold_scope": "tensor"}),
    "ties of mergekit": ("ties", {"weight": [1, -0.4], "density": 0.25, "compat": "mergekit"}),
}  # fmt: skip


def varied(family, name):
    """A plan of the table, with other values in a group, and one left out."""
    operator, options = PLANS[name]
    plan = by_hand(family, operator, **options)
    if "blocks" not in options:
        return plan
    groups = dict(plan.groups)
    first = groups.pop("1")
    embedding = first.model_copy(update={"genes": {"weight": {"left": 0.1, "right": 0.2}}})
    groups |= {"embedding": embedding, "model.layers.0.mlp.up_proj.weight": first}
    return plan.model_copy(update={"groups": groups})


@needs_mergekit
def test_an_exported_plan_has_its_weights_in_mergekit(family, tmp_path):
    found = {name: varied(family, name) for name in PLANS}
    files = {name: tmp_path / f"{name.replace(' ', '-')}.yaml" for name in PLANS}
    for name, file in files.items():
        file.write_text(export.to_mergekit(found[name]))
    mergekit_builds(files.values())
    for name, file in files.items():
        assert differ(tensors(found[name]), tensors(file.with_suffix(""))) <= ROUNDING, name


@pytest.mark.parametrize("name", [name for name in PLANS if name != "ties of the model"])
def test_what_is_exported_comes_back(family, name):
    plan = varied(family, name)
    back = plans.plan_of(yaml.safe_load(export.to_mergekit(plan)), "back", family).plan
    assert differ(tensors(plan), tensors(back)) <= ROUNDING
    assert back.dtype == plan.dtype


def test_a_threshold_of_the_model_becomes_a_density_of_each_tensor(family):
    text = export.to_mergekit(varied(family, "ties of the model"))
    with pytest.raises(errors.RecipeError, match="density: the operator has one for all experts"):
        plans.plan_of(yaml.safe_load(text), "back", family)


def test_balance_is_said_where_mergekit_elects_a_sign(family):
    """An expert against its own mirror image: every kept entry balances."""
    plan = by_hand(family, "ties", weight=[1, 1], density=1.0, reducer="sum")
    assert "balance" not in export.to_mergekit(plan)
    left = plan.experts[0]
    twice = plan.model_copy(update={"experts": (left, left.model_copy(update={"name": "right"}))})
    step = next(iter(plan.groups.values()))
    genes = {**step.genes, "weight": {"left": 1.0, "right": -1.0}}
    steps = dict.fromkeys(plan.groups, step.model_copy(update={"genes": genes}))
    opposed = twice.model_copy(update={"groups": steps})
    with pytest.raises(errors.RecipeError, match="mergekit names a model once"):
        export.to_mergekit(opposed)
    count = sum(export.WAYS["ties"].tensor(Merged(opposed, Workshop.of(opposed)), n).balanced
                for n in tensors(family / "base"))  # fmt: skip
    change = [tensors(left.path)[n] - t for n, t in tensors(family / "base").items()]
    assert count == sum(int(torch.count_nonzero(delta)) for delta in change)


@pytest.mark.parametrize(
    "values, setting",
    [
        ({"a": 1.0, "b": 1.0}, 1.0),
        ({"x.1.a": 1.0, "x.1.b": 1.0, "x.11.a": 2.0, "x.12.a": 2.0, "e": 2.0},
         [{"filter": "x.1.", "value": 1.0}, {"value": 2.0}]),
        ({"norm": 1.0, "last_norm": 2.0, "e": 2.0},
         [{"filter": "last_norm", "value": 2.0}, {"filter": "norm", "value": 1.0},
          {"value": 2.0}]),
    ],
)  # fmt: skip
def test_settings_are_filters_that_give_the_values_back(values, setting):
    assert export._setting(values) == setting
    for name, value in values.items():
        assert mergekit.at(setting, name, 0.0, "here") == value


@pytest.mark.parametrize(
    "setting, name, t, value",
    [
        (0.5, "a", 0.3, 0.5),
        ([0, 1], "a", 0.25, 0.25),
        ([1, 0, 4], "a", 0.75, 2.0),
        ([1, 0, 4], "a", 1.0, 4.0),
        ([True, False], "a", 0.99, True),
        ({"filter": "mlp", "value": 2}, "x.attn", 0.0, None),
        ([{"filter": "mlp", "value": [0, 2]}, {"filter": "*", "value": 7}], "x.mlp.y", 0.5, 1.0),
        ([{"filter": "mlp", "value": [0, 2]}, {"value": 7}], "x.attn", 0.5, 7),
    ],
)
def test_parameters_of_a_tensor(setting, name, t, value):
    assert mergekit.at(setting, name, t, "here") == value


ONE_SLICE = {"sources": [{"model": "left", "layer_range": [0, 2]}]}
TASK = {"merge_method": "task_arithmetic", **both(W, **B), "parameters": None}
REFUSED = {
    "an unknown key": ({**TASK, "base_modle": "base"}, "Did you mean 'base_model'"),
    "an unknown method": ({**TASK, "merge_method": "tees"}, "Did you mean 'ties'"),
    "a method of layers": ({**TASK, "merge_method": "passthrough"}, "puts layers together"),
    "an unknown parameter": (
        {**TASK, "parameters": {"densty": 0.5}},
        "unknown parameter 'densty'. Did you mean 'density'",
    ),
    "no base": ({**TASK, "base_model": None}, "base_model is missing"),
    "no weight": ({"merge_method": "task_arithmetic", **both({}, **B)}, "weight of "),
    "modules": ({"merge_method": "linear", "modules": {"text": {}}}, "modules: models of several"),
    "models and slices": ({**TASK, "slices": [ONE_SLICE]}, "either 'models' or 'slices'"),
    "layers that are missing": (
        {"merge_method": "task_arithmetic", **B, "parameters": W, "slices": [
            {"sources": [{"model": "left", "layer_range": [1, 2]}]}]},
        "leave out, repeat or move layers",
    ),
    "layers that move": (
        {"merge_method": "task_arithmetic", **B, "parameters": W, "slices": [
            {"sources": [{"model": "left", "layer_range": [0, 1]},
                         {"model": "right", "layer_range": [1, 2]}]}]},
        "sources of different layers",
    ),
    "a base of a slice": (
        {"merge_method": "linear", "slices": [{**ONE_SLICE, "base_model": "base"}]},
        "slices[0].base_model has no counterpart",
    ),
    "a revision": ({**TASK, "base_model": "base@main"}, "names a revision"),
    "an architecture": (
        {**TASK, "base_model": {"model": "base", "override_architecture": "X"}},
        "'override_architecture' has no counterpart",
    ),
    "an adapter on something else": (
        {**TASK, "models": [{"model": "right+lora", "parameters": W}]}, "expected one on the base"
    ),
    "densities by expert": (
        {"merge_method": "ties", **both({**W, "density": 0.5}, {**W, "density": 0.4}, **B)},
        "density: the operator has one for all experts",
    ),
    "a density of nothing": (
        {"merge_method": "ties", **both({**W, "density": 0.0}, **B)}, "outside the range"
    ),
    "a weight that is too large": (
        {"merge_method": "ties", **both({"weight": 9, "density": 0.5}, **B)},
        "weight: 9.0 is outside the range [-1, 1.5]",
    ),
    "a weight that is a text": (
        {"merge_method": "task_arithmetic", **both({"weight": "much"}, **B)}, "expected a number"
    ),
    "a setting without a value": (
        {"merge_method": "task_arithmetic", **both({"weight": [{"filter": "mlp"}]}, **B)},
        "expected 'filter' and 'value'",
    ),
    "weights that cancel": (
        {"merge_method": "linear", **both(W, {"weight": -0.7})}, "the weights sum to 0"
    ),
    "a dtype": ({**TASK, "dtype": "float8"}, "unknown dtype 'float8'"),
    "a model twice": (
        {**TASK, "models": [{"model": "left", "parameters": W}] * 2}, "stands twice; name it once"
    ),
    "a base alone": ({**TASK, "models": [{"model": "base"}]}, "no model beside the base"),
    "three to slerp": (
        {"merge_method": "slerp", **both({}, **B, parameters={"t": 0.5})},
        "merges 2 experts, got 3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_counterpart_is_refused_by_name(family, what):
    data, says = REFUSED[what]
    data = {key: value for key, value in absolute(data, family).items() if value is not None}
    with pytest.raises(errors.RecipeError) as caught:
        plans.plan_of(data, "merge.yaml", family)
    assert says in str(caught.value) and str(caught.value).startswith("merge.yaml")


def test_what_is_left_out_is_said(family):
    data = absolute({**TASK, "dtype": "bfloat16", "tokenizer_source": "union",
                     "chat_template": "auto"}, family)  # fmt: skip
    notes = " ".join(plans.plan_of(data, "merge.yaml", family).notes)
    for part in ("computes in bfloat16", "tokenizer_source 'union'", "chat_template"):
        assert part in notes
    assert plans.plan_of(absolute(TASK, family), "merge.yaml", family).notes == ()


def test_every_method_is_read_with_parameters_of_its_operator():
    for name, method in methods.METHODS.items():
        assert plans.method_of(name, "here") is method
    assert set(methods.EVOLVED) <= set(methods.METHODS)


GENOME = {"models": ["left", "right"], "merge_method": "ties", "base_model": "base"}
SEARCH = {"genome": GENOME, "tasks": ["arc_easy", {"name": "gsm8k_train", "weight": 2,
          "metric": "exact_match,strict-match"}], "limit": 40}  # fmt: skip


def searched(family, tmp_path, **changes):
    """The recipe of a search, with its questions written."""
    data = {**SEARCH, "genome": {**GENOME, **changes}}
    imported = evolve.recipe_of(absolute(data, family), "evolve.yaml", "mine", family)
    path = tmp_path / "mine.yaml"
    path.write_text(imported.text)
    for name in ("arc_easy", "gsm8k_train"):
        (tmp_path / f"{name}.jsonl").write_text((family / "one.jsonl").read_text())
    return recipe.resolve(path), imported.notes


def test_a_search_becomes_a_recipe(family, tmp_path):
    problem, notes = searched(family, tmp_path, layer_granularity=1, filters=["mlp"])
    assert problem.recipe.operators == ["ties"] and problem.objectives == [
        "arc_easy",
        "gsm8k_train",
    ]
    assert problem.recipe.space.blocks == 2 and problem.recipe.space.roles == ("mlp",)
    assert problem.recipe.fidelity.items == 40
    assert problem.recipe.strategy.options["inner"]["weights"] == [[1.0, 2.0]]
    names = {gene.name for gene in problem.space.genes}
    assert names == {"weight", "density"}
    assert {gene.low for gene in problem.space.genes if gene.name == "weight"} == {0.0}
    assert problem.fixed["compat"] == "mergekit" and problem.fixed["reducer"] == "mean"
    said = " ".join(notes)
    for part in ("gsm8k_train' (exact_match,strict-match)", "--max-fevals", "apply_chat_template"):
        assert part in said


@pytest.mark.parametrize("method", methods.EVOLVED)
def test_every_evolved_method_becomes_a_recipe(family, tmp_path, method):
    problem, _ = searched(family, tmp_path, merge_method=method, allow_negative_weights=True)
    names = {gene.name for gene in problem.space.genes}
    assert names <= {"weight", "density", "t"} and names
    lows = {gene.low for gene in problem.space.genes if gene.name == "weight"}
    assert all(low < 0 for low in lows)


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"layer_granularity": 3}, "expected a divisor of the model's 2 layers, got 3"),
        ({"filters": ["q_proj"]}, "unknown filter 'q_proj'"),
        ({"merge_method": "della"}, "genome: unknown merge_method 'della'"),
        ({"base_model": None}, "base_model is missing"),
        ({"merge_method": "task_arithmetic", "normalize": True}, "genome.normalize"),
        ({"smoooth": True}, "Did you mean 'smooth'"),
    ],
)
def test_what_a_search_can_not_have_is_refused(family, tmp_path, changes, says):
    with pytest.raises(errors.RecipeError) as caught:
        searched(family, tmp_path, **changes)
    assert says in str(caught.value)


def test_a_task_whose_score_shall_be_low_is_refused(family):
    data = absolute({**SEARCH, "tasks": [{"name": "wiki", "weight": -1}]}, family)
    with pytest.raises(errors.RecipeError, match=r"tasks\[0\].weight: -1 asks for a low score"):
        evolve.recipe_of(data, "evolve.yaml", "mine", family)


def test_the_commands(family, run, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("merge.yaml").write_text(yaml.safe_dump(absolute({**TASK, "dtype": "bfloat16"}, family)))
    code, out, err = run("import", "merge.yaml")
    assert (code, out) == (0, "merge.plan.json\n") and "computes in bfloat16" in err
    assert run("merge", "merge.plan.json", "-o", "merged")[0] == 0
    code, out, _ = run("import", "merge.yaml", "-o", "again.json", "--json")
    assert json.loads(out)["kind"] == "plan" and len(json.loads(out)["notes"]) == 1
    Path("evolve.yaml").write_text(yaml.safe_dump(absolute(SEARCH, family)))
    assert run("import", "evolve.yaml", "-o", "mine.yaml")[0] == 0
    assert plain.read_yaml(Path("mine.yaml"))["name"] == "mine"
    code, out, _ = run("export", "merge.plan.json", "--mergekit", "back.yaml")
    assert (code, out) == (0, "mergekit-yaml back.yaml merged\n")
    back = plans.plan_of(plain.read_yaml(Path("back.yaml")), "back.yaml", family).plan
    assert differ(tensors(back), tensors(tmp_path / "merged")) == 0
    assert run("export", "merge.plan.json", "-o", "saved")[0] == 0
    assert differ(tensors(Path("saved")), tensors(Path("merged"))) == 0
    for arguments, code, says in (
        (("import", "merge.yaml"), 2, "already exists; choose another name"),
        (("import", "merge.yaml", "-o", "x.yaml"), 2, "merge.yaml becomes a plan"),
        (("import", "evolve.yaml", "-o", "x.json"), 2, "evolve.yaml becomes a recipe"),
        (("import", "none.yaml"), 2, "no such file"),
        (("export", "merge.plan.json", "knee"), 2, "is a plan, which is one point"),
    ):
        refused(*arguments, code=code, says=says)


@pytest.mark.parametrize(
    "operator, options, says",
    [
        ("dare", {}, "no YAML gives exactly the weights of 'dare'"),
        ("ties", {"weight": [1, -0.1]}, "mergekit divides by negative weights with their sign"),
        ("ties", {"reducer": "max"}, "reducer: 'max' has no counterpart"),
        ("ties", {"threshold_scope": "row"}, "threshold_scope: 'row' has no counterpart"),
        ("slerp", {}, "compat: 'paper' has no counterpart"),
    ],
)
def test_what_mergekit_can_not_do_is_not_exported(family, operator, options, says):
    with pytest.raises(errors.RecipeError) as caught:
        export.to_mergekit(by_hand(family, operator, **options))
    assert says in str(caught.value)


def test_a_tensor_can_have_a_step_of_its_own(family):
    plan = by_hand(family, "task_arithmetic", weight=0.2)
    other = by_hand(family, "task_arithmetic", weight=0.9)
    name = "model.layers.1.mlp.up_proj.weight"
    own = plan.model_copy(update={"groups": {**plan.groups, name: other.groups["1"]}})
    got, usual, special = tensors(own), tensors(plan), tensors(other)
    assert own.key != plan.key and all(
        torch.equal(got[n], (special if n == name else usual)[n]) for n in got
    )
    wrong = plan.model_copy(update={"groups": {**plan.groups, f"{name}s": other.groups["1"]}})
    with pytest.raises(errors.RecipeError, match="unknown group"):
        Merged(wrong, Workshop.of(wrong))
