"""mergekit's merge methods, each as an operator and its genes.

The table is the only place that knows both names. A method's `defaults` are mergekit 0.1.5's;
None is a parameter that has to be given. `translate` turns the values of one tensor into genes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from evomerge import errors
from evomerge.genome import Value
from evomerge.interop.mergekit import Scalar

Inputs = Mapping[str, Mapping[str, Any]]
"""Parameters of each expert, by its name."""
Genes = dict[str, Value | dict[str, Value]]

IGNORED = {
    "int8_mask": "it changes mergekit's memory, not its result",
    "normalize": "this method does not read it",
}
"""Parameters that change no result where a method does not have them, and why."""


@dataclass(frozen=True)
class Method:
    """How a method of mergekit is done here.

    `of_input`: parameters of each input; `shared`: of all. `base_is_input`: the base is merged
    like the experts. `needs_base`: there is no merge without one. `divides`: the operator divides
    by weights, of whatever value. `notes`: where results differ, other than in the last bits.
    """

    operator: str
    translate: Callable[[Inputs, Mapping[str, Any]], Genes]
    of_input: Mapping[str, Scalar | None] = field(default_factory=dict)
    shared: Mapping[str, Scalar | None] = field(default_factory=dict)
    base_is_input: bool = False
    needs_base: bool = True
    divides: bool = False
    notes: tuple[str, ...] = ()


def _column(inputs: Inputs, parameter: str) -> dict[str, float]:
    return {name: _number(values[parameter], parameter) for name, values in inputs.items()}


def _number(value: Any, parameter: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise errors.RecipeError(f"{parameter}: expected a number, got {value!r}")
    return float(value)


def _one(inputs: Inputs, parameter: str) -> float:
    """The value of all experts that take part; an operator has one for all."""
    taking_part = {n: v for n, v in inputs.items() if v["weight"]} or inputs
    values = _column(taking_part, parameter)
    if len(set(values.values())) > 1:
        raise errors.RecipeError(
            f"{parameter}: the operator has one for all experts, got {values}; give all the same"
        )
    return next(iter(values.values()))


def _folded(inputs: Inputs, shared: Mapping[str, Any]) -> dict[str, float]:
    """Weights of a plain sum: lambda and the normalisation are part of them."""
    weights = _column(inputs, "weight")
    total = sum(weights.values()) if shared["normalize"] else 1.0
    scale = _number(shared.get("lambda", 1.0), "lambda")
    scale /= total if abs(total) >= 1e-8 else 1.0
    return {name: weight * scale for name, weight in weights.items()}


def _yes(shared: Mapping[str, Any], parameter: str, wanted: bool) -> None:
    if bool(shared[parameter]) != wanted:
        raise errors.RecipeError(
            f"{parameter}: {str(not wanted).lower()} has no counterpart with this method; "
            f"expected {str(wanted).lower()}"
        )


def _linear(inputs: Inputs, shared: Mapping[str, Any]) -> Genes:
    weights = _column(inputs, "weight")
    if shared["normalize"] and abs(sum(weights.values())) < 1e-8:
        raise errors.RecipeError("weight: the weights sum to 0, by which they are divided")
    # divided once more, because a row may be in some of the models alone
    normalize = "yes" if shared["normalize"] else "no"
    return {
        "weight": dict(_folded(inputs, shared)), "normalize": normalize, "compat": "mergekit",
    }  # fmt: skip


def _task_arithmetic(inputs: Inputs, shared: Mapping[str, Any]) -> Genes:
    return {"weight": dict(_folded(inputs, shared))}


def _ties(inputs: Inputs, shared: Mapping[str, Any]) -> Genes:
    _yes(shared, "rescale", False)
    return {
        "weight": dict(_column(inputs, "weight")), "density": _one(inputs, "density"),
        "scale": _number(shared["lambda"], "lambda"),
        "reducer": "mean" if shared["normalize"] else "sum",
        "threshold_scope": "tensor", "compat": "mergekit",
    }  # fmt: skip


def _dare(inputs: Inputs, shared: Mapping[str, Any], *, elect: str) -> Genes:
    mean = elect == "mass" and shared["normalize"]
    if mean and shared["lambda"] != 1:
        raise errors.RecipeError(
            "lambda: a mean of agreeing entries has no scale here; leave it 1"
        )
    weights = _column(inputs, "weight") if mean else _folded(inputs, shared)
    return {
        "weight": dict(weights), "density": _one(inputs, "density"),
        "rescale": "inverse" if shared["rescale"] else "none", "elect": elect,
        # the mean is the paper's, whose masks are rescaled by the density
        "compat": "paper" if mean else "mergekit",
    }  # fmt: skip


def _breadcrumbs(inputs: Inputs, shared: Mapping[str, Any], *, elect: str) -> Genes:
    _yes(shared, "rescale", False)
    if elect == "mass":
        _yes(shared, "normalize", False)
    return {
        "weight": dict(_folded(inputs, shared)), "density": _one(inputs, "density"),
        "gamma": _one(inputs, "gamma"), "elect": elect, "threshold_scope": "tensor",
        "compat": "mergekit",
    }  # fmt: skip


def _della(inputs: Inputs, shared: Mapping[str, Any], *, elect: str) -> Genes:
    _yes(shared, "rescale", True)
    genes: Genes = {"density": _one(inputs, "density"), "epsilon": _one(inputs, "epsilon")}
    genes |= {"elect": elect, "compat": "mergekit"}
    if elect == "mass":
        _yes(shared, "normalize", True)
        scale = _number(shared["lambda"], "lambda")
        return {"weight": dict(_column(inputs, "weight")), "scale": scale, **genes}
    return {"weight": dict(_folded(inputs, shared)), "scale": 1.0, **genes}


def _slerp(inputs: Inputs, shared: Mapping[str, Any]) -> Genes:
    return {"t": _number(shared["t"], "t"), "of": "weights", "compat": "mergekit"}


def _karcher(inputs: Inputs, shared: Mapping[str, Any]) -> Genes:
    for name, default in (("max_iter", 10), ("tol", 1e-5)):
        if shared[name] != default:
            raise errors.RecipeError(f"{name}: only mergekit's own {default} has a counterpart")
    return {"weight": dict.fromkeys(inputs, 1.0), "of": "weights", "compat": "mergekit"}


def _model_stock(inputs: Inputs, shared: Mapping[str, Any]) -> Genes:
    return {"filter_wise": "yes" if shared["filter_wise"] else "no", "scale": 1.0,
            "compat": "mergekit"}  # fmt: skip


def _sce(inputs: Inputs, shared: Mapping[str, Any]) -> Genes:
    density = _number(shared["select_topk"], "select_topk")
    return {"density": density, "scale": 1.0, "erase": "yes", "compat": "mergekit"}


def _elected(translate: Callable[..., Genes], elect: str) -> Callable[..., Genes]:
    return lambda inputs, shared: translate(inputs, shared, elect=elect)


def _arithmetic(normalize: bool, rescale: bool, **of_input: Scalar | None) -> dict[str, Any]:
    """The parameters that mergekit's generalised task arithmetic has."""
    return {
        "of_input": {"weight": None, "density": 1.0, **of_input},
        "shared": {"normalize": normalize, "rescale": rescale, "lambda": 1.0, "int8_mask": False},
    }


