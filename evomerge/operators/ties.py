"""TIES-Merging: trim, elect sign, disjoint merge (Yadav et al. 2023, algorithm 1).

As in the authors' code, thresholds are those of the whole model, and entries that tie with one
are all kept. Weights, which the paper does not have, multiply the trimmed task vectors before the
election and count in the divisor of the mean by magnitude. Where the experts balance exactly, the
paper's sign is 0 and the base stays; `balanced: majority` elects the majority sign there, as the
authors' code does: the model's, or each tensor's own where `threshold_scope` is `tensor` or `row`.
mergekit has thresholds for each tensor, elects the positive sign where experts balance, and lets
negative weights reduce the divisor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from evomerge.genome import COMPAT, Gene
from evomerge.layers import Place
from evomerge.maths import consensus, mergekit, sparsify

VERSION = 2
GENES = (
    Gene("weight", -1.0, 1.5, default=1.0, per_expert=True, seeds=(1.0,)),
    Gene("density", 1 / sparsify.GRID, 1.0, default=51 / sparsify.GRID, step=1 / sparsify.GRID),
    Gene("scale", 0.0, 2.0, default=1.0, seeds=(0.3, 0.5, 0.7, 1.0, 1.5)),
    Gene("reducer", default="mean", choices=("mean", "sum", "max"), level="model", searched=False),
    Gene("balanced", default="base", choices=("base", "majority"), level="model", searched=False),
    Gene(
        "threshold_scope", default="model", choices=("model", "tensor", "row"),
        level="model", searched=False,
    ),
    COMPAT,
)  # fmt: skip
PASSES = sparsify.PASSES


def scope(genes: dict[str, Any], place: Place) -> str:
    if genes["compat"] == "mergekit":
        return "tensor"
    return "row" if genes["threshold_scope"] == "row" else "tile"


def prepares(genes: dict[str, Any], place: Place) -> bool:
    return bool(genes["compat"] == "paper" and genes["threshold_scope"] != "row")


def bracket(
    base: torch.Tensor, experts: torch.Tensor, genes: Sequence[dict[str, Any]]
) -> dict[str, torch.Tensor] | None:
    """Where the threshold of the one density of a plan is looked for, by a sample of entries."""
    densities = {one["density"] for one in genes}
    if len(densities) > 1:
        return None
    return sparsify.bracket((experts - base).abs_(), densities.pop())


def prepare(
    base: torch.Tensor, experts: torch.Tensor, stats: sparsify.State | None, place: Place
) -> dict[str, torch.Tensor]:
    """Magnitude counts of a tile (n,) and (K, n) for the pass after `stats`, or of a bracket."""
    magnitudes = (experts - base).abs_()
    if stats is not None and "low" in stats:
        return sparsify.count_inside(magnitudes, stats)
    return {"counts": sparsify.count(magnitudes, stats)}


def finish(sums: sparsify.State, stats: sparsify.State | None) -> dict[str, torch.Tensor] | None:
    """Between passes, what is known of the thresholds; after the last one, the thresholds. None
    if they are not in the bracket."""
    if stats is not None and "low" in stats:
        table = sparsify.located(sums, stats)
        return None if table is None else {"thresholds": table}
    state = sparsify.descend(sums["counts"], stats)
    return {**state, "thresholds": sparsify.thresholds(state)}


def measures(genes: dict[str, Any]) -> bool:
    return bool(genes["balanced"] == "majority" and genes["compat"] == "paper")


def measure(
    base: torch.Tensor, experts: torch.Tensor, *, stats: Any, **genes: Any
) -> dict[str, torch.Tensor]:
    """The sum of elected signs, whose sign decides where the experts balance."""
    sign = consensus.elected(_trimmed(base, experts, stats, genes), genes["weight"])
    return {"majority": sign.sum(dtype=torch.float64)}


def merge(
    base: torch.Tensor, experts: torch.Tensor, *, stats: Any, sums: Any, **genes: Any
) -> torch.Tensor:
    """base + scale * disjoint merge of the trimmed, weighted task vectors."""
    if genes["compat"] == "mergekit":
        kept = mergekit.keep(experts - base, genes["density"])
        normalize = genes["reducer"] == "mean"
        merged = mergekit.reduce(kept, genes["weight"], elect=True, normalize=normalize)
        return base + merged * float(genes["scale"])
    trimmed, weight = _trimmed(base, experts, stats, genes), genes["weight"]
    sign = consensus.elected(trimmed, weight)
    if measures(genes):  # a model without a majority elects the negative sign
        sign = sign.masked_fill(sign == 0, 1.0 if float(sums["majority"]) > 0 else -1.0)
    merged = consensus.disjoint(trimmed, weight, sign, genes["reducer"])
    return torch.add(base, merged, alpha=float(genes["scale"]))


def _trimmed(
    base: torch.Tensor, experts: torch.Tensor, stats: Any, genes: dict[str, Any]
) -> torch.Tensor:
    task_vectors = experts - base
    if genes["threshold_scope"] == "row":
        return sparsify.trim_rows(task_vectors, genes["density"])
    return sparsify.trim(task_vectors, stats["thresholds"], genes["density"])
