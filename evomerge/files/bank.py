"""Item banks: fitness/NAME.yaml, or a bare file of questions."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from evomerge import errors
from evomerge.files import dataset, items, plain, sources
from evomerge.files.items import SPLITS as SPLITS
from evomerge.files.items import Item as Item
from evomerge.files.sheet import Benchmark, Dataset, Sheet
from evomerge.files.writer import atomic_text


@dataclass(frozen=True)
class Bank:
    """Questions with the scorer that marks them; `sha256` covers all that can change a score.

    `origin`: of a data set, its name, commit and the sha256 of its rows.
    """

    name: str
    version: int
    scorer: str
    options: Mapping[str, Any]
    items: tuple[Item, ...]
    licence: str
    sha256: str
    path: Path
    description: str = ""
    benchmark: Benchmark | None = None
    origin: str = ""
    _splits: dict[str, tuple[Item, ...]] = field(default_factory=dict, repr=False, compare=False)

    def identity(self) -> list[Any]:
        """What a run remembers of it."""
        return [self.name, self.version, self.sha256]

    def split(self, name: str) -> tuple[Item, ...]:
        """The items of one split in a fixed permutation; InputError if it has none."""
        if name not in SPLITS:
            raise errors.RecipeError(errors.unknown(self.name, "split", name, SPLITS))
        if name not in self._splits:
            chosen = [item for item in self.items if item.split == name]
            self._splits[name] = tuple(sorted(chosen, key=partial(_place, self.name)))
        if not self._splits[name]:
            raise errors.InputError(
                f"{self.path}: no item is in the split '{name}'; "
                "add items, or set 'split' on some of them"
            )
        return self._splits[name]


def _place(bank: str, item: Item) -> str:
    """Where an item stands in the fixed permutation of its bank."""
    return sha256(f"{bank}\0{item.id}".encode()).hexdigest()


@dataclass(frozen=True)
class Origin:
    """Items that a scorer brings with it, its options with every path found, what else can
    change a score, and the benchmark that they are from."""

    items: Sequence[Item]
    options: Mapping[str, Any]
    identity: str
    benchmark: Benchmark | None = None


def _no_zoo(reference: str) -> Path:
    raise errors.RecipeError(f"{reference}: the zoo is not available here")


def _no_origin(keys: Sheet, path: Path) -> Origin:
    raise errors.InputError(f"{path}: expected either 'source' or 'items'")


def load(
    reference: str | Path,
    *,
    resolve: Callable[[str], Path] = _no_zoo,
    origin: Callable[[Sheet, Path], Origin] = _no_origin,
) -> Bank:
    """The bank behind a path (.yaml, or a file of items), a `zoo:` reference, or a shipped name.

    `resolve` turns a `zoo:` reference into a path, `origin` gets a scorer's own items where the
    YAML has none. RecipeError for a wrong name or key, InputError for an unusable bank.
    """
    if isinstance(reference, str) and reference.startswith("zoo:"):
        reference = resolve(reference)
    path = find(reference)
    return _bare(path) if path.suffix in sources.SUFFIXES else _from_yaml(path, resolve, origin)


def write(path: Path, keys: Mapping[str, Any]) -> None:
    """Write the YAML of a bank, whole or not at all."""
    atomic_text(path, as_yaml(keys))


def as_yaml(keys: Mapping[str, Any]) -> str:
    """Keys in their order, a line each, whatever characters their values have."""
    return yaml.safe_dump(
        dict(keys), sort_keys=False, allow_unicode=True, default_flow_style=None, width=math.inf
    )


def find(reference: str | Path) -> Path:
    """The file of a bank that is a path or the name of a shipped one; RecipeError for neither."""
    path = Path(os.path.expanduser(reference))
    known = (*sources.SUFFIXES, *plain.YAML)
    return path if path.suffix in known else _shipped_bank(str(reference))


def sheet(path: Path) -> Sheet:
    """The keys of a bank's YAML file, checked; its items are not looked at."""
    keys = plain.check(Sheet, plain.read_yaml(path), str(path))
    if keys.benchmark is None and isinstance(keys.source, Dataset):
        keys.benchmark = keys.source.benchmark(path.parent)
    return keys


def _shipped_bank(name: str) -> Path:
    known = {path.stem: path for path in shipped("fitness").glob("*.yaml")}
    if name in known:
        return known[name]
    if "/" in name or "\\" in name or Path(name).exists():
        raise errors.RecipeError(
            f"{name}: expected a .yaml, {sources.NAMED} file, or a bank's name"
        )
    raise errors.RecipeError(errors.unknown("fitness", "bank", name, known))


