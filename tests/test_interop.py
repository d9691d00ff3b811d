"""mergekit's files in and out: what is said, what is refused by name, and the commands."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from evomerge import errors
from evomerge.files import plain
from evomerge.interop import export, mergekit, methods, plans
from evomerge.materialize import Merged, Workshop
from tests.merges import B, W, absolute, both, by_hand, differ, tensors, varied
from tests.test_evolve_import import SEARCH


def test_a_threshold_of_the_model_becomes_a_density_of_each_tensor(family):
    text = export.to_mergekit(varied(family, "ties of the model"))
    with pytest.raises(errors.RecipeError, match="density: the operator has one for all experts"):
        plans.plan_of(yaml.safe_load(text), "back", family)


@pytest.mark.slow
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


def test_a_mean_of_models_without_a_base_comes_back(family):
    data = absolute({"merge_method": "linear", **both({"weight": 0.3}, {"weight": 0.9})}, family)
    plan = plans.plan_of(data, "merge.yaml", family).plan
    text = yaml.safe_load(export.to_mergekit(plan))
    assert [model["model"] for model in text["models"]] == [m["model"] for m in data["models"]]
    back = plans.plan_of(text, "back", family).plan
    assert differ(tensors(plan), tensors(back)) <= 1e-6


def test_what_is_left_out_is_said(family):
    data = absolute({**TASK, "dtype": "bfloat16", "tokenizer_source": "elsewhere",
                     "chat_template": "auto"}, family)  # fmt: skip
    notes = " ".join(plans.plan_of(data, "merge.yaml", family).notes)
    for part in ("computes in bfloat16", "tokenizer_source 'elsewhere'", "chat_template"):
        assert part in notes
    assert plans.plan_of(absolute(TASK, family), "merge.yaml", family).notes == ()
    stock = {"merge_method": "model_stock", **both({}, **B, parameters={"normalize": True})}
    stock = absolute({**stock, "name": "mine"}, family)
    first, second = plans.plan_of(stock, "merge.yaml", family).notes
    assert "normalize is left out" in first and second.startswith("name has no counterpart")


@pytest.mark.parametrize("method", ["ties", "della", "breadcrumbs"])
def test_a_model_that_is_no_source_of_a_slice_has_no_say_in_it(family, method):
    parameters = {"weight": 0.5, "density": 0.5}
    slices = [
        {"sources": [{"model": m, "layer_range": [i, i + 1]} for m in ("base", expert)]}
        for i, expert in enumerate(("left", "right"))
    ]
    data = {"merge_method": method, "slices": slices, **B, "parameters": parameters}
    plan = plans.plan_of(absolute(data, family), "merge.yaml", family).plan
    found = [step.genes for step in plan.groups.values()]
    assert {genes["density"] for genes in found} == {0.5}
    weights = [tuple(genes["weight"].values()) for genes in found]
    assert set(weights) == {(0.5, 0.0), (0.0, 0.5)}


def test_what_comes_before_the_layers_is_of_the_first_slice():
    slices = [
        {"sources": [{"model": "m", "layer_range": [i, i + 1]}], "parameters": {"weight": i}}
        for i in range(2)
    ]
    merge = mergekit.read({"merge_method": "linear", "slices": slices}, "here")
    first = ["transformer.wte.weight", "transformer.wpe.weight", "model.embed_tokens.weight"]
    last = ["transformer.ln_f.weight", "lm_head.weight"]
    layers = ["transformer.h.0.ln_1.weight", "transformer.h.1.ln_1.weight"]
    places = mergekit.places(merge, [*first, *last, *layers], "here")
    assert [places[name].shared[0]["weight"] for name in [*first, *last]] == [0, 0, 0, 1, 1]


def test_every_method_is_read_with_parameters_of_its_operator():
    for name, method in methods.METHODS.items():
        assert plans.method_of(name, "here") is method
    assert set(methods.EVOLVED) <= set(methods.METHODS)


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
