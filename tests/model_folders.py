"""Small model folders, sound and unsound, for the tests of files."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from evomerge import errors
from evomerge.files import folder, header
from evomerge.files.checkpoint import Checkpoint

DTYPES = list(header.CODES)


def save(place: Path, tensors, config=None, **files) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    (place / "config.json").write_text(json.dumps(config or {"model_type": "llama"}))
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    return place


def save_raw(place: Path, text: bytes | str, data: bytes = b"", claimed: int | None = None):
    place.mkdir(parents=True, exist_ok=True)
    (place / "config.json").write_text("{}")
    text = text.encode() if isinstance(text, str) else text
    prefix = (len(text) if claimed is None else claimed).to_bytes(8, "little")
    (place / "model.safetensors").write_bytes(prefix + text + data)
    return place


def entry(start=0, stop=4, shape=(1,), dtype="F32", **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop], **more}


def save_shards(place: Path, shards, weight_map=None) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    (place / "config.json").write_text("{}")
    for file, tensors in shards.items():
        save_file(tensors, place / file)
    if weight_map is None:
        weight_map = {name: file for file, tensors in shards.items() for name in tensors}
    (place / folder.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return place


def refusal(place: Path, name: str = "") -> str:
    with pytest.raises(errors.InputError) as caught:
        Checkpoint.open(place, name)
    return str(caught.value)


def random_tensor(dtype, shape):
    count = math.prod(shape)
    if dtype is torch.bool:
        return torch.arange(count).remainder(3).eq(1).reshape(shape)
    data = torch.randint(0, 256, (count * dtype.itemsize,), dtype=torch.uint8)
    return data.view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)


def same_bytes(a, b) -> bool:
    raw = [t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*raw)
