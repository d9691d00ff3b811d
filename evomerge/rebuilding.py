"""Whether a plan's weights come out the same, bit for bit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from evomerge import errors
from evomerge.files.checkpoint import Checkpoint
from evomerge.materialize import TILE, Merged, Workshop
from evomerge.plan import Plan
from evomerge.threads import one_thread

OTHER_TILE, OTHER_THREADS = TILE // 2 + 64, 2
"""What the second build has other than the first."""


class Digest:
    """The sha256 of weights: names, types, shapes and bytes of all tensors by name, however they
    are spread over files."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def add(self, name: str, tensor: torch.Tensor) -> None:
        head = json.dumps([name, str(tensor.dtype), list(tensor.shape)])
        self._sha256.update(head.encode())
        flat = tensor.detach().cpu().contiguous().view(-1)
        if flat.numel():
            self._sha256.update(flat.view(torch.uint8).numpy().data)

    def hex(self) -> str:
        return self._sha256.hexdigest()


def rebuild(plan: Plan, against: Path | None = None) -> dict[str, Any]:
    """Build a plan twice, tensor by tensor, with other tiles and threads the second time.

    `same_bits_promised`: whether all operators see tiles or rows; for others `difference` says
    how far the builds are apart: the tensors that differ and the largest distance. `against`: a
    model folder that has to have the same weights. Raises EvaluationError where bits that are
    promised differ, InputError for another model in `against`.
    """
    first = Merged(plan, Workshop.of(plan))
    second = Merged(plan, Workshop(first.workshop.checkpoints, tile=OTHER_TILE, kept=0))
    digests = Digest(), Digest()
    apart: dict[str, float] = {}
    for name in sorted(first.tensors):
        with one_thread():
            one = first.read(name)
        other = _threaded(second, name)
        for digest, tensor in zip(digests, (one, other), strict=True):
            digest.add(name, tensor)
        if not torch.equal(one, other):
            apart[name] = float((one.double() - other.double()).abs().max())
    exact = not any(w.scope == "tensor" for w in map(first.work, first.tensors) if w is not None)
    found = {
        "plan": plan.key,
        "sha256": digests[0].hex(),
        "sha256_other_tiles_and_threads": digests[1].hex(),
        "same_bits_promised": exact,
        "difference": {"tensors": len(apart), "largest": max(apart.values(), default=0.0)},
    }
    if exact and apart:
        raise errors.EvaluationError(
            f"plan {plan.key[:12]}: '{next(iter(apart))}' has other bits with other tiles or "
            "threads, which no operator of tiles or rows may have: please report it"
        )
    return found if against is None else {**found, "against": _compared(found, against)}


def _threaded(merged: Merged, name: str) -> torch.Tensor:
    before = torch.get_num_threads()
    torch.set_num_threads(OTHER_THREADS)
    try:
        return merged.read(name)
    finally:
        torch.set_num_threads(before)


def digest_of(folder: Path) -> str:
    """The digest of a model folder's weights."""
    checkpoint, digest = Checkpoint.open(folder), Digest()
    for name, info in sorted(checkpoint.tensors.items()):
        digest.add(name, checkpoint.read_flat(name, 0, info.numel).view(info.shape))
    return digest.hex()


def _compared(found: Mapping[str, Any], folder: Path) -> str:
    theirs = digest_of(folder)
    if theirs != found["sha256"]:
        raise errors.InputError(
            f"{folder}: its weights have the sha256 {theirs}, those of the plan {found['sha256']}"
        )
    return str(folder)
