"""Whether an expert descends from the base: what samples of their weights say.

Entries of a fine-tuned model still point where the base's do. Where they do not, the expert has
another ancestor, or was rewritten without changing what it computes: its MLP neurons permuted
(Ainsworth et al. 2022, "Git Re-Basin"), or the factors of W_Q^T W_K and W_O W_V multiplied by a
matrix and its inverse, as is done to keep a model from being merged. No average makes sense then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.nn.functional import normalize

from evomerge import errors
from evomerge.files.checkpoint import Model, TensorInfo
from evomerge.layers import starred

ROWS, LAYERS, HEADS = 128, 3, 4
"""How much is read: rows of a tensor, layers of each kind, heads of a layer."""

UNRELATED, REWRITTEN, SAME = 0.3, 0.7, 0.95
"""Cosines below the first show another ancestor, below the second need an explanation, above the
third are equal. Experts that were trained hard (twice the usual change) stay above 0.9."""
RESCALED = 2.0

_ATTENTION = {
    "q": ("q_proj", "query", "q", "q_lin"),
    "k": ("k_proj", "key", "k", "k_lin"),
    "v": ("v_proj", "value", "v", "v_lin"),
    "o": ("o_proj", "out_proj", "o", "out_lin"),
}


@dataclass(frozen=True)
class Kind:
    """What sampled tensors of one kind (`model.layers.*.mlp.up_proj`) say, over all layers.

    `cosine` of expert and base, `change` |expert - base| / |base|, `growth` |expert| / |base|.
    """

    cosine: float
    change: float
    growth: float


def look(base: Model, expert: Model) -> tuple[dict[str, Kind], list[str]]:
    """Kind by path, and what speaks against merging the expert, in words; no words: nothing."""
    kinds = {}
    samples = _samples(base.tensors)
    for path, names in samples.items():
        dot = ours = theirs = apart = 0.0
        for name in names:
            x, y = (_rows(model, name) for model in (base, expert))
            dot, apart = dot + float((x * y).sum()), apart + float((y - x).square().sum())
            ours, theirs = ours + float(x.square().sum()), theirs + float(y.square().sum())
        if ours and theirs:
            sizes = (dot / (ours * theirs) ** 0.5, (apart / ours) ** 0.5, (theirs / ours) ** 0.5)
            kinds[path] = Kind(*sizes)
    return kinds, list(_faults(base, expert, samples, kinds))


def _samples(tensors: Mapping[str, TensorInfo]) -> dict[str, list[str]]:
    """Matrices of repeated blocks, by kind: of the first, the middle and the last layer."""
    found: dict[str, list[str]] = {}
    for name, info in tensors.items():
        path = starred(name)
        is_matrix = len(info.shape) == 2 and min(info.shape) > 1
        if "*" in path and is_matrix and info.dtype.is_floating_point:
            found.setdefault(path.removesuffix(".weight"), []).append(name)
    return {
        path: [names[i] for i in sorted({0, len(names) // 2, len(names) - 1})[:LAYERS]]
        for path, names in found.items()
    }


def _rows(model: Model, name: str, *, whole: bool = False) -> torch.Tensor:
    rows, columns = shape = model.tensors[name].shape
    found = model.read_flat(name, 0, (rows if whole else min(rows, ROWS)) * columns).float()
    if odd := not_finite(found, shape):
        raise errors.InputError(f"{model.name}: '{name}' has {odd}: its weights are not finite")
    return found.view(-1, columns)


def _faults(
    base: Model, expert: Model, samples: Mapping[str, list[str]], kinds: Mapping[str, Kind]
) -> Sequence[str]:
    found = []
    for path, kind in kinds.items():
        if kind.cosine > SAME and not 1 / RESCALED < kind.growth < RESCALED:
            found.append(
                f"{path} is {kind.growth:.2f} times the base's (cosine {kind.cosine:.3f}): "
                "rescaled"
            )
    for pair, what in (("qk", "W_Q^T W_K"), ("vo", "W_O W_V")):
        found += _rewritten(base, expert, samples, kinds, pair, what)
    for path, kind in kinds.items():
        if kind.cosine < REWRITTEN:
            found += _permuted(base, expert, samples[path][0], path, kind)
    cosines = sorted(kind.cosine for kind in kinds.values())
    if not found and cosines and cosines[len(cosines) // 2] < UNRELATED:
        found.append(
            f"half of its matrices have a cosine below {cosines[len(cosines) // 2]:.3f} with the "
            "base's, experts of a base above 0.9: another ancestor, or permuted throughout"
        )
    return found


def _rewritten(
    base: Model,
    expert: Model,
    samples: Mapping[str, list[str]],
    kinds: Mapping[str, Kind],
    pair: str,
    what: str,
) -> Sequence[str]:
    """Factors that differ although the products of each head are the base's."""
    for path in kinds:
        parent, _, leaf = path.rpartition(".")
        if leaf not in _ATTENTION[pair[0]]:
            continue
        others = [p for p in kinds if p.rpartition(".")[0] == parent]
        ends = _ATTENTION[pair[1]]
        other = next((p for p in others if p.rpartition(".")[2] in ends), None)
        if other is None or min(kinds[path].cosine, kinds[other].cosine) > REWRITTEN:
            continue
        names = samples[path][0], samples[other][0]
        same = _product_cosine(base, expert, *names, transposed=pair == "vo")
        if same is not None and same > SAME:
            return [
                f"{path} and {other} have cosines {kinds[path].cosine:.3f} and "
                f"{kinds[other].cosine:.3f} with the base's, but {what} of each head "
                f"{same:.3f}: rewritten so that the model computes the same"
            ]
    return []


