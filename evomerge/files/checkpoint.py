"""A model folder in the Hugging Face layout, opened lazily: headers first, tensors as views."""

from __future__ import annotations

import hashlib
import mmap
import os
import platform
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch
from typing_extensions import Self

from evomerge import errors
from evomerge.files import plain
from evomerge.files.folder import Headers, inside, natural, weights
from evomerge.files.header import TensorInfo as TensorInfo

CHUNK = 1 << 24
MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
HEADS = ("lm_head", "embed_out", "output_projection", "proj_out")
EMBEDDINGS = (
    *("embed_tokens", "wte", "word_embeddings", "embeddings", "embed_in", "shared"),
    *("tok_embeddings", "tokens_embed"),
)
"""Modules that transformers 5 ties to each other (`_tied_weights_keys` of its causal models)."""

_MASK = re.compile(r"(^|\.)(attn|attention|crossattention)\.(masked_bias|bias|causal_mask)$")
_COUNTED = re.compile(r"(^|\.)position_ids$")
_TURNS = re.compile(r"(^|\.)rotary_emb\.inv_freq$")


class Model(Protocol):
    """A checkpoint, or what is shown as one; `folder` is where its tokenizer lies."""

    @property
    def name(self) -> str: ...

    @property
    def folder(self) -> Path: ...

    @property
    def config(self) -> Mapping[str, Any]: ...

    @property
    def tied(self) -> bool: ...

    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...

    def read_flat(self, name: str, start: int, stop: int) -> torch.Tensor: ...


