"""How many threads torch takes for its sums."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread() -> Iterator[None]:
    """The same bits on every machine size: what a thread pool splits, it also sums differently.

    And two threads that wait for each other on a busy machine are slower than one.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
