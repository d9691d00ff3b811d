"""A merged model as a LoRA adapter of its base: the best approximation of each chosen rank.

Eckart & Young 1936: the first singular vectors of a matrix are its best approximation of a rank.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors.torch import save

from evomerge import errors, modules
from evomerge.files import writer
from evomerge.files.adapter import CONFIG, FIT, PREFIX, WEIGHTS
from evomerge.files.checkpoint import EMBEDDINGS, HEADS, Checkpoint, module
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
    card: Callable[..., str],
    extra_json: Mapping[str, object],
) -> Path:
    """Write a plan's model as an adapter in PEFT's layout, with `fit.json` on what is lost, which
    is also what `card` is made of.

    Matrices get `rank` at most; what has no rank, such as norms and biases, is saved whole.
    Raises RecipeError for a plan that no adapter of its base can hold.
    """
    if not isinstance(rank, int) or rank < 1:
        raise errors.RecipeError(f"adapter: expected a rank from 1, got {rank!r}")
    if plan.vocabulary is not None:
        raise errors.RecipeError(
            "adapter: the merged model has another tokenizer, vocabulary or head than its base, "
            "which an adapter can not hold; export the whole model"
        )
    root = leaves(plan.base)[0]
    draft = Draft(Merged(plan, workshop), workshop.checkpoints[root.sha256], rank)
    draft.config["base_model_name_or_path"] = root.origin.partition("@")[0] or root.path
    draft.add_all()
    fit = draft.fit.to_json()
    files = {
        WEIGHTS: save(draft.tensors, metadata={"format": "pt"}),
        CONFIG: json.dumps(draft.config, indent=2).encode(),
        FIT: json.dumps(fit, indent=1).encode(),
        "README.md": card(adapter=_said(rank, fit)).encode(),
        **{name: json.dumps(value, indent=1).encode() for name, value in extra_json.items()},
    }
    return writer.write_files(folder, files)


def _said(rank: int, fit: Mapping[str, Any]) -> str:
    lost = f"{fit['relative error']:.1%} of what the merge changes ({FIT})"
    return f"This is a LoRA adapter of rank {rank}; it leaves out {lost}."


class Draft:
    """An adapter of a base in the making: tensors, config, and what is lost."""

    def __init__(self, merged: Merged, base: Checkpoint, rank: int) -> None:
        self.merged, self.base, self.rank = merged, base, rank
        self.kinds = modules.kinds(base.folder)
        self.tensors: dict[str, torch.Tensor] = {}
        self.fit = Fit()
        self.config: dict[str, Any] = {
            "peft_type": "LORA", "r": rank, "lora_alpha": rank, "lora_dropout": 0.0,
            "target_modules": [], "modules_to_save": [], "rank_pattern": {}, "alpha_pattern": {},
            "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
        }  # fmt: skip

    def add_all(self) -> None:
        """Put all tensors in that the merge changed; RecipeError if PEFT could not load them."""
        for name in sorted(self.merged.mergeable, key=self._turn):
            self.add(name)
        if not self.config["target_modules"]:
            matrices = any(self.kinds[name][1] in ("matrix", "turned") for name in self.fit.lost)
            what = "all matrices are saved with modules around them" if matrices else ""
            raise errors.RecipeError(
                f"adapter: {what or 'no matrix changes'}, and PEFT loads no adapter without one; "
                "export the whole model"
            )

    def _turn(self, name: str) -> tuple[int, int]:
        """A module that is saved whole comes before all below it, a weight before its bias."""
        live, kind = self.kinds.get(name, (name, ""))
        return (0, live.count(".")) if kind == "other" else (1 + name.endswith(".bias"), 0)

    def add(self, name: str) -> None:
        """Put a tensor in, if the merge changed it."""
        # not as it is stored: factors would be fitted to what rounding does to it
        new, old = self.merged.read(name, torch.float32), self.base.read(name).float()
        check_finite(name, new, self.merged)
        stored = self.merged.stored_dtype(name)
        if torch.equal(new.to(stored), old.to(stored)):
            return
        live, kind = self.kinds.get(name, (name, "fused"))
        path = live.rpartition(".")[0]
        if kind == "fused":
            self._refuse(f"'{name}' is part of a fused tensor, for which PEFT has no place")
        if any(f"{path}.".startswith(f"{whole}.") for whole in self.config["modules_to_save"]):
            self.fit.add(name, 0.0, float((new - old).norm()))
        elif kind == "bias" and path in self.config["target_modules"]:
            self.config["bias"] = "all"
            self.tensors[f"{PREFIX}{path}.base_layer.bias"] = new
            self.fit.add(name, 0.0, float((new - old).norm()))
        elif kind in ("bias", "other") or (kind == "embedding" and self.base.tied):
            self._add_whole(name, path)
            self.fit.add(name, 0.0, float((new - old).norm()))
        else:
            self._add_factors(name, path, kind, new - old)

    def _add_whole(self, changed: str, path: str) -> None:
        """A module with all of its tensors and those of modules below, which is how PEFT reads it:
        it would not find factors there."""
        if not path:
            self._refuse(f"'{changed}' is in no module, and PEFT saves only these")
        self.config["modules_to_save"].append(path)
        for name in self.merged.mergeable:
            live, kind = self.kinds.get(name, (name, "fused"))
            if not live.startswith(f"{path}."):
                continue
            if kind == "fused":
                self._refuse(f"'{changed}' is beside a part of a fused tensor, '{name}'")
            self.tensors[f"{PREFIX}{live}"] = whole = self.merged.read(name, torch.float32)
            # positions have no head
            if kind == "embedding" and module(name) in EMBEDDINGS and self.base.tied:
                heads = sorted((other for other in self.kinds if module(other) in HEADS), key=len)
                if heads and live != f"{path}.weight":
                    self._refuse(f"'{changed}' is beside words that the head is tied to")
                self.tensors |= {f"{PREFIX}{head}": whole.clone() for head in heads[:1]}
                self.config["ensure_weight_tying"] = True

    def _refuse(self, reason: str) -> NoReturn:
        raise errors.RecipeError(f"adapter: {reason}; export the whole model")

    def _add_factors(self, name: str, path: str, kind: str, change: torch.Tensor) -> None:
        turned = kind != "matrix"
        left, values, right = torch.linalg.svd(change.T if turned else change, full_matrices=False)
        rank = min(self.rank, len(values))
        root = values[:rank].sqrt()
        b, a = left[:, :rank] * root, root[:, None] * right[:rank]
        self.config["target_modules"].append(path)
        self.config["fan_in_fan_out"] |= kind == "turned"
        if rank < self.rank:
            for pattern in ("rank_pattern", "alpha_pattern"):
                self.config[pattern][path] = rank
        parts = ("embedding_A", "embedding_B") if kind == "embedding" else ("A.weight", "B.weight")
        for part, factor in zip(parts, (a, b), strict=True):
            self.tensors[f"{PREFIX}{path}.lora_{part}"] = factor.contiguous()
        self.fit.add(name, float(values[rank:].norm()), float(change.norm()))
