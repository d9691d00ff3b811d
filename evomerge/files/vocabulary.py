"""Models whose vocabularies or heads differ, shown with the same rows in the same places.

Rows of embedding and head are mapped by the text of their tokens. What a model lacks, it shows
as the base has it, so that its task vector is zero there; what the base lacks, all show as the
mean of the experts that have it. Heads that are tied are shown as heads of their own where some
other model's is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from evomerge import errors
from evomerge.files import plain
from evomerge.files.checkpoint import EMBEDDINGS, HEADS, Model, TensorInfo, module
from evomerge.files.folder import inside

SHARED = 0.5
"""Least share of an expert's tokens that the target has to know."""

Tokens = dict[str, int]


def tokens(folder: Path, where: str) -> Tokens | None:
    """Text -> number of every token of a folder's tokenizer; None where there is none.

    InputError for two tokens with one number, or a file that is no tokenizer's.
    """
    if (folder / "tokenizer.json").exists():
        found, added = _read(folder, where)
        found |= {text: entry.get("id") for text, entry in added.items()}
    elif (folder / "vocab.json").exists():
        found = plain.read_json(inside(folder, "vocab.json", where), f"{where}/vocab.json")
        if (folder / "added_tokens.json").exists():
            path = inside(folder, "added_tokens.json", where)
            found |= plain.read_json(path, f"{where}/added_tokens.json")
    else:
        return None
    numbers: dict[int, str] = {}
    for text, number in found.items():
        taken = numbers.get(number) if isinstance(number, int) else None
        if type(number) is not int or number < 0 or taken is not None:
            other = "" if taken is None else f", that of {plain.shown(taken)}"
            raise errors.InputError(
                f"{where}: the tokenizer gives {plain.shown(text)} the number {number}{other}"
            )
        numbers[number] = text
    return found


