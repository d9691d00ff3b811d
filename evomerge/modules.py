"""What transformers knows of a model folder: its class, its modules, and where tensors go."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from evomerge import errors
from evomerge.files import plain

Chain = list[tuple[str, nn.Module]]
"""The modules from the whole model (named "") down to the one that holds a tensor."""

_padded = WeakKeyDictionary[Any, bool]()


def config(folder: Path) -> Any:
    """What transformers makes of a folder's config.json, without any code that it asks for.

    Raises ValueError for a model that is defined by code of its own, InputError for one that
    names an implementation on a hub, which transformers would download and run.
    """
    from transformers import AutoConfig

    found: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    for part in (found, *(getattr(found, name, None) for name in found.sub_configs)):
        for key in ("_attn_implementation", "_experts_implementation"):
            named = getattr(part, key, None)
            if isinstance(named, str) and "/" in named:
                raise errors.InputError(
                    f"{folder}: config.json: {key.lstrip('_')} is {plain.shown(named)}, code from "
                    "a hub, which is never run; take the key out"
                )
    return found


def architecture(config: Any, where: str) -> Any:
    """The class that `architectures` of a config names; without one, the causal language model.

    Raises InputError for a class that transformers does not have: no code of a folder is run.
    """
    import transformers

    named = (getattr(config, "architectures", None) or [""])[0]
    if not named:
        return transformers.AutoModelForCausalLM
    found = getattr(transformers, named, None)
    if not isinstance(found, type) or not issubclass(found, transformers.PreTrainedModel):
        raise errors.InputError(
            f"{where}: transformers {transformers.__version__} has no architecture '{named}'"
        )
    return found


def check_causal(model: Any, where: str) -> None:
    """Raise InputError for a model that does not go on with the text that it is given."""
    if not model.can_generate() or getattr(model.config, "is_encoder_decoder", False):
        kind = type(model).__name__
        raise errors.InputError(f"{where} wants a causal language model, this is {kind}")


def is_padded(model: Any) -> bool:
    """Whether texts of several lengths go through a causal model together, and go on in branches.

    A recurrent model reads padding as well, and its state is no cache of keys and values.
    """
    from transformers import DynamicCache

    if model not in _padded:  # asked with every block; a cache has an object for each layer
        layers = DynamicCache(config=model.config).layers
        known = all(hasattr(layer, "batch_select_indices") for layer in layers)
        _padded[model] = known and not model._is_stateful
    return _padded[model]


def stored(model: Any) -> dict[str, torch.Tensor]:
    """The tensors of a live model by the names of its files, as views of the model's memory.

    transformers fuses some tensors as it loads them (the experts of a mixture) and undoes it as
    it saves: what it would save is a view of what it holds, unless it has to compute it.
    Raises InputError for a model of which that is so.
    """
    from transformers.core_model_loading import revert_weight_conversion

    state = model.state_dict()
    views = {name: tensor.as_subclass(_View) for name, tensor in state.items()}
    found = revert_weight_conversion(model, views)
    ours = {_memory(tensor) for tensor in state.values()}
    for name, tensor in found.items():
        if _memory(tensor) not in ours:
            raise errors.InputError(
                f"{type(model).__name__}: transformers computes '{name}' anew when it saves a "
                "model, which a model in memory can not be merged into"
            )
    return {name: tensor.as_subclass(torch.Tensor) for name, tensor in found.items()}


def writable(model: Any) -> dict[str, torch.Tensor]:
    """What `stored` gives, also by names without or with the prefix of the model's inner part.

    A file may have been saved without the head, or the model inside of one that has it.
    """
    found, prefix = stored(model), f"{model.base_model_prefix}."
    bare = {n.removeprefix(prefix): t for n, t in found.items() if n.startswith(prefix)}
    return {**{f"{prefix}{name}": t for name, t in found.items()}, **bare, **found}


class _View(torch.Tensor):
    """A tensor of which parts stay views."""

    def contiguous(self, *_: Any, **__: Any) -> torch.Tensor:
        return self


def _memory(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)  # also tells tensors on the meta device apart


def names(folder: Path) -> dict[str, str]:
    """Name of a live tensor -> its name in files, where the folder's model can be built."""
    model = on_meta(folder)
    if model is None:
        return {}
    found = homes(model)
    return {found[name]: name for name in stored(model)}


def kinds(folder: Path) -> dict[str, tuple[str, str]]:
    """Tensor's name in files -> its live name, and what PEFT can do with it.

    `matrix` (out, in), `turned` (in, out), `embedding` (words, out), `bias` of one of them,
    `other` of a module of its own; `fused` for a part of a tensor. InputError for a model that
    transformers can not build.
    """
    from transformers.pytorch_utils import Conv1D

    model = on_meta(folder)
    if model is None:
        raise errors.InputError(f"{folder}: transformers can not build the model")
    state, shapes, found = model.state_dict(), writable(model), {}
    for name, live in homes(model).items():
        holder = chain(model, live)[-1][1]
        matrices = {nn.Linear: "matrix", Conv1D: "turned", nn.Embedding: "embedding"}
        kind = next((k for of, k in matrices.items() if isinstance(holder, of)), "other")
        if kind != "other" and live.endswith(".bias"):
            kind = "bias"
        whole = shapes[name].shape == state[live].shape
        found[name] = (live, kind if whole else "fused")
    return found


def on_meta(folder: Path) -> Any:
    """The folder's model without any memory for weights; None if transformers can not build it."""
    from transformers.utils import logging

    quiet: Any = logging
    verbosity = quiet.get_verbosity()
    quiet.set_verbosity_error()
    try:
        known = config(folder)
        found = architecture(known, str(folder))
        begin = getattr(found, "_from_config", None) or found.from_config
        with torch.device("meta"):
            return begin(known)
    except Exception:  # whatever a config makes of a library's constructors: names have to do
        return None
    finally:
        quiet.set_verbosity(verbosity)


def homes(model: Any) -> dict[str, str]:
    """Name in files -> name of the live tensor that holds it."""
    live: dict[int, str] = {}
    for name, tensor in model.state_dict().items():
        live.setdefault(_memory(tensor), name)
    try:
        return {name: live[_memory(tensor)] for name, tensor in writable(model).items()}
    except errors.InputError:
        return {name: name for name in live.values()}


def chain(model: nn.Module, name: str) -> Chain:
    """The modules above a tensor."""
    found: Chain = [("", model)]
    for part in name.split(".")[:-1]:
        found.append((part, getattr(found[-1][1], part)))
    return found
