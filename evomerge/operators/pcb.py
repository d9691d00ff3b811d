"""PCB-Merging: compete within and between task vectors (Du et al. 2024).

With the task vectors clipped to their quantiles `CLIP` and 1 - `CLIP`, and u the clipped
magnitudes brought to [0, 1], the score of an entry is exp(K u^2) tanh(d_k sum_j d_j). The share
`ratio` of highest scores, brought to [0, 1], weighs the entries. Unlike the paper, d is the task
vector divided by the root mean square of all of them, or the scores would depend on how large
updates are (tanh is linear where they are small). Scores below 0, of entries that oppose the sum,
never count, even where `ratio` would reach them.
"""

from __future__ import annotations

from typing import Any

import torch

from evomerge.genome import Gene
from evomerge.layers import Place
from evomerge.maths import combine, consensus, sparsify

VERSION = 1
CLIP_PER_10000 = 1
GENES = (
    Gene("weight", -1.0, 2.0, default=1.2, per_expert=True, seeds=(0.8, 1.0, 1.2, 1.3)),
    Gene("ratio", 1 / sparsify.GRID, 0.5, default=26 / sparsify.GRID, step=1 / sparsify.GRID),
    Gene(
        "threshold_scope", default="model", choices=("model", "tensor"),
        level="model", searched=False,
    ),
)  # fmt: skip
PASSES = 2 * sparsify.PASSES


def scope(genes: dict[str, Any], place: Place) -> str:
    return "tile"


def prepare(
    base: torch.Tensor, experts: torch.Tensor, stats: sparsify.State | None, place: Place
) -> dict[str, torch.Tensor]:
    """Counts of magnitudes, three passes, then of scores; squares with the first."""
    task_vectors = experts - base
    if stats is not None and "bounds" in stats:
        scores = _scores(task_vectors, stats)[0]
        later = stats if "prefix" in stats else None
        return {"counts": sparsify.count(scores, later)}
    counts = {"counts": sparsify.count(task_vectors.abs(), stats)}
    if stats is None:
        squares = combine.total(task_vectors.double().square()).sum()
        entries = squares.new_tensor(task_vectors.numel())
        counts |= {"squares": squares, "entries": entries}
    return counts


def finish(sums: sparsify.State, stats: sparsify.State | None) -> dict[str, torch.Tensor]:
    """`bounds` (K, 2) of magnitudes and `size`; then `highest` (K, GRID + 1): scores of the
    densities, the largest score in column 0."""
    if stats is None or "bounds" not in stats:
        state = sparsify.descend(
            sums["counts"], stats, (CLIP_PER_10000, 10000 - CLIP_PER_10000), 10000
        )
        state["size"] = (
            (sums["squares"] / sums["entries"]).sqrt() if stats is None else stats["size"]
        )
        if int(state["passes"]) < sparsify.PASSES:
            return state
        return {"bounds": sparsify.found(state).flip(1), "size": state["size"]}
    known = {"bounds": stats["bounds"], "size": stats["size"]}
    later = stats if "prefix" in stats else None
    state = sparsify.descend(sums["counts"], later, range(sparsify.GRID + 1))
    if int(state["passes"]) == sparsify.PASSES:
        return {**known, "highest": sparsify.found(state)}
    return {**known, **state}


def merge(
    base: torch.Tensor,
    experts: torch.Tensor,
    *,
    stats: Any,
    weight: torch.Tensor,
    ratio: float,
    **_: Any,
) -> torch.Tensor:
    """base + sum_k w_k s_k d_k / sum_k s_k, s the scores above their threshold, in [0, 1]."""
    score, clipped = _scores(experts - base, stats)
    highest = stats["highest"]
    least = highest[:, round(ratio * sparsify.GRID)]
    span = highest[:, 0] - least
    share = consensus.weigh(
        (score - least.view(-1, *[1] * base.dim())).clamp_(min=0.0),
        torch.where(span > 0, 1 / torch.where(span > 0, span, 1.0), 0.0),
    )
    total = consensus.mass(consensus.weigh(share * clipped, weight))
    return base + total / consensus.mass(share).clamp_(min=1e-12)


def _scores(
    task_vectors: torch.Tensor, stats: sparsify.State
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores, and clipped task vectors: (K, *S) both; a score below 0 is 0, without its sign."""
    low, high = (
        bound.view(-1, *[1] * (task_vectors.dim() - 1)) for bound in stats["bounds"].unbind(1)
    )
    magnitude = task_vectors.abs().clamp_(min=low, max=high)
    span = torch.where(high > low, high - low, torch.inf)
    within = ((magnitude - low) / span).square_().mul_(len(task_vectors)).exp_()
    size = stats["size"].float()
    scaled = task_vectors / torch.where(size > 0, size, 1.0)
    between = torch.tanh(scaled * consensus.mass(scaled))
    return within.mul_(between).clamp_(min=0.0).add_(0.0), magnitude * task_vectors.sign()
