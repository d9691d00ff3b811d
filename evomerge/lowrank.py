"""A merged model as a LoRA adapter of its base: the best approximation of each chosen rank.

Eckart & Young 1936: the first singular vectors of a matrix are its best approximation of a rank.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from evomerge import errors, modules
from evomerge.files import writer
from evomerge.files.adapter import CONFIG, FIT, PREFIX, WEIGHTS
from evomerge.files.checkpoint import HEADS, module
from evomerge.inputs import leaves
from evomerge.live import check_finite
from evomerge.materialize import Merged, Workshop
from evomerge.plan import Plan


@dataclass
class Fit:
    """What of the task vectors is lost: norms of what is left out and of all, by module."""

    lost: dict[str, float] = field(default_factory=dict)
    whole: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, lost: float, whole: float) -> None:
        self.lost[name], self.whole[name] = lost, whole

    def to_json(self) -> dict[str, Any]:
        """Relative errors, in [0, 1]: of the whole model, and of the worst module."""
        shares = {name: lost / self.whole[name] for name, lost in self.lost.items()}
        worst = max(shares, key=lambda name: shares[name], default="")
        total = math.hypot(*self.whole.values())
        return {
            "relative error": math.hypot(*self.lost.values()) / total if total else 0.0,
            "worst module": worst,
            "relative error there": shares.get(worst, 0.0),
        }


def save_adapter(
    plan: Plan,
    workshop: Workshop,
    folder: Path,
    rank: int,
    *,
    card: str,
    extra_json: dict[str, Any],
) -> Path:
    """Write a plan's model as an adapter in PEFT's layout, with `fit.json` on what is lost.

    Matrices get `rank` at most; what has no rank, such as norms and biases, is saved whole.
    Raises RecipeError for a plan that no adapter of its base can hold.
    """
    if rank < 1:
        raise errors.RecipeError(f"adapter: expected a rank from 1, got {rank}")
    if plan.vocabulary is not None:
        raise errors.RecipeError(
            "adapter: the merged model has another vocabulary or head than its base, which an "
            "adapter can not hold; export the whole model"
        )
    root = leaves(plan.base)[0]
    base, merged = workshop.checkpoints[root.sha256], Merged(plan, workshop)
    kinds = modules.kinds(base.folder)
    tensors: dict[str, torch.Tensor] = {}
    config = _config(rank, root.origin.partition("@")[0] or str(base.folder.resolve()))
    fit = Fit()
    for name in merged.mergeable:
        new, old = merged.read(name).float(), base.read(name).float()
        check_finite(name, new, merged)
        if not torch.equal(new, old):
            live, kind = kinds.get(name, (name, "fused"))
            _add(tensors, config, fit, live, kind, new, new - old, base.tied)
            if base.tied and kind == "embedding":  # PEFT wants to read a tied head as well
                heads = sorted((other for other in kinds if module(other) in HEADS), key=len)
                tensors |= {f"{PREFIX}{head}": new.clone() for head in heads[:1]}
    files = {
        WEIGHTS: save(tensors, metadata={"format": "pt"}),
        CONFIG: json.dumps(config, indent=2).encode(),
        FIT: json.dumps(fit.to_json(), indent=1).encode(),
        "README.md": card.encode(),
        **{name: json.dumps(value, indent=1).encode() for name, value in extra_json.items()},
    }
    return writer.write_files(folder, files)


def _config(rank: int, base: str) -> dict[str, Any]:
    return {
        "peft_type": "LORA", "base_model_name_or_path": base, "r": rank, "lora_alpha": rank,
        "target_modules": [], "modules_to_save": [], "rank_pattern": {}, "alpha_pattern": {},
        "bias": "none", "fan_in_fan_out": False, "lora_dropout": 0.0, "inference_mode": True,
    }  # fmt: skip


def _add(
    tensors: dict[str, torch.Tensor],
    config: dict[str, Any],
    fit: Fit,
    name: str,
    kind: str,
    new: torch.Tensor,
    change: torch.Tensor,
    tied: bool,
) -> None:
    """Put one changed tensor into the adapter."""
    path = name.rpartition(".")[0]
    norm = float(change.norm())
    if kind == "fused":
        raise errors.RecipeError(
            f"adapter: '{name}' is part of a fused tensor, for which PEFT has no place; export "
            "the whole model"
        )
    if kind in ("other", "bias") or (kind == "embedding" and tied):
        if kind == "bias" and path in config["target_modules"]:
            config["bias"] = "all"
            tensors[f"{PREFIX}{path}.base_layer.bias"] = new
        else:
            config["modules_to_save"] = sorted({*config["modules_to_save"], path})
            config["ensure_weight_tying"] = config.get("ensure_weight_tying", False) or tied
            tensors[f"{PREFIX}{name}"] = new
        return fit.add(name, 0.0, norm)
    turned = kind != "linear"
    left, values, right = torch.linalg.svd(change.T if turned else change, full_matrices=False)
    rank = min(config["r"], len(values))
    root = values[:rank].sqrt()
    b, a = left[:, :rank] * root, root[:, None] * right[:rank]
    config["target_modules"].append(path)
    config["fan_in_fan_out"] |= kind == "turned"
    if rank < config["r"]:
        config["rank_pattern"][path] = config["alpha_pattern"][path] = rank
    names = ("embedding_A", "embedding_B") if kind == "embedding" else ("A.weight", "B.weight")
    for part, factor in zip(names, (a, b), strict=True):
        tensors[f"{PREFIX}{path}.lora_{part}"] = factor.contiguous()
    return fit.add(name, float(values[rank:].norm()), norm)
