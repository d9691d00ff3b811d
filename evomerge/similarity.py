"""How alike experts are, before anything is merged: signals per depth and role, as a stream."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from evomerge import errors, inputs, stacks
from evomerge.files import plain
from evomerge.files.checkpoint import Model
from evomerge.layers import Layers
from evomerge.materialize import TILE
from evomerge.maths import similarity, sparsify
from evomerge.recipe import named
from evomerge.signals import CHANCE, EXPERT, Group, Numbers, Similarity

ROLES = ("attention", "mlp", "norm")
LARGEST = 1024


@dataclass
class _Found:
    """What the tensors of a group have given so far."""

    sums: dict[str, torch.Tensor]
    experts: list[tuple[int, list[Numbers]]]
    pairs: list[tuple[int, list[Numbers]]]


def compare(
    base: str | Path,
    experts: Mapping[str, str | Path] | Iterable[str | Path] | str | Path,
    *,
    density: float = 0.2,
    blocks: int | str = "all",
    largest_matrix: int = LARGEST,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Similarity:
    """Compare task vectors: signals of each expert and pair, per depth and role.

    `density` is the share of largest entries that trimming keeps, per tensor, on a grid of 1/256.
    Matrices whose smaller side is above `largest_matrix` have no spectral signals: those cost
    its third power. Memory holds a tile of all models, and such a square matrix of each.
    Raises InputError for experts that do not fit the base, and for values that are not finite.
    """
    if isinstance(experts, str | Path):
        experts = [experts]
    if not isinstance(experts, Iterable):
        raise errors.RecipeError(f"compare: expected models or {{name: model}}, got {experts!r}")
    called = experts if isinstance(experts, Mapping) else named(experts)
    if not called:
        raise errors.RecipeError("compare: expected at least one expert")
    if not 1 / sparsify.GRID <= density <= 1:
        raise errors.RecipeError(f"density: expected 1/256 to 1, got {density}")
    if largest_matrix < 0:
        raise errors.RecipeError(f"largest_matrix: expected at least 0, got {largest_matrix}")
    found = inputs.load(str(base), {name: str(e) for name, e in called.items()}, Path.cwd())
    root, *sources = found.sources
    opened = dict(zip(called, sources, strict=True))
    asked = {"blocks": blocks, "roles": ROLES}
    wanted = plain.check(Layers, asked, "compare", raises=errors.RecipeError)
    layers = stacks.layers(found.base.folder, root.tensors, wanted.model_dump())
    stream = _Stream(root, opened, density, largest_matrix, told)
    return stream.run(str(base), layers.groups(root.tensors))


class _Stream:
    """One walk over all tensors."""

    def __init__(
        self,
        base: Model,
        experts: Mapping[str, Model],
        density: float,
        largest: int,
        told: Callable[[int, int], None],
    ) -> None:
        self.base, self.experts, self.largest, self.told = base, experts, largest, told
        self.cell = round(density * sparsify.GRID)
        self.ordered = list(itertools.combinations(range(len(experts)), 2))
        self.matrices = self.measured = 0

    def run(self, base: str, groups: Mapping[str, str]) -> Similarity:
        names = [n for n, info in self.base.tensors.items() if info.dtype.is_floating_point]
        total = sum(self.base.tensors[name].bytes for name in names)
        found: dict[str, _Found] = {}
        done = 0
        for name in names:
            self._tensor(name, found.setdefault(groups[name], _Found({}, [], [])))
            done += self.base.tensors[name].bytes
            self.told(done, total)
        parts = [self._group(name, [part]) for name, part in found.items()]
        whole = self._group("all", list(found.values()))
        return Similarity(
            base, tuple(self.experts), self.cell / sparsify.GRID, whole, tuple(parts),
            self.matrices, self.measured, self.largest,
        )  # fmt: skip

    def _tensor(self, name: str, found: _Found) -> None:
        table = self._thresholds(name)
        for base, task_vectors in self._tiles(name):
            kept = task_vectors.abs() >= table[:, self.cell, None]
            _add(found.sums, similarity.sums(base, task_vectors, kept))
        shape = self.base.tensors[name].shape
        if len(shape) != 2 or not min(shape):
            return
        self.matrices += 1
        if min(shape) <= self.largest:
            self.measured += 1
            self._spectra(name, found)

    def _tiles(self, name: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Base (n,) and task vectors (K, n) in float32; every value is finite."""
        for start in range(0, self.base.tensors[name].numel, TILE):
            stop = min(start + TILE, self.base.tensors[name].numel)
            base = _finite(self.base, name, start, stop)
            rows = [_finite(expert, name, start, stop) for expert in self.experts.values()]
            yield base, torch.stack(rows) - base

    def _thresholds(self, name: str) -> torch.Tensor:
        state: sparsify.State | None = None
        for _ in range(sparsify.PASSES):
            counts: dict[str, torch.Tensor] = {}
            for _, task_vectors in self._tiles(name):
                _add(counts, {"counts": sparsify.count(task_vectors.abs(), state)})
            if not counts:  # a tensor of no entries
                return torch.full((len(self.experts), sparsify.GRID + 1), torch.inf)
            state = sparsify.descend(counts["counts"], state)
        assert state is not None
        return sparsify.thresholds(state)

    def _spectra(self, name: str, found: _Found) -> None:
        merged, *spectra = map(similarity.Spectrum, self._grams(name))
        experts = []
        for one in spectra:
            inside, chance = similarity.alignment(merged, one)
            experts.append(
                {"effective_rank": one.effective_rank, "rank_95": float(one.rank),
                 "alignment": inside, "alignment_chance": chance}
            )  # fmt: skip
        pairs = []
        for i, j in self.ordered:
            common, chance = similarity.overlap(spectra[i], spectra[j])
            pairs.append({"subspace_overlap": common, "subspace_overlap_chance": chance})
        size = self.base.tensors[name].numel
        found.experts.append((size, experts))
        found.pairs.append((size, pairs))

    def _grams(self, name: str) -> torch.Tensor:
        """Gram matrices of the smaller side (K + 1, p, p): of the experts' sum, then of each."""
        shape = self.base.tensors[name].shape
        tall, p = shape[0] > shape[1], min(shape)
        grams = torch.zeros((len(self.experts) + 1, p, p), dtype=torch.float64)
        models = [self.base, *self.experts.values()]
        whole = [model.read_flat(name, 0, p * max(shape)).view(shape) for model in models]
        views = [view if tall else view.T for view in whole]
        for blocks in zip(*(torch.split(view, max(1, TILE // p)) for view in views), strict=True):
            base = blocks[0].double()
            rows = [block.double() - base for block in blocks[1:]]
            for gram, row in zip(grams, [torch.stack(rows).sum(0), *rows], strict=True):
                gram += row.T @ row
        return grams

    def _group(self, name: str, parts: Sequence[_Found]) -> Group:
        sums: dict[str, torch.Tensor] = {}
        for part in parts:
            _add(sums, part.sums)
        norms, signals = similarity.norms(sums), similarity.pairs(sums)
        names = list(self.experts)
        experts = {
            names[i]: {"norm": float(norms[i]), **_averaged((p.experts for p in parts), i, EXPERT)}
            for i in range(len(names))
        }
        pairs = {
            (names[i], names[j]): {
                **{key: float(value[i, j]) for key, value in signals.items()},
                **_averaged((p.pairs for p in parts), at, ("subspace_overlap",)),
            }
            for at, (i, j) in enumerate(self.ordered)
        }
        ratio, lost = similarity.norm_ratio(sums), similarity.cancelled(sums)
        return Group(name, int(sums["size"]), experts, pairs, ratio, lost)


def _averaged(
    parts: Iterable[list[tuple[int, list[Numbers]]]], at: int, signals: Sequence[str]
) -> Numbers:
    """Means over matrices, by their entries, of what is defined; nan where nothing is."""
    rows = [(size, numbers[at]) for part in parts for size, numbers in part]
    found = {}
    for key in (*signals, *(f"{name}_chance" for name in signals if name in CHANCE)):
        if key == "norm":
            continue
        there = [(size, row[key]) for size, row in rows if math.isfinite(row[key])]
        weight = sum(size for size, _ in there)
        found[key] = sum(size * value for size, value in there) / weight if there else math.nan
    return found


def _add(total: dict[str, torch.Tensor], part: Mapping[str, torch.Tensor]) -> None:
    for key, value in part.items():
        total[key] = total[key] + value if key in total else value


def _finite(model: Model, name: str, start: int, stop: int) -> torch.Tensor:
    values = model.read_flat(name, start, stop).float()
    if not torch.stack(torch.aminmax(values)).isfinite().all():
        raise errors.InputError(
            f"{model.name}: values of '{name}' are not finite: the model can not be merged"
        )
    return values
