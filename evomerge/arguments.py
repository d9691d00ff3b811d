"""The genes of a plan as an operator receives them, checked against what it declares."""

from __future__ import annotations

from typing import Any

import torch

from evomerge import errors, plugins
from evomerge.genome import Gene
from evomerge.plan import Plan, Step, check_experts


def arguments(step: Step, plan: Plan, device: torch.device) -> dict[str, Any]:
    """Gene values as `merge` receives them: per-expert ones (K,) float32, others as they are."""
    module = plugins.load("operator", step.operator, "plan.groups")
    if step.version != module.VERSION:
        raise errors.RecipeError(
            f"plan.groups: {step.operator} has version {module.VERSION} here, the plan was made "
            f"with {step.version}: its result would differ"
        )
    check_experts(step.operator, len(plan.experts), "plan.experts")
    declared = {gene.name: gene for gene in module.GENES}
    experts = [item.name for item in plan.experts]
    for name, value in step.genes.items():
        if name not in declared:
            raise errors.RecipeError(errors.unknown(step.operator, "gene", name, declared))
        _check_value(declared[name], value, experts, f"plan.groups: {step.operator}.{name}")
    found: dict[str, Any] = {}
    for name, gene in declared.items():
        given: Any = step.genes.get(name, gene.default)
        if gene.per_expert:
            each = given if isinstance(given, dict) else dict.fromkeys(experts, given)
            given = torch.tensor([each[expert] for expert in experts], device=device)
        found[name] = given
    return found


def _check_value(gene: Gene, value: object, experts: list[str], where: str) -> None:
    if not isinstance(value, dict):
        gene.check(value, where)
    elif not gene.per_expert or set(value) != set(experts):
        expected = f"a value for each of {', '.join(experts)}" if gene.per_expert else "one value"
        raise errors.RecipeError(f"{where}: expected {expected}, got {value}")
    else:
        for expert, one in value.items():
            gene.check(one, f"{where}[{expert}]")