def shipped(kind: str) -> Path:
    """The folder `fitness` or `recipes` that comes with evomerge."""
    return Path(__file__).resolve().parents[1] / "_data" / kind


def _bare(path: Path) -> Bank:
    found = items.read_file(path)
    first = found[0]
    asked = "exact_match" if first.accepted else "perplexity"
    scorer = "label" if first.pixels else "choice" if first.choices else asked
    keys = Sheet(name=path.stem, version=1, scorer={"name": scorer}, source=path.name)
    return _bank(keys, found, path)


def _from_yaml(
    path: Path, resolve: Callable[[str], Path], origin: Callable[[Sheet, Path], Origin]
) -> Bank:
    keys = sheet(path)
    if keys.items is None and keys.source is None:
        own = origin(keys, path)
        made = _bank(keys, own.items, path, own.identity)
        return replace(made, options=own.options, benchmark=keys.benchmark or own.benchmark)
    shares = keys.split.model_dump() if keys.split else None
    if keys.items is not None:
        return _bank(keys, items.read_list(keys.items, str(path), shares), path)
    if isinstance(keys.source, Dataset):
        with errors.at(str(path)):
            rows, origin_of = dataset.rows(keys.source, path.parent)
            found = items.read_rows(rows, keys.source.datasets, shares)
        return replace(_bank(keys, found, path), origin=origin_of)
    source = keys.source or ""
    place = resolve(source) if source.startswith("zoo:") else path.parent / source
    if place.suffix not in sources.SUFFIXES:
        expected = f"expected a {sources.NAMED} file"
        raise errors.RecipeError(f"{path}: source: {expected}, got '{source}'")
    return _bank(keys, items.read_file(place, shares), path)


def _bank(keys: Sheet, found: Sequence[Item], path: Path, identity: str = "") -> Bank:
    asked = _with_shots(keys, [items.reworded(item, keys.prompt) for item in found], path)
    content = [keys.name, keys.version, keys.scorer, sorted(map(_content, asked))]
    content += [identity] if identity else []
    try:
        text = json.dumps(content, sort_keys=True)
    except (TypeError, ValueError) as error:  # YAML has dates, JSON does not
        raise errors.InputError(f"{path}: scorer: {error}") from None
    return Bank(
        name=keys.name,
        version=keys.version,
        scorer=keys.scorer["name"],
        options=keys.options,
        items=asked,
        licence=keys.licence,
        sha256=sha256(text.encode()).hexdigest(),
        path=path,
        description=keys.description,
        benchmark=keys.benchmark,
    )


def _content(item: Item) -> tuple[Any, ...]:
    more = (item.also, item.shots) if item.also or item.shots else ()
    return (item.id, item.prompt, item.choices, item.answer, item.split, *more)


def where(path: Path, item: Item) -> str:
    """How a message begins that is about an item of the bank at `path`."""
    return item.named if item.named.startswith(f"{path}:") else f"{path}: {item.named}"


def _with_shots(keys: Sheet, found: Sequence[Item], path: Path) -> tuple[Item, ...]:
    """The items that are asked, each with the bank's solved examples.

    They are those that the file gives, or the last of `search`, which are then asked no more:
    an item of `validation` or `test` is never shown.
    """
    if keys.examples is not None:
        given = items.read_list(keys.examples, str(path), key="examples")
        shown = [items.reworded(item, keys.prompt) for item in given]
        number = len(shown) if keys.shots is None else keys.shots
        most, have = len(shown), f"{len(shown)} examples"
    else:
        ordered = sorted(found, key=partial(_place, keys.name), reverse=True)
        shown = [item for item in ordered if item.split == "search"]
        number, most = keys.shots or 0, max(0, len(shown) - 1)
        have = f"{len(shown)} items of 'search', one of which has to be left"
    if number > most:
        raise errors.InputError(f"{path}: shots: {number} can not be taken from {have}")
    shown = shown[:number]
    if any(not item.accepted for item in shown):
        raise errors.InputError(f"{path}: shots: the examples have no answers to be shown")
    names = {item.id for item in shown} if keys.examples is None else set()
    asked = [item for item in found if item.id not in names]
    for item, example in product(asked, shown):
        if _gives_away(example, item):
            text = f"stands among the examples too ({example.named})"
            raise errors.InputError(f"{where(path, item)}: {text}")
    shots = tuple((item.prompt, item.accepted[0]) for item in shown)
    return tuple(replace(item, shots=shots) for item in asked) if shots else tuple(asked)


def _gives_away(example: Item, item: Item) -> bool:
    """Whether who sees an example solved knows what the item asks: choices may have another order
    there, or not be named."""
    if example.prompt != item.prompt:
        return False
    return set(example.choices) == set(item.choices) or example.accepted[0] in item.accepted
