"""A merged model written to disk as a Hugging Face folder: streamed, and whole or absent."""

from __future__ import annotations

import errno
import glob
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from evomerge import errors
from evomerge.files import folder as model_folder
from evomerge.files import header
from evomerge.files.card import card as card
from evomerge.files.companions import Form, companions, json_bytes
from evomerge.files.lock import is_alive

SLACK = 1_000_000
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Shard:
    """One file to write: its first bytes, and where its tensors go."""

    name: str
    prefix: bytes
    infos: Mapping[str, header.TensorInfo]

    @property
    def bytes(self) -> int:
        return max((info.stop for info in self.infos.values()), default=len(self.prefix))


def write(
    folder: Path | str,
    tensors: Iterable[tuple[str, torch.Tensor]],
    *,
    source: Path | Form,
    dtype: torch.dtype,
    sizes: Mapping[str, Shape],
    dtypes: Mapping[str, torch.dtype] | None = None,
    shard_bytes: int = 5_000_000_000,
    card: str | None = None,
    extra_json: Mapping[str, object] | None = None,
) -> Path:
    """Stream `tensors` into a new model folder and return its path.

    `tensors` come in the order of `sizes`, of `dtype` except where `dtypes` names another; each
    whole, or in flat parts, one after the other under its name.
    Config and tokenizer are those of the folder or form `source`; each of `extra_json` becomes
    a file.
    Raises RecipeError if `folder` is in use, MachineError if the disk does not allow it,
    ValueError if a tensor is not the declared one; then nothing is left behind.
    """
    target = Path(os.path.realpath(os.path.expanduser(folder)))
    kept = dtypes or {}
    declared = {name: (kept.get(name, dtype), shape) for name, shape in sizes.items()}
    shards = _shards(declared, shard_bytes)
    form = source if isinstance(source, Form) else Form(Path(source), Path(source))
    small = _small_files(form, dtype, shards, card, extra_json or {})
    with _machine_errors(target), _new_folder(target) as partial:
        _check_space(target, shards, small)
        _write_shards(partial, shards, tensors)
        _write_companions(partial, small)
    return target


def write_files(folder: Path | str, files: Mapping[str, bytes]) -> Path:
    """A new folder of small files, whole or absent; raises as `write` does."""
    target = Path(os.path.realpath(os.path.expanduser(folder)))
    with _machine_errors(target), _new_folder(target) as partial:
        _check_space(target, [], files)
        _write_companions(partial, files)
    return target


def atomic_text(path: Path | str, text: str) -> None:
    """Write a text file so that it is whole or unchanged, also after a power cut."""
    atomic_bytes(path, text.encode())


