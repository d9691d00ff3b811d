"""What a bug report needs: versions, devices, memory, space on disk, whether Ray starts."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evomerge import heap, packages, zoo
from evomerge.files import lock, mounts

LIBRARIES = (
    "evomerge", "torch", "transformers", "safetensors", "huggingface-hub", "numpy", "scipy",
    "pymoo", "cma", "moocore", "ray", "pydantic", "plotly",
)  # fmt: skip
FAULT = "does not work"


def examine(folder: Path, *, ray: bool = True) -> dict[str, Any]:
    """What this machine is and has; `problems` names what would stand in a search's way.

    `folder` is where runs would be. With `ray`, a cluster of one worker is started and ended.
    """
    variables = sorted(name for name in os.environ if name.startswith(("EVOMERGE_", "RAY_")))
    broken = list(packages.broken(LIBRARIES))  # which may set variables of their own
    found: dict[str, Any] = {
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "versions": {name: packages.version(name) for name in LIBRARIES},
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory (bytes)": heap.memory(),
        "devices": _found(_devices),
        "folders": {
            "runs": _folder(folder),
            "cache (EVOMERGE_HOME)": _folder(zoo.home()),
            "temporary": _folder(Path(tempfile.gettempdir())),
        },
        "variables": variables,
        "ray": _found(_ray) if ray else "not tried",
    }  # fmt: skip
    return {**found, "problems": [*broken, *_problems(found)]}


def _found(look: Callable[[], Any]) -> Any:
    """What there is, or why that can not be said."""
    try:
        return look()
    except Exception as error:  # whatever it is, that is the finding
        return f"{FAULT}: {type(error).__name__}: {error}".splitlines()[0]


def _devices() -> list[dict[str, Any]]:
    """Accelerators that torch sees."""
    import torch

    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind is None:
        return []
    module = getattr(torch, kind.type)
    rows = []
    for i in range(torch.accelerator.device_count()):
        row: dict[str, Any] = {"device": f"{kind.type}:{i}"}
        if hasattr(module, "get_device_properties"):
            properties = module.get_device_properties(i)
            row |= {"name": properties.name, "memory (bytes)": properties.total_memory}
        rows.append(row)
    return rows


def _folder(folder: Path) -> dict[str, Any]:
    """The nearest folder that is there: its file system, what is free, whether one can write; and
    what is no folder, a file or a link to nowhere, where one is to be."""
    there = folder.absolute()
    other = lock.obstacle(there)
    while not there.is_dir():
        there = there.parent
    kind = mounts.file_system(there)
    return {
        "path": str(other or there),
        "file system": kind,
        "free (bytes)": shutil.disk_usage(there).free,
        "writable": other is None and os.access(there, os.W_OK),
        "journal": mounts.journal(kind),
    }


def _ray() -> str:
    """`ok`, once a local cluster has been started and ended."""
    from evomerge.executors import ray

    return ray.examine()


def _problems(found: dict[str, Any]) -> list[str]:
    lines = [f"{n} is not installed" for n, v in found["versions"].items() if v == "missing"]
    for name, folder in found["folders"].items():
        if not folder["writable"]:
            reason = "can not be written" if Path(folder["path"]).is_dir() else "is no folder"
            lines.append(f"{name}: {folder['path']} {reason}")
        elif (free := folder["free (bytes)"]) < 5e8:
            lines.append(f"{name}: {free / 1e6:,.0f} MB are free in {folder['path']}")
    faults = [name for name in ("devices", "ray") if str(found[name]).startswith(FAULT)]
    return [*lines, *(f"{name}: {found[name]}" for name in faults)]
