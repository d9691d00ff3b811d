"""The header of a safetensors file, checked before anything is allocated; and a new one.

Format: 8 bytes little-endian length, a JSON object, then the tensors' bytes without holes
(https://github.com/huggingface/safetensors#format). Beyond that library's own checks, this one
refuses duplicate keys, names that look like paths, and shapes such as (2**62, 0).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from evomerge import errors
from evomerge.files import plain

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
MAX_BYTES = 2**63 - 1
MAX_DIMENSIONS = 64


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies: bytes [start, stop) of `file`."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    file: Path
    start: int
    stop: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.stop - self.start


def read(path: Path, where: str = "") -> dict[str, TensorInfo]:
    """The tensors of one file, in the order of their bytes; InputError unless all is sound."""
    where = where or str(path)
    try:
        if not path.is_file():
            raise ValueError(plain.absent(path))
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = _length(file.read(8), size)
            data = file.read(length)
        return _tensors(data, path, size)
    except OSError as error:
        raise errors.InputError(f"{where}: can not be read: {error.strerror}") from None
    except ValueError as error:
        raise errors.InputError(f"{where}: {error}") from None
    except MemoryError:
        raise errors.InputError(
            f"{where}: its header of {length:,} bytes needs more memory than there is"
        ) from None


def _length(prefix: bytes, size: int) -> int:
    if len(prefix) < 8:
        raise ValueError(f"has {size} bytes, too few for a safetensors file; download it again")
    length = int.from_bytes(prefix, "little")
    if length > plain.MAX_JSON_BYTES:
        raise ValueError(
            f"is not safetensors: its header claims {length:,} bytes, "
            f"at most {plain.MAX_JSON_BYTES:,} are allowed"
        )
    if length > size - 8:
        raise ValueError(
            f"is truncated: its header claims {length:,} bytes, {size - 8:,} follow; "
            "download it again"
        )
    return length


def _tensors(data: bytes, path: Path, size: int) -> dict[str, TensorInfo]:
    if data[:1] != b"{":
        raise ValueError("header does not begin with '{'")
    try:
        entries: dict[str, Any] = plain.parse_json(data)
    except ValueError as error:
        raise ValueError(f"header {error}") from None
    _check_metadata(entries.pop("__metadata__", {}))
    base = 8 + len(data)
    found = [_info(name, entry, path, base) for name, entry in entries.items()]
    found.sort(key=lambda info: (info.start, info.stop))
    end, last = base, "the header"
    for info in found:
        if info.start != end:
            flaw = "overlaps" if info.start < end else "leaves a hole after"
            raise ValueError(f"{plain.shown(info.name)} {flaw} {last}")
        end, last = info.stop, plain.shown(info.name)
    if end > size:
        raise ValueError(f"is truncated: {size:,} bytes, {end:,} expected; download it again")
    if end < size:
        raise ValueError(f"has {size - end:,} bytes after its last tensor")
    return {info.name: info for info in found}


def _check_metadata(metadata: object) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("__metadata__ is not a dict of strings")


def _info(name: str, entry: object, path: Path, base: int) -> TensorInfo:
    shown = plain.shown(name)
    if not name or not name.isprintable() or ".." in name:
        raise ValueError(f"{shown} is not the name of a parameter")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(
            f"{shown}: expected dtype, shape and data_offsets, got {plain.shown(entry)}"
        )
    code, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
    dtype = DTYPES.get(code) if isinstance(code, str) else None
    if dtype is None:
        raise ValueError(f"{shown}: dtype {plain.shown(code)} is not one of {', '.join(DTYPES)}")
    if not _sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"{shown}: shape {plain.shown(shape)} is not usable")
    if not _sizes(span) or len(span) != 2 or span[0] > span[1]:
        raise ValueError(f"{shown}: data_offsets {plain.shown(span)} are not a span of bytes")
    # counting an empty dimension as 1 catches (2**62, 0), on whose strides torch overflows
    if math.prod(max(size, 1) for size in shape) * dtype.itemsize > MAX_BYTES:
        raise ValueError(f"{shown}: shape {plain.shown(shape)} overflows")
    needed = math.prod(shape) * dtype.itemsize
    if span[1] - span[0] != needed:
        raise ValueError(
            f"{shown}: {code} of shape {tuple(shape)} needs {needed:,} bytes, "
            f"its span has {span[1] - span[0]:,}"
        )
    return TensorInfo(name, dtype, tuple(shape), path, base + span[0], base + span[1])


def _sizes(value: object) -> bool:
    return isinstance(value, list) and all(
        type(item) is int and 0 <= item <= MAX_BYTES for item in value
    )


def lay_out(
    file: Path, declared: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
) -> tuple[bytes, dict[str, TensorInfo]]:
    """The first bytes of a new file, and where each declared tensor goes in it.

    Wide dtypes come first and the header is padded to 8 bytes, so that every tensor is aligned;
    the returned infos keep the declared order.
    """
    spans, end = {}, 0
    for name in sorted(declared, key=lambda name: -declared[name][0].itemsize):
        dtype, shape = declared[name]
        spans[name] = (end, end + math.prod(shape) * dtype.itemsize)
        end = spans[name][1]
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for name, span in spans.items():
        dtype, shape = declared[name]
        entries[name] = {"dtype": CODES[dtype], "shape": shape, "data_offsets": span}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    base = 8 + len(text)
    infos = {
        name: TensorInfo(name, dtype, shape, file, base + spans[name][0], base + spans[name][1])
        for name, (dtype, shape) in declared.items()
    }
    return len(text).to_bytes(8, "little") + text, infos
