"""Record what mergekit makes of small seeded tensors, for tests/contracts/test_parity.py.

In an environment of its own, since mergekit pins older packages than evomerge:

    pip install mergekit==0.1.5
    python tests/golden/record.py

writes tests/golden/mergekit.safetensors: inputs, results, and in its metadata the versions and
the cases, each with mergekit's method and parameters and with our operator and genes.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import torch
from mergekit.merge_methods import registry
from mergekit.merge_methods.base import TensorGroup
from safetensors.torch import save_file

SHAPES = {"matrix": (7, 11), "vector": (23,), "one": (1,)}
WEIGHT = [0.8, 0.5, -0.2]
FILE = Path(__file__).with_name("mergekit.safetensors")

# (operator, genes; method, parameters), all with `compat: mergekit`. Where a method needs fewer
# experts than three, the first ones are taken.
CASES = [
    ("linear", {"weight": WEIGHT}, "linear", {"weight": WEIGHT}),
    ("linear", {"weight": WEIGHT, "normalize": "no"}, "linear",
     {"weight": WEIGHT, "normalize": False}),
    ("slerp", {"t": 0.3}, "slerp", {"t": 0.3}),
    ("karcher", {}, "karcher", {}),
    ("model_stock", {}, "model_stock", {}),
    ("model_stock", {"filter_wise": "yes"}, "model_stock", {"filter_wise": True}),
    ("task_arithmetic", {"weight": WEIGHT}, "task_arithmetic", {"weight": WEIGHT}),
    ("ties", {"weight": WEIGHT, "density": 0.375}, "ties", {"weight": WEIGHT, "density": 0.375}),
    ("ties", {"weight": WEIGHT, "density": 0.5, "reducer": "sum", "scale": 0.7}, "ties",
     {"weight": WEIGHT, "density": 0.5, "normalize": False, "lambda": 0.7}),
    ("breadcrumbs", {"weight": WEIGHT, "density": 0.75, "gamma": 0.04}, "breadcrumbs",
     {"weight": WEIGHT, "density": 0.75, "gamma": 0.04}),
    ("breadcrumbs", {"weight": WEIGHT, "density": 0.984375, "gamma": 0.05}, "breadcrumbs",
     {"weight": WEIGHT, "density": 0.984375, "gamma": 0.05}),
    ("breadcrumbs", {"weight": WEIGHT, "density": 0.25, "gamma": 0.04, "elect": "mass"},
     "breadcrumbs_ties", {"weight": WEIGHT, "density": 0.25, "gamma": 0.04}),
    ("breadcrumbs", {"weight": WEIGHT, "density": 1.0, "gamma": 0.04}, "breadcrumbs",
     {"weight": WEIGHT, "density": 1.0, "gamma": 0.04}),
    ("sce", {"density": 0.25}, "sce", {"select_topk": 0.25}),
    ("sce", {"density": 1.0}, "sce", {"select_topk": 1.0}),
    # At density 1 the random masks keep everything: the rest can be compared to the digit.
    ("dare", {"weight": WEIGHT, "density": 1.0}, "dare_linear", {"weight": WEIGHT}),
    ("dare", {"weight": WEIGHT, "density": 1.0, "elect": "mass"}, "dare_ties",
     {"weight": WEIGHT}),
    ("della", {"weight": WEIGHT, "density": 1.0, "scale": 1.5}, "della",
     {"weight": WEIGHT, "lambda": 1.5}),
    ("della", {"weight": WEIGHT, "density": 1.0, "elect": "none", "scale": 1.0}, "della_linear",
     {"weight": WEIGHT}),
]  # fmt: skip
NO_BASE = ("linear", "karcher")
EXPERTS = {"slerp": 2}
SCALES = {"usual": 0.1, "small": 1e-4, "zero": 0.1}
"""Size of task vectors, beside weights of 1; with `zero` all weights of one expert are 0."""
UNSURE = {("karcher", "small")}
"""Angles of 1e-4, which mergekit takes from float32 cosines: its own rounding is the result."""


def inputs(shape: tuple[int, ...], scale: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    base = torch.randn(shape, generator=generator)
    experts = base + SCALES[scale] * torch.randn((3, *shape), generator=generator)
    if scale == "zero":
        experts[1] = 0.0
    return base, experts


def call(
    method: str, base: torch.Tensor, experts: torch.Tensor, parameters: dict[str, object]
) -> torch.Tensor:
    if method == "slerp":  # one of its two models is called the base
        group = TensorGroup.from_tensors(list(experts[:2]), base_index=0)
    elif method in NO_BASE:
        group = TensorGroup.from_tensors(list(experts))
    else:
        group = TensorGroup.from_tensors([base, *experts], base_index=0)
    return registry.get(method)([group], parameters=parameters)[0]


def main() -> None:
    tensors: dict[str, torch.Tensor] = {}
    for scale in SCALES:
        for name, shape in SHAPES.items():
            base, experts = inputs(shape, scale)
            results = [call(method, base, experts, given) for _, _, method, given in CASES]
            found = {"base": base, "experts": experts, "results": torch.stack(results)}
            tensors |= {f"{scale}.{name}.{part}": value for part, value in found.items()}
    cases = [
        {
            "operator": operator, "genes": genes, "method": method,
            "experts": EXPERTS.get(operator, 3),
            "unsure": [scale for scale in SCALES if (operator, scale) in UNSURE],
        }
        for operator, genes, method, _ in CASES
    ]  # fmt: skip
    versions = {name: version(name) for name in ("mergekit", "torch")}
    save_file(tensors, FILE, {"versions": json.dumps(versions), "cases": json.dumps(cases)})
    print(f"{FILE}: {len(cases)} cases, {FILE.stat().st_size} bytes, {versions}")


if __name__ == "__main__":
    main()
