"""Stacks of repeated blocks, and what each tensor is for, found from a model's modules."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from evomerge import modules
from evomerge.layers import Layers, Role, Structure, starred

_NORM = re.compile(r"norm|^ln_|_ln$", re.I)
_ATTENTION = re.compile(r"attn|attention|mixer|mamba|ssm|recurrent|deltanet", re.I)
_PROJECTOR = re.compile(r"projector|connector|merger|resampler", re.I)
_GATES = ("gate", "shared_expert_gate")


def layers(folder: Path, names: Iterable[str], resolution: Mapping[str, Any]) -> Layers:
    """Layers at a resolution, with the structure of the folder's model where names do not tell it.

    Of a model that transformers can not build, names have to tell.
    """
    names = list(names)
    found = structure(folder, names)
    plain = Layers(**resolution)
    if found is None:
        return plain
    finest = Layers(blocks="all", roles=get_args(Role))
    by_modules = finest.model_copy(update={"structure": found})
    if finest.groups(names) == by_modules.groups(names) and not found.offset:
        return plain
    return plain.model_copy(update={"structure": found})


def structure(folder: Path, names: Iterable[str]) -> Structure | None:
    """Stacks and roles of the model of a folder, whose tensors have these names.

    None where transformers does not know the model, or not by these names.
    """
    model = modules.on_meta(folder)
    return None if model is None else structure_of(model, names)


def structure_of(model: Any, names: Iterable[str]) -> Structure | None:
    """The same of a model, on whatever device."""
    homes, stacks = modules.homes(model), _stacks(model)
    roles: dict[str, str] = {}
    paths: dict[str, str] = {}
    offset: dict[str, None] = {}
    for name in names:
        home = homes.get(name)
        if home is None:
            continue
        path, chain = starred(name), modules.chain(model, home)
        stack = next((s for s in stacks if home.startswith(f"{s}.")), None)
        roles[path] = _role(model, chain, stack)
        if stack is not None and roles[path] not in ("tower", "projector"):
            paths[stack] = _through(path, 1 + starred(stack).count("*"))
        if roles[path] == "norm" and _scales_by_one_more(chain[-1][1]):
            offset[path] = None
    if not paths:
        return None
    in_order = tuple(paths[stack] for stack in stacks if stack in paths)
    return Structure(stacks=in_order, roles=_short(roles), offset=tuple(offset))


def _through(path: str, count: int) -> str:
    """The beginning of a path, up to its star number `count`."""
    return "*".join(path.split("*")[:count]) + "*"


def _short(roles: Mapping[str, str]) -> dict[str, str]:
    """The same roles, each said of the shortest path below which there is no other."""
    below: dict[str, set[str]] = {}
    parts = {path: path.split(".") for path in roles}
    starts = {
        path: [".".join(words[: i + 1]) for i in range(len(words))]
        for path, words in parts.items()
    }
    for path, role in roles.items():
        for start in starts[path]:
            below.setdefault(start, set()).add(role)
    return {
        next(start for start in starts[path] if len(below[start]) == 1): role
        for path, role in roles.items()
    }


def _stacks(model: nn.Module) -> list[str]:
    """Paths of the outermost lists of repeated blocks, in the order of the modules."""
    found: list[str] = []
    for path, module in model.named_modules():
        if any(path.startswith(f"{outer}.") for outer in found):
            continue
        blocks = list(module) if isinstance(module, nn.ModuleList | nn.Sequential) else []
        if blocks and all(_is_block(block) for block in blocks):
            found.append(path)
    return found


def _is_block(module: nn.Module) -> bool:
    holders = (m for m in module.modules() if next(m.parameters(recurse=False), None) is not None)
    return len(list(holders)) > 1


def _role(model: Any, chain: modules.Chain, stack: str | None) -> str:
    towers, text = _modalities(model)
    configs = [type(getattr(module, "config", None)) for _, module in chain[1:]]
    named = [name for name, _ in chain] + [type(module).__name__ for _, module in chain[1:]]
    if any(config in towers for config in configs):
        return "projector" if any(map(_PROJECTOR.search, named)) else "tower"
    if stack is not None:
        return _role_in_block(chain[stack.count(".") + 2 :])
    top = chain[1][1] if len(chain) > 1 else model
    outputs = _output_embeddings(model)
    if any(module is outputs for _, module in chain):
        return "head"
    if model.base_model is not model and top is not model.base_model and top is not model:
        return "head"
    if towers and text not in configs:
        return "projector"
    if isinstance(chain[-1][1], nn.Embedding) or any("embed" in name.lower() for name in named):
        return "embedding"
    return "norm" if _is_norm(*chain[-1]) else "other"


def _modalities(model: Any) -> tuple[set[type], type]:
    """Types of the configs of all towers, and that of the language model's."""
    text = type(model.config.get_text_config())
    parts = [getattr(model.config, key, None) for key in getattr(model.config, "sub_configs", {})]
    return {type(part) for part in parts if part is not None} - {text}, text


def _output_embeddings(model: Any) -> nn.Module | None:
    try:
        found: nn.Module | None = model.get_output_embeddings()
    except (AttributeError, NotImplementedError):  # a model without words
        return None
    return found


def _role_in_block(chain: modules.Chain) -> str:
    """The role of a tensor by the modules from its block, which comes first, down to its own."""
    inside = chain[1:]
    if not inside:
        return "other"
    if _is_norm(*inside[-1]):
        return "norm"
    for (_, parent), (name, module) in zip(chain, inside, strict=False):
        kind = type(module).__name__
        if "router" in f"{name} {kind}".lower() or (name in _GATES and hasattr(parent, "experts")):
            return "router"
        if name == "experts" or "Experts" in kind:
            return "experts"
    if any(_ATTENTION.search(f"{name} {type(module).__name__}") for name, module in inside):
        return "attention"
    is_conv = isinstance(inside[-1][1], nn.Conv1d | nn.Conv2d | nn.Conv3d)
    return "conv" if is_conv else "mlp"


def _is_norm(name: str, module: nn.Module) -> bool:
    return bool(_NORM.search(name) or _NORM.search(type(module).__name__))


def _scales_by_one_more(norm: nn.Module) -> bool:
    """Whether a norm multiplies by 1 + w: with w = 0 something is left of its input."""
    weight = getattr(norm, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.dim() != 1:
        return False
    alone = copy.deepcopy(norm).to_empty(device="cpu")
    with torch.no_grad():
        for parameter in alone.parameters():
            parameter.zero_()
        try:
            found = alone(torch.arange(1.0, 1 + len(weight)).to(weight.dtype)[None])
        except Exception:  # it takes more than one input, or another shape
            return False
    return isinstance(found, torch.Tensor) and bool(found.abs().max() > 0)
