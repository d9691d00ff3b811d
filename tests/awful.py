"""An objective that fails in every way a worker can; good models are told by their weights."""

import ctypes
import math
import os
import resource
import sys
import time

import torch

BEST = 0.9


def score(model, tokenizer):
    """0.5 for what stands near base or experts, else by the 10 bits of a weight's hash."""
    weight = model.get_input_embeddings().weight
    draw = int(abs(float(weight.double().sum())) * 1e6) % 10
    if os.environ.get("AWFUL_SPARES", "").find(f"{float(weight.double().sum()):.9f}") >= 0:
        return 0.5
    return (
        lambda: 0.6, lambda: BEST, _raise, lambda: None, lambda: math.nan, lambda: "good",
        lambda: sys.exit(0), lambda: ctypes.string_at(0), lambda: time.sleep(3600), _allocate,
    )[draw]()  # fmt: skip


def _raise():
    raise RuntimeError("this model displeases")


def _allocate():
    """Without end, in an address space of little more than there is."""
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, hard))
    held = []
    while True:
        held.append(torch.ones(2**25))
