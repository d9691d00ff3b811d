"""Merges that come from mergekit's YAML, or go there, have the weights that mergekit gives them.

The parity tests run mergekit itself where EVOMERGE_MERGEKIT_PYTHON names a Python that has it.
"""

import os
import subprocess

import pytest
import torch
import yaml

from evomerge.interop import export, plans
from tests.merges import PLANS, B, W, absolute, both, differ, tensors, varied

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


LAYERS = [
    {"sources": [{"model": "left", "layer_range": [0, 1], "parameters": {"weight": 0.1}},
                 {"model": "right", "layer_range": [0, 1], "parameters": {"weight": 0.4}},
                 {"model": "base", "layer_range": [0, 1]}]},
    {"sources": [{"model": "base", "layer_range": [1, 2]},
                 {"model": "right", "layer_range": [1, 2]}],
     "parameters": {"weight": [{"filter": "mlp", "value": [0.3, 0.9]}, {"value": 0.2}]}},
]  # fmt: skip


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
