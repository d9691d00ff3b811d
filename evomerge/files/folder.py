"""Which files of a Hugging Face model folder hold the weights, and whether they may be read."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from evomerge import errors
from evomerge.files import header, plain

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
UNREAD = (".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack")
LISTED = 10
LONGEST_NAME = 255
"""Bytes in one part of a path; file systems raise errors for longer ones."""

Headers = dict[str, header.TensorInfo]


def weights(folder: Path, where: str) -> dict[str, Headers]:
    """The checked header of each weight file, by sorted file name; no tensor stands in two."""
    if (folder / SINGLE).exists() or (folder / SINGLE).is_symlink():
        return {SINGLE: header.read(inside(folder, SINGLE, where), f"{where}/{SINGLE}")}
    if not (folder / INDEX).is_file():
        raise errors.InputError(f"{where}: {_what_else(folder)}")
    weight_map = _weight_map(folder, where)
    paths = {name: inside(folder, name, f"{where}/{INDEX}") for name in set(weight_map.values())}
    missing = sorted(name for name, path in paths.items() if not path.is_file())
    if missing:
        text = listed(missing, "weight file")
        raise errors.InputError(f"{where}: {text} missing; download again")
    found = {name: header.read(paths[name], f"{where}/{name}") for name in sorted(paths)}
    _check_index(weight_map, found, f"{where}/{INDEX}")
    return found


def _weight_map(folder: Path, where: str) -> dict[str, str]:
    index = plain.read_json(inside(folder, INDEX, where), f"{where}/{INDEX}")
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise errors.InputError(f"{where}/{INDEX}: has no weight_map")
    for tensor, file in weight_map.items():
        if not isinstance(file, str) or not file.endswith(".safetensors"):
            raise errors.InputError(
                f"{where}/{INDEX}: {plain.shown(tensor)}: {plain.shown(file)} is not the name of "
                "a safetensors file"
            )
    return weight_map


def _check_index(weight_map: dict[str, str], found: dict[str, Headers], where: str) -> None:
    absent = sorted((t for t, file in weight_map.items() if t not in found[file]), key=natural)
    if absent:
        text = listed(absent, "tensor")
        raise errors.InputError(f"{where}: {text} not in the named file; download again")
    seen: dict[str, str] = {}
    for file, infos in found.items():
        for tensor in infos:
            if tensor in seen:
                raise errors.InputError(
                    f"{where}: '{tensor}' stands in two files, {seen[tensor]} and {file}"
                )
            seen[tensor] = file


def _what_else(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    unread = [name for name in names if name.endswith(UNREAD)]
    if any(name.endswith(".safetensors") for name in names):
        return f"has neither {SINGLE} nor {INDEX}; download the missing file"
    if not unread:
        return f"has no weights, expected {SINGLE} or {INDEX}"
    gguf = f", gguf_file='{unread[0]}'" if unread[0].endswith(".gguf") else ""
    return (
        f"has its weights only in {listed(unread, 'file')}; expected safetensors, convert with "
        f"AutoModelForCausalLM.from_pretrained('{folder}'{gguf}).save_pretrained('NEW_FOLDER')"
    )


def inside(folder: Path, name: str, where: str) -> Path:
    """The real path of a file that a model folder names; InputError if it leaves the folder.

    Links of the Hugging Face cache may point elsewhere inside the same `models--*` folder.
    """
    parts = name.split("/")
    odd = not name.isprintable() or set("\\:") & set(name) or {"", ".", ".."} & set(parts)
    if odd or max(len(part.encode()) for part in parts) > LONGEST_NAME:
        raise errors.InputError(f"{where}: {plain.shown(name)} is not a plain relative file name")
    root = Path(os.path.realpath(folder))
    if root.parent.name == "snapshots" and root.parents[1].name.startswith("models--"):
        root = root.parents[1]
    real = Path(os.path.realpath(folder / name))
    if not real.is_relative_to(root):
        raise errors.InputError(f"{where}: '{name}' is a link out of the folder; copy the file in")
    return real


def natural(name: str) -> tuple[object, ...]:
    """Sort key that reads runs of digits as numbers: layer 2 comes before layer 10."""
    key: list[object] = []
    for i, part in enumerate(re.split("([0-9]+)", name)):
        digits = part.lstrip("0")
        # (length, digits) orders as int would, which refuses more than 4,300 digits
        key.append((len(digits), digits) if i % 2 else part)
    return (tuple(key), name)


def listed(names: Sequence[str], what: str) -> str:
    """`3 tensors ('a', 'b', 'c')`; at most ten are named."""
    shown = ", ".join(plain.shown(name) for name in names[:LISTED])
    rest = ", ..." if len(names) > LISTED else ""
    return f"{len(names)} {what}{'s' if len(names) > 1 else ''} ({shown}{rest})"
