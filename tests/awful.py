"""An objective that fails in every way a worker can; which, is told by a model's weights."""

import ctypes
import math
import os
import resource
import sys
import time
from pathlib import Path

import torch

BEST = 0.9


def total(model):
    """What tells models apart."""
    return float(model.get_input_embeddings().weight.detach().double().sum())


def score(model, tokenizer):
    """0.5 for base and experts, else one of ten ways, by a digit of the model's total."""
    if f"{total(model):.9f}" in os.environ.get("AWFUL_SPARES", ""):
        return 0.5
    draw = int(abs(total(model)) * 1e6) % 10
    return (
        lambda: 0.6, lambda: BEST, _raise, lambda: None, lambda: math.nan, lambda: "good",
        lambda: sys.exit(0), lambda: ctypes.string_at(0), lambda: time.sleep(3600), _allocate,
    )[draw]()  # fmt: skip


def _raise():
    raise RuntimeError("this model displeases")


def _allocate():
    """Without end, in an address space of little more than there is."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    used = pages * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, hard))
    held = []
    while True:
        held.append(torch.ones(2**25))