def atomic_bytes(path: Path | str, data: bytes) -> None:
    """Write a file so that it is whole or unchanged, also after a power cut."""
    target = Path(path)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    with _machine_errors(target):
        try:
            _write_small(partial, data)
            os.replace(partial, target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A folder that takes the target's name when all is written, and is gone otherwise."""
    _refuse_used(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _new_partial(target)
    try:
        yield partial
        _publish(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def _machine_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = "no space left" if error.errno in FULL else f"{error.strerror or error}"
        advice = "free some, or choose another disk; " if error.errno in FULL else ""
        raise errors.MachineError(
            f"{target}: can not be written: {reason}; {advice}nothing was left behind"
        ) from error


def _refuse_used(target: Path) -> None:
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise errors.RecipeError(
            f"{target}: already exists and is not an empty folder; choose another name"
        )


def _shards(declared: Mapping[str, tuple[torch.dtype, Shape]], limit: int) -> list[Shard]:
    groups: list[dict[str, tuple[torch.dtype, Shape]]] = [{}]
    filled = 0
    for name, (dtype, shape) in declared.items():
        size = math.prod(shape) * dtype.itemsize
        if groups[-1] and filled + size > limit:
            groups.append({})
            filled = 0
        groups[-1][name] = (dtype, shape)
        filled += size
    shards = []
    for i, group in enumerate(groups, start=1):
        many = f"model-{i:05}-of-{len(groups):05}.safetensors"
        file = many if len(groups) > 1 else model_folder.SINGLE
        shards.append(Shard(file, *header.lay_out(Path(file), group)))
    return shards


def _small_files(
    form: Form,
    dtype: torch.dtype,
    shards: list[Shard],
    card: str | None,
    extra_json: Mapping[str, object],
) -> dict[str, bytes]:
    """Everything but the weights, by file name; read before anything is written."""
    files = companions(form, dtype)
    if len(shards) > 1:
        files[model_folder.INDEX] = json_bytes(_index(shards))
    if card is not None:
        files["README.md"] = card.encode()
    for name, value in extra_json.items():
        if name in files or Path(name).name != name or not name.endswith(".json"):
            raise ValueError(f"extra_json: '{name}' is not a free name for a JSON file")
        files[name] = json_bytes(value)
    return files


def _index(shards: list[Shard]) -> dict[str, object]:
    infos = [info for shard in shards for info in shard.infos.values()]
    return {
        "metadata": {
            "total_parameters": sum(info.numel for info in infos),
            "total_size": sum(info.bytes for info in infos),
        },
        "weight_map": {info.name: info.file.name for info in infos},
    }


def _new_partial(target: Path) -> Path:
    for old in target.parent.glob(f".{glob.escape(target.name)}.partial-*"):
        pid = old.name.rpartition("-")[2]
        if pid.isdigit() and (int(pid) == os.getpid() or not is_alive(int(pid))):
            shutil.rmtree(old, ignore_errors=True)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    partial.mkdir()
    return partial


def _check_space(target: Path, shards: list[Shard], small: Mapping[str, bytes]) -> None:
    needed = SLACK + sum(shard.bytes for shard in shards) + sum(map(len, small.values()))
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise errors.MachineError(
            f"{target}: needs {needed / 1e9:,.3f} GB, {free / 1e9:,.3f} GB are free; "
            "free some, or choose another disk"
        )


def _write_shards(
    partial: Path, shards: list[Shard], tensors: Iterable[tuple[str, torch.Tensor]]
) -> None:
    stream = iter(tensors)
    for shard in shards:
        with (partial / shard.name).open("xb") as file:
            file.write(shard.prefix)
            for info in shard.infos.values():
                _write_tensor(file, info, stream)
            _sync(file)
    name, _ = next(stream, ("", None))
    if name:
        raise ValueError(f"tensors: '{name}' comes after the last declared one")


def _write_tensor(
    file: BinaryIO, info: header.TensorInfo, stream: Iterator[tuple[str, torch.Tensor]]
) -> None:
    file.seek(info.start)
    done, begun = 0, False
    while done < info.numel or not begun:
        name, part = next(stream, ("nothing", torch.empty(0)))
        whole = not begun and tuple(part.shape) == info.shape
        if (name, part.dtype) != (info.name, info.dtype) or not (
            whole or (part.dim() == 1 and 0 < part.numel() <= info.numel - done)
        ):
            got, want = (name, part.dtype, tuple(part.shape)), (info.name, info.dtype, info.shape)
            raise ValueError(f"tensors: got {got}, expected {want} from entry {done} on")
        flat = part.detach().cpu().contiguous().reshape(-1)
        file.write(flat.view(torch.uint8).numpy().data)
        done, begun = done + part.numel(), True


def _write_companions(partial: Path, small: Mapping[str, bytes]) -> None:
    for name, data in small.items():
        (partial / name).parent.mkdir(exist_ok=True)
        _write_small(partial / name, data)
    for place in {(partial / name).parent for name in small}:
        _sync_folder(place)


def _write_small(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        _sync(file)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder can not be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _publish(partial: Path, target: Path) -> None:
    if target.exists():
        _refuse_used(target)
        target.rmdir()
    os.rename(partial, target)
    _sync_folder(target.parent)
