"""Whether experts have the tensors of their base."""

from __future__ import annotations

from collections.abc import Sequence

from evomerge import errors
from evomerge.files import plain
from evomerge.files.checkpoint import Model, TensorInfo
from evomerge.files.folder import LISTED, listed


def compare(base: Model, experts: Sequence[Model]) -> None:
    """Raise InputError unless every expert has the base's tensors, judged by headers alone."""
    faults: list[str] = []
    for expert in experts:
        where = f"experts.{expert.name.removeprefix('experts.')}"
        for key in ("model_type", "architectures"):
            got, want = expert.config.get(key), base.config.get(key)
            if got and want and got != want:
                faults.append(
                    f"{where}: {key} is {plain.shown(got)}, base has {plain.shown(want)}"
                )
        missing = [name for name in base.tensors if name not in expert.tensors]
        stray = [name for name in expert.tensors if name not in base.tensors]
        differ = _differences(base, expert)
        if missing:
            faults.append(f"{where}: {listed(missing, 'tensor')} missing")
        if stray:
            faults.append(f"{where}: {listed(stray, 'tensor')} unexpected")
        if differ:
            many = f"{len(differ)} tensors differ: " if len(differ) > 1 else ""
            rest = "; ..." if len(differ) > LISTED else ""
            faults.append(f"{where}: {many}{'; '.join(differ[:LISTED])}{rest}")
    if faults:
        advice = "every expert must come from the base and keep its architecture and vocabulary"
        raise errors.InputError("\n".join([*faults, advice]))


def _differences(base: Model, expert: Model) -> list[str]:
    found = []
    for name, info in base.tensors.items():
        other = expert.tensors.get(name)
        if other is None:
            continue
        if other.shape != info.shape:
            found.append(f"'{name}' is {other.shape}, base has {info.shape}")
        elif other.dtype.is_floating_point != info.dtype.is_floating_point:
            found.append(f"'{name}' is {_dtype(other)}, base has {_dtype(info)}")
    return found


def _dtype(info: TensorInfo) -> str:
    return str(info.dtype).removeprefix("torch.")
