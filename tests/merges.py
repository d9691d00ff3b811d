"""mergekit's YAML and plans for the tests of the ways in and out."""

import torch

from evomerge import api
from evomerge.files.checkpoint import Checkpoint
from evomerge.materialize import Merged, Workshop
from evomerge.plan import Plan


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


def both(left, right=None, **more):
    """The two experts with their parameters, in float32."""
    given = [
        {"model": "left", "parameters": left},
        {"model": "right", "parameters": right or left},
    ]
    return {"models": given, "dtype": "float32", **more}


W, B = {"weight": 0.7}, {"base_model": "base"}


def absolute(data, family):
    """The same content with the models' folders."""
    if isinstance(data, dict):
        return {key: absolute(value, family) for key, value in data.items()}
    if isinstance(data, list):
        return [absolute(value, family) for value in data]
    return str(family / data) if data in ("base", "left", "right") else data


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