_MASKS = ("its random masks are drawn by other numbers: alike in distribution, not in bits",)

# fmt: off
METHODS: Mapping[str, Method] = {
    "linear": Method(
        "linear", _linear, {"weight": None}, {"normalize": True},
        base_is_input=True, needs_base=False,
    ),
    "task_arithmetic": Method("task_arithmetic", _task_arithmetic, **_arithmetic(False, False)),
    "ties": Method("ties", _ties, divides=True, **_arithmetic(True, False)),
    "dare_linear": Method(
        "dare", _elected(_dare, "none"), notes=_MASKS, **_arithmetic(False, True)
    ),
    "dare_ties": Method(
        "dare", _elected(_dare, "mass"), divides=True, notes=_MASKS, **_arithmetic(False, True)
    ),
    "breadcrumbs": Method(
        "breadcrumbs", _elected(_breadcrumbs, "none"), **_arithmetic(False, False, gamma=0.01)
    ),
    "breadcrumbs_ties": Method(
        "breadcrumbs", _elected(_breadcrumbs, "mass"), **_arithmetic(False, False, gamma=0.01)
    ),
    "della": Method(
        "della", _elected(_della, "mass"), notes=_MASKS, **_arithmetic(True, True, epsilon=0.15)
    ),
    "della_linear": Method(
        "della", _elected(_della, "none"), notes=_MASKS, **_arithmetic(False, True, epsilon=0.15)
    ),
    "slerp": Method("slerp", _slerp, shared={"t": None}, base_is_input=True),
    "karcher": Method(
        "karcher", _karcher, shared={"max_iter": 10, "tol": 1e-5}, base_is_input=True,
        needs_base=False,
    ),
    "model_stock": Method("model_stock", _model_stock, shared={"filter_wise": False}),
    "sce": Method("sce", _sce, shared={"select_topk": 1.0, "int8_mask": False}),
}

EVOLVED = {
    "linear": True, "task_arithmetic": False, "ties": True, "dare_ties": True, "slerp": False,
}
"""Methods of mergekit-evolve, and whether it normalises weights unless told otherwise."""

# fmt: on
LAYERS_ONLY = ("passthrough",)
"""Methods that put layers together instead of merging tensors."""