class Checkpoint:
    """The tensors of one model, memory-mapped; use `open`.

    `tensors` is in canonical order (layer 2 before layer 10), without a head that only repeats
    the embedding and without what transformers passes over (`leftover`). `tied` says that the head
    is the embedding; `files` names those with weights.
    """

    CONFIG = "config.json"

    def __init__(
        self, folder: Path, name: str, config: dict[str, Any], shards: dict[str, Headers]
    ) -> None:
        self.folder, self.name, self.config = folder, name, config
        self.files = tuple(shards)
        self._maps: dict[Path, mmap.mmap] = {}
        self._flats: dict[str, torch.Tensor] = {}
        self._views: dict[str, torch.Tensor] = {}
        found: dict[str, TensorInfo] = {}
        for infos in shards.values():
            found |= infos
        names = [name for name, info in found.items() if not leftover(info)]
        self.tensors = {name: found[name] for name in sorted(names, key=natural)}
        for info in found.values():
            if info.file not in self._maps:
                self._maps[info.file] = _map(info.file, self._where)
            if len(self._maps[info.file]) < info.stop:
                raise errors.InputError(f"{self._where}: {info.file.name} is being written to")
        self.tied = self._settle_ties()

    @classmethod
    def open(cls, folder: Path | str, name: str = "") -> Self:
        """Check config, index and every header of a folder; no tensor is read.

        `name` is what messages call the model; by default the folder's own name.
        """
        folder = Path(os.path.expanduser(folder))
        where = f"{name}: {folder}" if name else str(folder)
        try:
            if not folder.is_dir():
                what = "is a file, expected a folder" if folder.exists() else "no such folder"
                raise errors.InputError(f"{where}: {what}")
            return cls._open(folder, name, where)
        except OSError as error:
            raise errors.InputError(f"{where}: can not be read: {error.strerror}") from None

    @classmethod
    def _open(cls, folder: Path, name: str, where: str) -> Self:
        if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
            raise errors.InputError(
                f"{where}: holds a LoRA adapter without its base, expected a whole model; an "
                "adapter is an expert of the base it was trained on"
            )
        config = plain.read_json(inside(folder, "config.json", where), f"{where}/config.json")
        return cls(folder, name or folder.resolve().name, config, weights(folder, where))

    @property
    def _where(self) -> str:
        return str(self.folder) if self.folder.name == self.name else f"{self.name}: {self.folder}"

    @cached_property
    def sha256(self) -> str:
        """Over the sorted names and sha256 of the config and of the weight files."""
        whole = hashlib.sha256()
        for name in sorted([*self.files, self.CONFIG]):
            path = inside(self.folder, name, self._where)
            whole.update(f"{name}\0{digest(path, self._where)}\n".encode())
        return whole.hexdigest()

    def read(self, name: str) -> torch.Tensor:
        """The tensor as stored, a view of the file: never write into it."""
        view = self._views.get(name)
        if view is None:
            info = self._info(name)
            view = self.read_flat(name, 0, info.numel).view(info.shape)
            if name in self._flats:
                self._views[name] = view
        return view

    def read_flat(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Elements [start, stop) of the flattened tensor; the rest of it is not touched."""
        flat = self._flats.get(name)
        if flat is None:
            info = self._info(name)
            if info.start % info.dtype.itemsize:
                return self._copy(info, start, stop)
            flat = self._flats[name] = self._view(info)
        if not 0 <= start <= stop <= flat.numel():
            raise ValueError(f"'{name}' has {flat.numel()} elements, asked for [{start}, {stop})")
        return flat[start:stop]

    def _info(self, name: str) -> TensorInfo:
        try:
            return self.tensors[name]
        except KeyError:
            text = errors.unknown(self._where, "tensor", name, self.tensors)
            raise errors.InputError(text) from None

    def _view(self, info: TensorInfo) -> torch.Tensor:
        if not info.numel:  # frombuffer refuses them
            return torch.empty(0, dtype=info.dtype)
        return torch.frombuffer(
            self._maps[info.file], dtype=info.dtype, count=info.numel, offset=info.start
        )

    def _copy(self, info: TensorInfo, start: int, stop: int) -> torch.Tensor:
        if not 0 <= start <= stop <= info.numel:
            raise ValueError(f"'{info.name}' has {info.numel} elements, not [{start}, {stop})")
        size = info.dtype.itemsize
        data = bytearray(
            self._maps[info.file][info.start + start * size : info.start + stop * size]
        )
        if not data:
            return torch.empty(0, dtype=info.dtype)
        return torch.frombuffer(data, dtype=info.dtype)

    def close(self) -> None:
        """Forget the files; tensors that were read stay valid."""
        # not mmap.close(): torch keeps no export on the buffer, live views would point nowhere
        self._views.clear()
        self._flats.clear()
        self._maps.clear()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _settle_ties(self) -> bool:
        """Drop a head that repeats the embedding, if the config ties them; say whether tied.

        A config may leave the key out: then a missing head tells, and of one that repeats the
        embedding whether its class ties by default. Any other head stays.
        """
        text = self.config.get("text_config")
        nested = text.get("tie_word_embeddings") if isinstance(text, dict) else None
        told = self.config.get("tie_word_embeddings", nested)
        heads = [name for name in self.tensors if module(name) in HEADS]
        embeddings = [name for name in self.tensors if module(name) in EMBEDDINGS]
        may = told
        if told is None:
            may = not heads or _ties_by_default(self.config.get("model_type"))
        compared = heads if may and embeddings else []  # which reads them whole
        apart = [h for h in compared if not any(self._same(h, e) for e in embeddings)]
        if told and apart:
            raise errors.InputError(
                f"{self._where}: config.json says tie_word_embeddings, but '{apart[0]}' and "
                f"'{embeddings[0]}' differ; set it to false if both are wanted"
            )
        if told is None:
            told = bool(may and embeddings and not apart)
        for head in compared if told else []:
            del self.tensors[head]
        # BERT's family calls its head so; other modules of that name repeat nothing
        for name in [name for name in self.tensors if told and module(name) == "decoder"]:
            if any(self._same(name, embedding) for embedding in embeddings):
                del self.tensors[name]
        return bool(told)

    def _same(self, one: str, other: str) -> bool:
        a, b = self.tensors[one], self.tensors[other]
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            return False
        first, second = self._maps[a.file], self._maps[b.file]
        return all(
            first[a.start + i : min(a.start + i + CHUNK, a.stop)]
            == second[b.start + i : min(b.start + i + CHUNK, b.stop)]
            for i in range(0, a.bytes, CHUNK)
        )


def leftover(info: TensorInfo) -> bool:
    """Whether a tensor is a buffer that files held once, and that transformers 5 makes by itself.

    A model that was saved again has it no longer. GPT-2's masks are called like a bias, which in
    other families is trained: but no trained one is a square for one head of one text.
    """
    if _MASK.search(info.name):
        n = info.shape[-1] if info.shape else 0
        return info.shape == (1, 1, n, n) or info.name.endswith("masked_bias")
    if _COUNTED.search(info.name):
        return not info.dtype.is_floating_point
    return _TURNS.search(info.name) is not None


def _ties_by_default(model_type: object) -> bool:
    from transformers import CONFIG_MAPPING

    known: Mapping[str, Any] = CONFIG_MAPPING
    if not isinstance(model_type, str) or model_type not in known:
        return False
    return bool(getattr(known[model_type], "tie_word_embeddings", False))


def module(name: str) -> str:
    """`lm_head` of `model.lm_head.weight`; nothing for a bias."""
    path, _, leaf = name.rpartition(".")
    return path.rpartition(".")[2] if leaf == "weight" else ""


def _map(path: Path, where: str) -> mmap.mmap:
    # torch warns of read-only buffers, so the pages are private and writable; without NORESERVE
    # (unnamed before Python 3.13) Linux refuses to map such a file if it is larger than the memory
    try:
        with path.open("rb") as file:
            if platform.system() == "Linux":
                protection = mmap.PROT_READ | mmap.PROT_WRITE
                flags = mmap.MAP_PRIVATE | MAP_NORESERVE
                return mmap.mmap(file.fileno(), 0, flags=flags, prot=protection)
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise errors.InputError(f"{where}: {path.name} can not be mapped: {error}") from None


def digest(path: Path, where: str) -> str:
    """sha256 of a file; InputError if it can not be read."""
    whole = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                whole.update(chunk)
    except OSError as error:
        raise errors.InputError(f"{where}: {path.name} can not be read: {error}") from None
    return whole.hexdigest()
