"""Whether experts have the tensors of their base, and the config that they are read with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evomerge import errors
from evomerge.files import plain
from evomerge.files.checkpoint import Model, TensorInfo
from evomerge.files.folder import LISTED, listed

_COMPUTES_NOTHING = re.compile(
    r"_.*|dtype|torch_dtype|.*_?name_or_path|.*_token_ids?|.*_token_index|vocab_size|architectures"
    r"|model_type|transformers_version|use_cache|tie_word_embeddings|label2id|.*dropout.*|.*pdrop"
    r"|initializer_.*|output_.*|router_aux_loss_coef|quantization_config|problem_type"
)
"""Keys of a config that say where a model comes from, how it is trained, or what is compared
elsewhere: of these, none changes what its weights compute."""
_UNNAMED = re.compile(r"LABEL_\d+")


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


def notes(base: Model, experts: Sequence[Model]) -> Iterator[str]:
    """What an expert's own config says otherwise than the base's, which all merges have."""
    for expert in experts:
        found = [
            f"{key} is {plain.shown(theirs)} (the base's {plain.shown(ours)})"
            for key, ours, theirs in _told_apart(_plain(base.config), _plain(expert.config))
        ]
        if found:
            rest = "; ..." if len(found) > LISTED else ""
            yield (
                f"expert '{expert.name.removeprefix('experts.')}' is merged and scored with the "
                f"base's config, and its own differs: {'; '.join(found[:LISTED])}{rest}"
            )


def _told_apart(
    base: Mapping[str, Any], expert: Mapping[str, Any], path: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Key, base's value and expert's, of keys that both have."""
    for key in [key for key in base if key in expert and not _COMPUTES_NOTHING.fullmatch(key)]:
        ours, theirs = base[key], expert[key]
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            yield from _told_apart(_plain(ours), _plain(theirs), f"{path}{key}.")
        elif ours != theirs and not any(_UNNAMED.fullmatch(str(one)) for one in (ours, theirs)):
            yield f"{path}{key}", ours, theirs


def _plain(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A config with its rotary embedding as transformers 4 wrote it."""
    told = config.get("rope_parameters")
    if not isinstance(told, Mapping) or "rope_theta" not in told:
        return config
    rest = {key: value for key, value in told.items() if key != "rope_theta"}
    scaled = rest if rest.get("rope_type", "default") != "default" else None
    whole = {key: value for key, value in config.items() if key != "rope_parameters"}
    return {"rope_theta": told["rope_theta"], "rope_scaling": scaled} | whole
