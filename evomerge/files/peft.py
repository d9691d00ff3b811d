"""What PEFT's `adapter_config.json` says of a LoRA adapter: ranks and scales, checked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import regex

from evomerge import errors
from evomerge.files import plain

PATIENCE = 1.0
"""Seconds for one pattern and one module: those of others may be made to take for ever."""
_CHANGES_MORE = (
    *("use_dora", "use_qalora", "use_bdlora", "alora_invocation_tokens", "arrow_config"),
    *("layer_replication", "target_parameters", "trainable_token_indices", "kasa_config"),
    *("monteclora_config", "megatron_config"),
)
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that also take the first update from the base."""

_CHOOSES_LAYERS = ("layers_to_transform", "exclude_modules")


def check(config: Mapping[str, Any], where: str) -> None:
    """Raise InputError for an adapter that adds something else than LoRA and rsLoRA do."""
    found = config.get("peft_type")
    if found != "LORA":
        raise errors.InputError(f"{where}: peft_type is {plain.shown(found)}, expected 'LORA'")
    for key in _CHANGES_MORE:
        if config.get(key):
            raise errors.InputError(
                f"{where}: {key} is {plain.shown(config[key])}: only what LoRA and rsLoRA add is "
                "known; merge it into its base with PEFT, then give the whole model"
            )
    begun = config.get("init_lora_weights")
    if isinstance(begun, str) and begun.lower().startswith(_CHANGES_BASE):
        raise errors.InputError(
            f"{where}: init_lora_weights is '{begun}', which changed the base before training; "
            "save it with PEFT's path_initial_model_for_weight_conversion"
        )
    for key, kind, number in (("r", int, "whole number"), ("lora_alpha", int | float, "number")):
        if not isinstance(config.get(key), kind) or not config[key] > 0:
            got = plain.shown(config.get(key))
            raise errors.InputError(f"{where}: {key}: expected a {number} above 0, got {got}")


def targets(config: Mapping[str, Any], tensors: Iterable[str]) -> set[str]:
    """Which of a base's tensors an adapter changes by its config, where that is a plain list."""
    named = config.get("target_modules")
    if not isinstance(named, list) or any(map(config.get, _CHOOSES_LAYERS)):
        return set()
    ends = tuple(f".{name}.weight" for name in named)
    return {name for name in tensors if f".{name}".endswith(ends)}


def rank(config: Mapping[str, Any], path: str, where: str) -> int:
    """Of the factors of a module."""
    return int(_by_pattern(config, "rank_pattern", path, config["r"], where))


def scale(config: Mapping[str, Any], path: str, rank: int, where: str) -> float:
    """By which the product of a module's factors is added."""
    alpha = _by_pattern(config, "alpha_pattern", path, config["lora_alpha"], where)
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _by_pattern(
    config: Mapping[str, Any], key: str, path: str, default: float, where: str
) -> float:
    """The value of the first pattern that a module's path ends with, as PEFT looks it up."""
    patterns = config.get(key) or {}
    try:
        for pattern in patterns:
            if regex.match(rf"(.*\.)?({pattern})$", path, timeout=PATIENCE):
                return float(patterns[pattern])
        return default
    except TimeoutError:
        reason = f"takes more than {PATIENCE:g} s for '{path}'; name the modules"
    except (regex.error, TypeError, ValueError):
        reason = "is not usable"
    raise errors.InputError(f"{where}: {key}: {plain.shown(patterns)} {reason}")
