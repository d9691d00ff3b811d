"""Inputs for a machine that does not see them where the driver does: copied, checked, once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from evomerge import errors, inputs
from evomerge.files.checkpoint import digest
from evomerge.files.folder import UNREAD, inside
from evomerge.zoo import cache

PIECE = 2**26
"""Bytes that are sent at a time."""

Far = Callable[..., Any]
"""Calls a function of this module, with its arguments, on the machine that has the inputs."""


def local(sha256: str, folder: str, far: Far) -> str:
    """The folder on this machine with the model of a sha256.

    It is `folder` if that holds the model here too, else a copy in `inputs` of the cache folder
    (EVOMERGE_HOME), which the first who needs it brings and checks. Raises MachineError where
    the copy differs from what was promised.
    """
    if _holds(Path(folder), sha256):
        return folder
    copy = cache.home() / "inputs" / sha256
    what = f"the copy of {folder}"
    with cache.published(copy, sha256[:16], lambda *_: None, what) as temporary:
        if temporary is not None:
            for name, its in far(files, folder).items():
                _bring(temporary / name, its, folder, name, far)
            if not _holds(temporary, sha256):
                raise errors.MachineError(f"{folder}: has changed since the search began")
    return str(copy)


def files(folder: str) -> dict[str, str]:
    """sha256 by name of the files that a model can be read from; no other formats of weights."""
    root = Path(folder)
    found = [*root.glob("*"), *root.glob("additional_chat_templates/*.jinja")]
    names = {p.relative_to(root).as_posix() for p in found if p.is_file()}
    names.update(inputs.opened(root).files)  # an index may name files in folders of their own
    kept = [n for n in sorted(names) if not n.endswith(UNREAD)]
    return {n: digest(inside(root, n, folder), folder) for n in kept}


def piece(folder: str, name: str, start: int) -> bytes:
    """At most PIECE bytes of a file; none at its end."""
    with inside(Path(folder), name, folder).open("rb") as file:
        file.seek(start)
        return file.read(PIECE)


def _bring(path: Path, sha256: str, folder: str, name: str, far: Far) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        while data := far(piece, folder, name, file.tell()):
            file.write(data)
    if digest(path, str(path)) != sha256:
        raise errors.MachineError(f"{folder}/{name}: its copy has another sha256")


def _holds(folder: Path, sha256: str) -> bool:
    """Whether the model is there, whole."""
    try:
        return folder.is_dir() and inputs.opened(folder).sha256 == sha256
    except (errors.InputError, OSError):
        return False
