"""Sockets that listen to more than this machine, read from Linux's /proc."""

import os
from pathlib import Path

LISTEN = "0A"
LOOPBACK = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")


def open_to_others() -> set[str]:
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == LISTEN and local.split(":")[0] not in LOOPBACK:
                found.add(local)
    return found


def score(model, tokenizer):
    """An objective that fails when something listens that did not before the run."""
    new = open_to_others() - set(os.environ["KNOWN_LISTENERS"].split())
    if new:
        raise RuntimeError(f"open to others: {new}")
    return 0.5
