"""What building and scoring candidates costs on this machine's device, and whether it is right.

    python benchmarks/gpu_check.py [--sizes 135M 1B 8B] [--device auto] [--repeats 3]

Random Llama-shaped models (a base and two experts, bfloat16). Base and experts are read from where
they are: once memory-mapped (streamed), once copied to the device before (resident). Printed:
bytes per second of a build beside those of the device's own copy, seconds of building and of
scoring a candidate, peak memory (of the device; on a processor the process's anonymous memory,
which memory-mapped files are not part of), and how far its logits are from the processor's. A size
that does not fit into memory, or onto the disk, is left out, and it says so.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import memory
import torch
from random_family import Plans, Shape, build
from transformers import AutoConfig, AutoModelForCausalLM

from evomerge import heap, modules
from evomerge.files.checkpoint import TensorInfo
from evomerge.inputs import Opened
from evomerge.live import Live
from evomerge.materialize import Workshop
from evomerge.plan import Input, Vocabulary

SIZES = {
    "135M": Shape(alike=True),
    "1B": Shape(2048, 16, 32, 8, 8192, 49152, alike=True),
    "8B": Shape(4096, 32, 32, 8, 14336, 49152, alike=True),
}
OPERATORS = ("linear", "ties")
TOKENS = (4, 128)
"""Texts and tokens of each that a candidate is scored on."""


class Resident:
    """A model whose tensors have been copied to the device."""

    def __init__(self, source: Any, device: torch.device) -> None:
        self.tensors: Mapping[str, TensorInfo] = source.tensors
        self._flat = {
            name: source.read_flat(name, 0, info.numel).to(device, copy=True)
            for name, info in self.tensors.items()
        }

    def read_flat(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self._flat[name][start:stop]


class ResidentModels(Opened):
    """Opened models, each copied to the device when it is first read."""

    def __init__(self, opened: Opened, device: torch.device) -> None:
        super().__init__(opened)
        self._device = device
        self._copies: dict[str, Resident] = {}

    def source(self, item: Input, vocabulary: Vocabulary | None) -> Any:
        if item.sha256 not in self._copies:
            self._copies[item.sha256] = Resident(super().source(item, vocabulary), self._device)
        return self._copies[item.sha256]


def finished(device: torch.device) -> None:
    """Wait for what the device has been given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def timed(device: torch.device, action: Callable[[], object]) -> float:
    finished(device)
    begun = time.perf_counter()
    action()
    finished(device)
    return time.perf_counter() - begun


def copy_rate(device: torch.device, repeats: int) -> float:
    """Bytes per second, read and written, of copying 256 MB within the device."""
    source = torch.zeros(2**26, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    seconds = [timed(device, lambda: target.copy_(source)) for _ in range(repeats + 1)]
    return 2 * source.nbytes / statistics.median(seconds[1:])


@contextmanager
def peak(device: torch.device) -> Iterator[list[str]]:
    """Ends with the most memory that torch has held on the device meanwhile; on a processor, with
    the most anonymous memory of this process, where the system tells."""
    told: list[str] = []
    if device.type != "cpu":
        torch.accelerator.reset_peak_memory_stats()
        yield told
        told.append(f"{torch.accelerator.max_memory_allocated() / 1e9:.1f} GB")
    elif sys.platform == "linux":
        with memory.sampled() as found:
            yield told
        told.append(f"{max(found) / 1e9:.1f} GB")
    else:
        yield told
        told.append("-")


def model_of(folder: Path, device: torch.device) -> Any:
    config = AutoConfig.from_pretrained(folder)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def logits(model: Any, device: torch.device) -> torch.Tensor:
    texts = torch.randint(0, 49152, TOKENS, generator=torch.Generator().manual_seed(0))
    found: torch.Tensor = model(input_ids=texts.to(device)).logits
    return found


def check(name: str, folders: list[Path], device: torch.device, repeats: int) -> None:
    plans, rate = Plans(folders), copy_rate(device, repeats)
    moved = sum(info.bytes for info in plans.tensors.values()) * (len(folders) + 1)
    model = model_of(folders[0], device)
    expected = None
    if device.type != "cpu":
        there = model_of(folders[0], torch.device("cpu"))
        Live(modules.writable(there), Workshop(plans.files)).build(plans.plan("linear"))
        expected = logits(there, torch.device("cpu"))
        del there
    for kind in ("streamed", "resident"):
        files = plans.files if kind == "streamed" else ResidentModels(plans.files, device)
        for operator in OPERATORS:
            live = Live(modules.writable(model), Workshop(files, device))
            with peak(device) as most:
                first = timed(device, lambda: live.build(plans.plan(operator)))  # noqa: B023
                apart = "-"
                if expected is not None and operator == "linear":
                    apart = f"{float((logits(model, device).cpu() - expected).abs().max()):.3g}"
                build_seconds = statistics.median(
                    timed(device, lambda: live.build(plans.plan(operator, i + 1)))  # noqa: B023
                    for i in range(repeats)
                )
                scoring = statistics.median(
                    timed(device, lambda: logits(model, device)) for _ in range(repeats)
                )
            print(
                f"| {name} | {kind} | `{operator}` | {first:.2f} | {build_seconds:.3f} "
                f"| {moved / build_seconds / 1e9:.2f} | {rate / 1e9:.2f} | {scoring:.3f} "
                f"| {most[0]} | {apart} |",
                flush=True,
            )
        del files
        gc.collect()


def room(shape: Shape, device: torch.device, folder: Path) -> str:
    """Why a size is left out; empty where it fits."""
    numbers = sum(torch.Size(size).numel() for size in shape.tensors().values())
    stored = 2 * numbers
    if shutil.disk_usage(folder).free < 4 * stored:
        return f"{4 * stored / 1e9:.0f} GB of disk are needed in {folder}"
    free = heap.memory().get("available")
    held = 5 * stored if device.type == "cpu" else 2 * stored
    if free is not None and free < held:
        return f"{held / 1e9:.0f} GB of memory are needed, {free / 1e9:.0f} GB are available"
    if device.type != "cpu" and hasattr(getattr(torch, device.type), "mem_get_info"):
        free = getattr(torch, device.type).mem_get_info(device)[0]
        if free < 4.5 * stored:
            return (
                f"{4.5 * stored / 1e9:.0f} GB of the device are needed, {free / 1e9:.0f} are free"
            )
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    here = torch.accelerator.current_accelerator(check_available=True)
    device = torch.device(options.device if options.device != "auto" else here or "cpu")
    cache = Path(os.environ.get("EVOMERGE_HOME", tempfile.gettempdir())) / "gpu-check"
    cache.mkdir(parents=True, exist_ok=True)
    print(f"{device}, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| size | base and experts | operator | first build s | build s | GB/s | copy GB/s "
          "| score s | peak | logits from processor's |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in options.sizes:
        why_not = room(SIZES[name], device, cache)
        if why_not:
            print(f"| {name} | left out: {why_not} |" + " |" * 8, flush=True)
            continue
        check(name, build(cache / name, SIZES[name], 2), device, options.repeats)


if __name__ == "__main__":
    main()
