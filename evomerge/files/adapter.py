"""A LoRA adapter in PEFT's layout, and the model that it makes of its base, added as it is read.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", W + alpha / r B A; with
`use_rslora` alpha / sqrt(r) (Kalajdzievski 2023). Nothing is computed before it is read.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from evomerge import errors
from evomerge.files import header, peft, plain
from evomerge.files.checkpoint import EMBEDDINGS, HEADS, Checkpoint, TensorInfo, module
from evomerge.files.folder import inside

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FIT = "fit.json"
"""Beside an adapter that was made of a merged model: what it leaves out."""

BLOCK = 2**14
"""Entries of an update computed at a time, from fixed rows on: any extent has the same bits."""
PREFIX = "base_model.model."
_FACTOR = re.compile(r"(.+)\.lora_(embedding_)?([AB])(?:\.(weight|bias))?$")


class Adapter(Checkpoint):
    """The files of an adapter; use `open`. `Adapted` is the model that it makes of a base."""

    CONFIG = CONFIG

    @classmethod
    def is_in(cls, folder: Path) -> bool:
        return os.path.exists(folder / CONFIG) and not os.path.exists(folder / "config.json")

    @classmethod
    def _open(cls, folder: Path, name: str, where: str) -> Adapter:
        config = plain.read_json(inside(folder, CONFIG, where), f"{where}/{CONFIG}")
        peft.check(config, where)
        path = inside(folder, WEIGHTS, where)
        if not path.is_file():
            raise errors.InputError(f"{where}: has no {WEIGHTS}; adapters are safetensors")
        headers = header.read(path, f"{where}/{WEIGHTS}")
        if not headers:
            raise errors.InputError(f"{where}/{WEIGHTS}: has no tensors: it adds nothing")
        return cls(folder, name or folder.resolve().name, config, {WEIGHTS: headers})

    def _settle_ties(self) -> bool:
        return False


@dataclass(frozen=True)
class Update:
    """scale * left @ right, (rows, r) and (r, columns), of a tensor whose first axis is rows."""

    left: torch.Tensor
    right: torch.Tensor
    scale: float

    def flat(self, start: int, stop: int) -> torch.Tensor:
        """Elements [start, stop) in float32."""
        columns = self.right.shape[1]
        step = max(1, BLOCK // columns)
        first = start // columns // step * step
        last = -(-stop // columns)
        right = self.right.float()
        parts = [self.left[row : row + step].float() @ right for row in range(first, last, step)]
        whole = torch.cat(parts).view(-1) if parts else torch.empty(0)
        return whole[start - first * columns : stop - first * columns] * self.scale


class Adapted:
    """A base with an adapter added: what `files.checkpoint.Checkpoint` offers, without a file.

    Tensors that LoRA changes are float32; those that were trained whole are the adapter's.
    `folder` is where its tokenizer lies.
    `names` tells what a module's tensor is called in files where that differs (asked if needed).
    """

    def __init__(
        self,
        base: Checkpoint,
        adapter: Adapter,
        names: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self.base, self.adapter = base, adapter
        self.name, self.config = adapter.name, base.config
        has_tokenizer = (adapter.folder / "tokenizer.json").exists()
        self.folder = adapter.folder if has_tokenizer else base.folder
        self._where = f"{adapter.name}: {adapter.folder}"
        self._names = names
        self._from: dict[str, str] = {}
        self._updates: dict[str, Update] = {}
        self.tensors: dict[str, TensorInfo] = dict(base.tensors)
        self._head_of = _tied_head(base)
        factors = self._sort()
        for target, parts in factors.items():
            self._add(target, parts)
        self._keep_head()
        self.tied = base.tied and not any(module(name) in HEADS for name in self.tensors)

    @property
    def sha256(self) -> str:
        return self.adapter.sha256

    def read_flat(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Elements [start, stop) of the flattened tensor."""
        if name in self._from:
            found = self.adapter.read_flat(self._from[name], start, stop)
        else:
            there = name if name in self.base.tensors else self._head_of[name]
            found = self.base.read_flat(there, start, stop)
        if name not in self._updates:
            return found
        return self._updates[name].flat(start, stop).add_(found)

    def read(self, name: str) -> torch.Tensor:
        info = self.tensors[name]
        return self.read_flat(name, 0, info.numel).view(info.shape)

    @property
    def remark(self) -> str | None:
        """What a person should know of it, though nothing is wrong."""
        changes = (u.left.any() and u.right.any() for u in self._updates.values())
        if not self._from and not any(changes):
            return "is an adapter that adds nothing: it is the base"
        if lacking := peft.targets(self.adapter.config, self.base.tensors) - {*self._updates}:
            return (
                f"is an adapter that lacks {len(lacking)} of the tensors that its {CONFIG} names, "
                f"as '{min(lacking)}': they stay those of the base"
            )
        return None

    def updates(self) -> Mapping[str, Update]:
        """What LoRA adds, by the names of the base's tensors."""
        return self._updates

    def _sort(self) -> dict[str, dict[str, str]]:
        """Put whole tensors in place; the rest is target -> part -> name in the adapter."""
        factors: dict[str, dict[str, str]] = {}
        for key in self.adapter.tensors:
            if not key.startswith(PREFIX):
                raise errors.InputError(
                    f"{self._where}: '{key}' does not begin with '{PREFIX}': not PEFT's layout"
                )
            path = key.removeprefix(PREFIX).replace(".base_layer.", ".")
            if found := _FACTOR.match(path):
                leaf = "bias" if found[4] == "bias" else "weight"
                part = f"{found[2] or ''}{found[3]}"
                factors.setdefault(f"{found[1]}.{leaf}", {})[part] = key
            elif ".lora_" in path:
                raise errors.InputError(f"{self._where}: '{key}' is neither factor of LoRA")
            else:
                self._replace(self._target(path), key)
        self._drop_repeated_head()
        return factors

    def _replace(self, name: str, key: str) -> None:
        info = replace(self.adapter.tensors[key], name=name)
        known = self.base.tensors[self._head_of.get(name, name)]
        is_words = module(name) in (*HEADS, *EMBEDDINGS) and info.shape[1:] == known.shape[1:]
        if info.shape != known.shape and not is_words:
            self._refuse(name, f"the adapter's is {info.shape}, the base's {known.shape}")
        self.tensors[name] = info
        self._from[name] = key

    def _drop_repeated_head(self) -> None:
        """PEFT saves a head that is tied as well as the embedding."""
        for head, embedding in self._head_of.items():
            pair = [self._from[name] for name in (head, embedding) if name in self._from]
            if len(pair) == 2 and torch.equal(*map(self.adapter.read, pair)):
                del self.tensors[head], self._from[head]

    def _keep_head(self) -> None:
        """Give the model a head of its own where the embedding alone was trained.

        PEFT trains a copy of a module, or adds to what it gives: a head that is tied to it goes on
        with the rows from before, unless `ensure_weight_tying` says otherwise.
        """
        embedding = next(iter(self._head_of.values()), "")
        key = self._from.get(embedding, "")
        before = ".base_layer." in key
        is_trained = embedding in self._updates or (key and not before)
        has_head = any({*HEADS} & {*key.split(".")} for key in self.adapter.tensors)
        if not is_trained or has_head or self.adapter.config.get("ensure_weight_tying"):
            return
        head = next((name for name in self._names().values() if module(name) in HEADS), "")
        info = self.adapter.tensors[key] if before else self.base.tensors[embedding]
        if head and info.shape == self.tensors[embedding].shape:
            self._head_of[head] = embedding
            self.tensors[head] = replace(info, name=head)
            self._from |= {head: key} if before else {}

    def _add(self, target: str, parts: Mapping[str, str]) -> None:
        name, bias = self._target(target), target.endswith(".bias")
        embedding = not bias and "embedding_A" in parts
        # only the factor that comes last has a bias
        wanted = ("embedding_A", "embedding_B") if embedding else ("B",) if bias else ("A", "B")
        if set(parts) != set(wanted):
            got = " and ".join(sorted(parts))
            self._refuse(name, f"the adapter has {got}, expected {' and '.join(wanted)}")
        path, config = target.rpartition(".")[0], self.adapter.config
        rank = peft.rank(config, path, self._where)
        if bias:
            pair = (self.adapter.read(parts["B"])[:, None], torch.ones(1, 1))
        else:
            a, b = (self.adapter.read(parts[part]) for part in wanted)
            if a.shape[0] != rank or b.shape[1] != rank:
                self._refuse(
                    name,
                    f"rank mismatch: A is {tuple(a.shape)}, B is {tuple(b.shape)}, "
                    f"{CONFIG} says r = {rank}",
                )
            pair = self._factors(name, a, b, embedding)
        scale = peft.scale(config, path, rank, self._where)
        info = self.tensors.get(name) or self.base.tensors[self._head_of[name]]
        self.tensors[name] = replace(info, name=name, dtype=torch.float32)
        self._updates[name] = Update(*pair, scale)

    def _factors(
        self, name: str, a: torch.Tensor, b: torch.Tensor, embedding: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(rows, r) and (r, columns) in the layout in which the base stores the tensor."""
        info = self.tensors.get(name) or self.base.tensors[self._head_of[name]]
        a, b = a.reshape(a.shape[0], -1), b.reshape(b.shape[0], -1)
        stored = (info.shape[0], math.prod(info.shape[1:]))
        plain_shape = (b.shape[0], a.shape[1])
        turned = embedding or bool(self.adapter.config.get("fan_in_fan_out"))
        if plain_shape != plain_shape[::-1]:  # otherwise only the config can tell
            turned = stored == plain_shape[::-1]
        if stored != (plain_shape[::-1] if turned else plain_shape):
            self._refuse(name, f"the adapter's is {plain_shape}, the base's {info.shape}")
        return (a.T.contiguous(), b.T.contiguous()) if turned else (b, a)

    def _target(self, path: str) -> str:
        """The base's tensor that a path of the adapter means; prefixes may differ."""
        if path in self.base.tensors or path in self._head_of:
            return path
        told = self._names().get(path, path)
        if told in self.base.tensors:
            return told
        ends = [
            name
            for name in self.base.tensors
            if path.endswith(f".{name}") or name.endswith(f".{path}")
        ]
        if len(ends) != 1:
            text = errors.unknown(self._where, "tensor of the base", path, self.base.tensors)
            cut = text if len(text) < 400 else f"{text[:400]}..."
            raise errors.InputError(f"{cut}\nThe adapter belongs to another base")
        return ends[0]

    def _refuse(self, name: str, reason: str) -> None:
        raise errors.InputError(f"{self._where}: '{name}': {reason}")


def _tied_head(base: Checkpoint) -> dict[str, str]:
    """Names that a tied head could have -> the embedding that it is."""
    embedding = next((name for name in base.tensors if module(name) in EMBEDDINGS), None)
    if not base.tied or embedding is None:
        return {}
    return {f"{head}.weight": embedding for head in HEADS}


def check_base(adapter: Adapter, base: Checkpoint) -> None:
    """Raise InputError where the adapter's own record names another model on this machine.

    The record is a path on the machine of its training: often it leads nowhere, and says nothing.
    """
    told = adapter.config.get("base_model_name_or_path")
    folder = Path(os.path.expanduser(told)) if isinstance(told, str) and told else None
    if folder is None or not os.path.isfile(folder / "config.json"):
        return
    if folder.resolve() == base.folder.resolve():
        return
    other = Checkpoint.open(folder, f"{adapter.name} (its base)")
    if other.sha256 != base.sha256:
        raise errors.InputError(
            f"{adapter.name}: {adapter.folder}: the adapter says that its base is {told} (sha256 "
            f"{other.sha256[:12]}), the base is {base.folder} ({base.sha256[:12]}); if it is the "
            "same model, correct base_model_name_or_path"
        )