def _read(folder: Path, where: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Numbers of a tokenizer.json's own tokens, and entries of those added, by their text."""
    where = f"{where}/tokenizer.json"
    data = plain.read_json(inside(folder, "tokenizer.json", where), where)
    model, added = data.get("model", {}), data.get("added_tokens") or []
    known = model.get("vocab", {}) if isinstance(model, dict) else None
    if isinstance(known, list):  # of unigrams, with their scores
        pairs = [pair for pair in known if isinstance(pair, list) and pair]
        texts = {str(pair[0]): i for i, pair in enumerate(pairs)}
        known = texts if len(texts) == len(known) else None
    if not isinstance(known, dict):
        raise errors.InputError(f"{where}: model.vocab: expected texts, each of them once")
    entries = added if isinstance(added, list) else [added]
    if not all(isinstance(e, dict) and isinstance(e.get("content"), str) for e in entries):
        raise errors.InputError(f"{where}: added_tokens: expected mappings with 'content'")
    return dict(known), {entry["content"]: entry for entry in entries}


def rows(model: Model) -> int:
    """Rows of a model's embedding; 0 where it has none."""
    words = [info for name, info in model.tensors.items() if module(name) in EMBEDDINGS]
    return words[0].shape[0] if words and words[0].shape else 0


def head(model: Model) -> str | None:
    """The name of a head that is stored beside the embedding."""
    return next((name for name in model.tensors if module(name) in HEADS), None)


class Frame:
    """Models, the base first, in one layout of their rows.

    `tokenizer` is `base`, `expert:NAME` or `union`. Raises InputError for token maps that can not
    be brought together.
    """

    def __init__(self, models: Sequence[Model], names: Sequence[str], tokenizer: str) -> None:
        self.models, self.names, self.tokenizer = models, names, tokenizer
        heads = [head(model) for model in models]
        self.untied = None if all(heads) else next((name for name in heads if name), None)
        self._sizes = [rows(model) for model in models]
        self._known = [
            _with_rows(tokens(model.folder, model.name), size)
            for model, size in zip(models, self._sizes, strict=True)
        ]
        self.same = _all_same(self._known) and len({*self._sizes}) == 1
        self.leader = self._leader()
        self.target = {} if self.same else self._target()
        self.rows = self._sizes[0] if self.same else self._length()
        self.maps = [] if self.same else [self._map(i) for i in range(len(models))]

    @property
    def plain(self) -> bool:
        """Whether rows, head and tokenizer are the base's."""
        return self.same and self.untied is None and self.leader == 0

    @property
    def sha256(self) -> str:
        """Of where every row comes from."""
        found = hashlib.sha256(f"{self.tokenizer} {self.rows} {self.untied}".encode())
        for rows_of_one in self.maps:
            found.update(rows_of_one.numpy().astype("<i8").tobytes())
        return found.hexdigest()

    @cached_property
    def sources(self) -> list[Rearranged]:
        """Each model as it is shown, in the order of `models`."""
        return [Rearranged(self, i) for i in range(len(self.models))]

    def _leader(self) -> int:
        """The model whose tokens come first: the base, or the expert that is named."""
        kind, _, name = self.tokenizer.partition(":")
        return self.names.index(name) if kind == "expert" else 0

    def _tokens(self, i: int) -> Tokens:
        found = self._known[i]
        if found is None:
            raise errors.InputError(
                f"{self.models[i].name}: {self.models[i].folder}: the vocabulary differs from the "
                "others', and without a tokenizer.json its rows can not be told apart; save the "
                "tokenizer of AutoTokenizer.from_pretrained there"
            )
        return found

    def _target(self) -> Tokens:
        target = dict(self._tokens(self.leader))
        for i in range(len(self.models)):
            mine = self._tokens(i)
            shared = len(mine.keys() & target.keys())
            if shared < SHARED * min(len(mine), len(target)):
                raise errors.InputError(
                    f"{self.models[i].name}: of its {len(mine)} tokens, {shared} are among the "
                    f"{len(target)} of '{self.names[self.leader]}': another kind of tokenizer"
                )
        if self.tokenizer == "union":
            for i in range(1, len(self.models)):
                mine, added = self._tokens(i), _read(self.models[i].folder, self.models[i].name)[1]
                for text in sorted(mine.keys() - target.keys(), key=mine.__getitem__):
                    if text not in added:
                        raise errors.InputError(
                            f"{self.models[i].name}: token {plain.shown(text)} is part of its "
                            "tokenizer's model, and a union can only add added tokens; choose "
                            f"tokenizer: expert:{self.names[i]}"
                        )
                    target[text] = max(target.values()) + 1
        return target

    def _length(self) -> int:
        return max(self._sizes[self.leader], 1 + max(self.target.values()))

    def _map(self, i: int) -> torch.Tensor:
        """(rows,) the row of model i for each row of the target, -1 where it has none."""
        found = torch.full((self.rows,), -1, dtype=torch.int64)
        mine = self._tokens(i)
        for text, row in self.target.items():
            found[row] = mine.get(text, -1)
        # rows without a token, which pad the embedding, keep their places
        taken, named = set(mine.values()), set(self.target.values())
        for row in range(min(self.rows, self._sizes[i])):
            if row not in named and row not in taken:
                found[row] = row
        return found

    def tokenizer_files(self) -> dict[str, bytes]:
        """Files of a union's tokenizer that are not the base's, by name."""
        new = {} if self.same else self.target.keys() - self._tokens(self.leader).keys()
        if not new:
            return {}
        folder = self.models[0].folder
        data = plain.read_json(inside(folder, "tokenizer.json", str(folder)))
        entries: dict[str, dict[str, Any]] = {}
        for model in self.models:
            entries |= {t: e for t, e in _read(model.folder, model.name)[1].items() if t in new}
        more = sorted(entries.values(), key=lambda entry: self.target[entry["content"]])
        more = [{**e, "id": self.target[e["content"]]} for e in more]
        data["added_tokens"] = [*(data.get("added_tokens") or []), *more]
        return {"tokenizer.json": json.dumps(data, ensure_ascii=False).encode()}


def present(experts: Sequence[object], info: TensorInfo) -> dict[int, torch.Tensor]:
    """First element of a run of rows -> (K,) bool, which experts have them; {} if all have all."""
    lacks = [e.lacks(info.name) if isinstance(e, Rearranged) else None for e in experts]
    if all(missing is None for missing in lacks):
        return {}
    rows = info.shape[0]
    there = torch.stack([torch.ones(rows) if m is None else ~m for m in lacks]).bool()
    changes = (there[:, 1:] != there[:, :-1]).any(0).nonzero().view(-1) + 1
    columns = info.numel // rows
    return {row * columns: there[:, row] for row in [0, *changes.tolist()]}


def _with_rows(known: Tokens | None, size: int) -> Tokens | None:
    """Without tokens that the embedding has no row for: a model can not have learned them."""
    return known and {text: row for text, row in known.items() if row < size}


def _all_same(known: Sequence[Tokens | None]) -> bool:
    told = [found for found in known if found is not None]
    return all(found == told[0] for found in told)


class Rearranged:
    """One model of a frame: the same tensors and rows as all others; read lazily, by rows."""

    def __init__(self, frame: Frame, number: int) -> None:
        self.frame, self.model = frame, frame.models[number]
        self.name, self.config = self.model.name, self.model.config
        self.folder, self.tied = self.model.folder, frame.untied is None and self.model.tied
        self._number = number
        self._alias: dict[str, str] = {}
        self.tensors: dict[str, TensorInfo] = dict(self.model.tensors)
        if frame.untied is not None and head(self.model) is None:
            embedding = next(name for name in self.tensors if module(name) in EMBEDDINGS)
            self._alias[frame.untied] = embedding
            info = self.tensors[embedding]
            self.tensors[frame.untied] = replace(info, name=frame.untied)
        self._mapped = frozenset(self._by_rows())
        for name in self._mapped:
            info = self.tensors[name]
            shape = (frame.rows, *info.shape[1:])
            self.tensors[name] = replace(info, shape=shape, dtype=torch.float32)

    def _by_rows(self) -> list[str]:
        """Tensors with a row a token; of another width than the base's, they will be refused."""
        if self.frame.same:
            return []
        size = rows(self.model)
        words, base = (*EMBEDDINGS, *HEADS), self.frame.models[0].tensors
        return [
            name
            for name, info in self.tensors.items()
            if info.shape[:1] == (size,)
            and info.shape[1:] == base.get(name, info).shape[1:]
            and (module(name) in words or module(f"{name.rpartition('.')[0]}.weight") in HEADS)
        ]

    def lacks(self, name: str) -> torch.Tensor | None:
        """(rows,) where this model has no row of its own and the base has; None: nowhere."""
        if name not in self._mapped:
            return None
        maps = self.frame.maps
        found = (maps[self._number] < 0) & (maps[0] >= 0)
        return found if bool(found.any()) else None

    def read_flat(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Elements [start, stop) of the flattened tensor."""
        there = self._alias.get(name, name)
        if name not in self._mapped:
            return self.model.read_flat(there, start, stop)
        columns = max(1, self.tensors[name].numel // max(1, self.frame.rows))
        first, last = start // columns, -(-stop // columns)
        found = torch.empty((last - first, columns))
        row = first
        while row < last:
            end = self._run(row, last)
            found[row - first : end - first] = self._rows(name, row, end, columns)
            row = end
        return found.view(-1)[start - first * columns : stop - first * columns]

    def _run(self, row: int, last: int) -> int:
        """Where the rows end that lie one after the other in all models."""
        maps = torch.stack([m[row:last] for m in self.frame.maps])
        ahead = torch.arange(last - row)
        steady = (maps == maps[:, :1] + ahead) | ((maps < 0) & (maps[:, :1] < 0))
        broken = (~steady.all(0)).nonzero()
        return row + int(broken[0]) if len(broken) else last

    def _rows(self, name: str, row: int, end: int, columns: int) -> torch.Tensor:
        owners = [i for i, m in enumerate(self.frame.maps) if m[row] >= 0]
        if not owners:
            return torch.zeros((end - row, columns))
        if 0 in owners:
            owners = [self._number if self._number in owners else 0]
        found = torch.zeros((end - row, columns))
        for i in owners:
            source = self.frame.sources[i]
            there = source._alias.get(name, name)
            begin = int(self.frame.maps[i][row]) * columns
            part = source.model.read_flat(there, begin, begin + (end - row) * columns)
            found += part.to(torch.float32).view(end - row, columns)
        return found / len(owners)