def _product_cosine(
    base: Model, expert: Model, first: str, second: str, *, transposed: bool
) -> float | None:
    """Mean over heads of the cosine of W_1^T W_2 (`transposed`: of W_2 W_1) in both models.

    <A^T B, C^T D> = sum(A C^T * B D^T): no product of the size of the model is made.
    """
    config = expert.config.get("text_config") or expert.config
    heads = config.get("num_attention_heads") or config.get("num_heads")
    a, b = (_rows(base, name, whole=True) for name in (first, second))
    c, d = (_rows(expert, name, whole=True) for name in (first, second))
    if transposed:
        b, d = b.T, d.T
    if not isinstance(heads, int) or max(len(a), len(b)) % heads:
        return None
    size = max(len(a), len(b)) // heads
    cosines = []
    for head in range(min(heads, HEADS)):
        parts = []
        for matrix in (a, b, c, d):
            mine = head * (len(matrix) // size) // heads  # heads may share keys and values
            parts.append(matrix[mine * size : (mine + 1) * size])
        w, x, y, z = parts
        dot = float(((w @ y.T) * (x @ z.T)).sum())
        norms = float(((w @ w.T) * (x @ x.T)).sum()) * float(((y @ y.T) * (z @ z.T)).sum())
        cosines.append(dot / norms**0.5 if norms > 0 else 1.0)
    return sum(cosines) / len(cosines)


def _permuted(base: Model, expert: Model, name: str, path: str, kind: Kind) -> Sequence[str]:
    """Rows or columns that are the base's in another order."""
    x, y = (_rows(model, name, whole=True) for model in (base, expert))
    for axis, ours, theirs in (("rows", x, y), ("columns", x.T, y.T)):
        step = max(1, len(theirs) // ROWS)
        nearest = (normalize(theirs[::step]) @ normalize(ours).T).max(dim=1).values.mean()
        if float(nearest) > SAME:
            norms = [matrix.norm(dim=1).sort().values for matrix in (ours, theirs)]
            alike = float(torch.cosine_similarity(norms[0], norms[1], dim=0))
            return [
                f"{path}: cosine {kind.cosine:.3f} with the base's, but its {axis} have the same "
                f"directions in another order (cosine of the nearest {float(nearest):.3f}, of the "
                f"sorted norms {alike:.3f}): permuted"
            ]
    return []


def check(base: Model, experts: Sequence[Model]) -> dict[str, Any]:
    """What was found, as JSON: {expert: {"kinds": {path: numbers}, "faults": [words]}}."""
    found = {}
    for expert in experts:
        kinds, faults = look(base, expert)
        found[expert.name.removeprefix("experts.")] = {
            "kinds": {path: asdict(kind) for path, kind in kinds.items()},
            "faults": faults,
        }
    return found


def faults(found: Mapping[str, Any]) -> list[str]:
    """A line for each reason in what `check` found."""
    return [f"experts.{name}: {f}" for name, told in found.items() for f in told["faults"]]


def refuse(found: Mapping[str, Any], allowed: bool) -> list[str]:
    """The lines to be told; InputError with them unless the mismatch is allowed."""
    lines = faults(found)
    if lines and not allowed:
        advice = "Merging it would make sense of neither; `allow_mismatch: true` does it anyway"
        raise errors.InputError("\n".join([*lines, advice]))
    return lines


def same_integers(base: Model, experts: Sequence[Model]) -> None:
    """Raise InputError where a tensor of integers is not the base's: no operator merges them.

    How many batches a norm has seen changes with every training, and nothing is computed from it.
    """
    for name, info in base.tensors.items():
        is_count = name.rpartition(".")[2] == "num_batches_tracked"
        for expert in experts if not (info.dtype.is_floating_point or is_count) else ():
            ours, theirs = (m.read_flat(name, 0, info.numel) for m in (base, expert))
            differ = (ours != theirs).nonzero()
            if len(differ):
                at = position(int(differ[0]), info.shape)
                raise errors.InputError(
                    f"{expert.name}: '{name}' at {at} is {theirs[differ[0]].item()}, the base has "
                    f"{ours[differ[0]].item()}: integers are not merged, they have to be equal"
                )


def not_finite(flat: torch.Tensor, shape: Sequence[int]) -> str:
    """The first value of a flattened tensor that is no number, and its place; "" for none."""
    odd = (~flat.isfinite()).nonzero()
    return f"{flat[odd[0]].item()} at {position(int(odd[0]), shape)}" if len(odd) else ""


def position(index: int, shape: Sequence[int]) -> list[int]:
    """Where the element `index` of a flattened tensor stands."""
    found: list[int] = []
    for size in reversed(shape):
        found.insert(0, index % size)
        index //= size
    return found
