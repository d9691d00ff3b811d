"""The passes over all tensors in which an operator's statistics are gathered."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING

import torch

from evomerge.work import extents

if TYPE_CHECKING:
    from evomerge.materialize import Merged

EXTENT = 2**18
"""Elements that statistics are gathered from at a time, whatever the tiles: sums of floats shall
not depend on them."""

SAMPLED, MOST_SAMPLED = 61, 2**21
"""One entry in so many is looked at where a sample will do, and of a large model so many entries
at most. The step is odd, as few rows have a width that is a multiple of it."""

Tensors = dict[str, torch.Tensor]


def prepare(module: ModuleType, merged: Merged, scopes: Mapping[str, str]) -> Tensors:
    """Run the passes of an operator's statistics over tensors; each sees what the last found."""
    stats: Tensors | None = None
    for _ in range(getattr(module, "PASSES", 1)):
        found = _pass(module, merged, scopes, stats)
        stats = module.finish(found, stats) if hasattr(module, "finish") else found
    return stats or {}


def bracketed(module: ModuleType, merged: Merged, scopes: Mapping[str, str]) -> Tensors | None:
    """The same for the genes of this plan alone, in one pass between bounds that a sample gives;
    None where an operator has no such way, or what it looks for is not there."""
    works = [merged.work(name) for name in scopes]
    same = [work.genes for work in works if work is not None and work.module is module]
    total = sum(merged.tensors[name].numel for name in scopes)
    step = max(SAMPLED, total // MOST_SAMPLED | 1)
    parts = []
    for name, scope in scopes.items():
        for start, stop in extents(merged.tensors[name], scope, EXTENT):
            parts.append(merged.inputs(name, start, stop, step))
    sample = [torch.cat(each, dim=-1) for each in zip(*parts, strict=True)]
    guess = module.bracket(*sample, same)
    if guess is None:
        return None
    found: Tensors | None = module.finish(_pass(module, merged, scopes, guess), guess)
    return found


def _pass(
    module: ModuleType, merged: Merged, scopes: Mapping[str, str], stats: Tensors | None
) -> Tensors:
    found: Tensors = {}
    for name, scope in scopes.items():
        for start, stop in extents(merged.tensors[name], scope, EXTENT):
            inputs = merged.shaped(name, scope, start, stop)
            add(found, module.prepare(*inputs, stats, merged.places[name]))
    return found


def add(total: Tensors, part: Mapping[str, torch.Tensor]) -> None:
    for key, value in part.items():
        total[key] = total[key] + value if key in total else value
