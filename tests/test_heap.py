"""What a long merge has freed goes back to the system."""

import sys
from pathlib import Path

import pytest
import torch

from evomerge import heap

MIB = 2**20


def held() -> int:
    """MiB of anonymous memory of this process."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) // 1024


@pytest.mark.skipif(sys.platform != "linux", reason="only there is memory given back")
def test_what_is_free_between_what_is_used_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "EVERY", 100 * MIB)
    blocks = [torch.ones(MIB // 64) for _ in range(2000)]  # 64 KiB: of the heap, not mapped
    del blocks[::2], blocks[:-1:50], blocks[:-20]
    before, counted = held(), heap.Heap()
    counted.note(99 * MIB)
    assert held() >= before - 1
    counted.note(MIB)
    assert counted.used == 0
    assert held() <= before - 80
    assert all(bool((block == 1).all()) for block in blocks)
