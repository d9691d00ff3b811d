"""With `compat: mergekit`, what mergekit computes; recorded once by tests/golden/record.py."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from evomerge import plugins
from tests.contracts.test_operators import merge, tensors

GOLDEN = Path(__file__).parents[1] / "golden" / "mergekit.safetensors"
with safe_open(GOLDEN, "pt") as file:
    RECORDED = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    CASES = [
        (i, case, name.removesuffix(".base"))
        for i, case in enumerate(json.loads(file.metadata()["cases"]))
        for name in RECORDED
        if name.endswith(".base") and name.split(".")[0] not in case["unsure"]
    ]


def compatible(operator):
    """The gene that asks for it, where the operator has it (the methods differ)."""
    names = [gene.name for gene in plugins.load("operator", operator).GENES]
    return {"compat": "mergekit"} if "compat" in names else {}


def error(i, case, inputs, **chosen):
    """Norm of the difference to the recorded update, and what would be 1e-5 of it."""
    base, experts, results = (RECORDED[f"{inputs}.{p}"] for p in ("base", "experts", "results"))
    operator, genes = case["operator"], case["genes"]
    found = merge(operator, base, experts[: case["experts"]], **genes, **chosen)
    # The update, not the weights that hide it; rounding the sum to float32 is no difference.
    rounding = 2**-23 * float(torch.stack([base.abs().max(), results[i].abs().max()]).max())
    allowed = 1e-5 * (results[i] - base).norm() + rounding * base.numel() ** 0.5
    return float((found - results[i]).norm()), float(allowed)


@pytest.mark.parametrize("i, case, inputs", CASES)
def test_the_same_as_mergekit(i, case, inputs):
    found, allowed = error(i, case, inputs, **compatible(case["operator"]))
    assert found <= allowed


def test_every_operator_with_a_compatible_mode_was_recorded_and_differs():
    having = {name for name in plugins.known("operator") if compatible(name)}
    differing = set()
    for i, case, inputs in CASES:
        if case["operator"] in having:
            found, allowed = error(i, case, inputs, compat="paper")
            differing |= {case["operator"]} if found > 3 * allowed else set()
    assert differing == having


@pytest.mark.parametrize("operator", ["dare", "della"])
def test_random_masks_keep_the_share_and_the_l1_norm(operator):
    """mergekit's numbers are others, so their distribution: every share kept, the norm exact."""
    base, density = torch.zeros(64, 301), 0.375
    experts = tensors(base.shape, 2)[1]
    chosen = {"density": density, "elect": "none", "weight": 1.0, "compat": "mergekit"}
    if operator == "della":
        chosen |= {"epsilon": 0.15, "scale": 1.0}
    one = merge(operator, base, experts[:1], **chosen)
    assert float(one.abs().sum()) == pytest.approx(float(experts[0].abs().sum()), rel=1e-5)
    kept = one != 0
    spread = (density * (1 - density) / one.numel()) ** 0.5
    assert float(kept.float().mean()) == pytest.approx(density, abs=4 * spread)
    gain = float((one[kept] / experts[0][kept]).mean())
    assert torch.allclose(one[kept], experts[0][kept] * gain, rtol=1e-4)
    order = experts[0].abs().argsort(dim=1)
    small, large = (
        kept.gather(1, part).float().mean() for part in (order[:, :60], order[:, -60:])
    )
    slope = 0.3 * (1 - 60 / 301) if operator == "della" else 0.0
    assert float(large - small) == pytest.approx(slope, abs=0.06)
    with_two = merge(operator, base, experts, experts_names=["e0", "e1"], **chosen)
    assert torch.allclose(with_two - one, merge(
        operator, base, experts[1:], experts_names=["e1"], **chosen
    ), atol=1e-5)  # fmt: skip
