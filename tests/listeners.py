"""Sockets on which the processes of a search listen, read from Linux's /proc."""

import os
from pathlib import Path

LISTEN = "0A"
LOOPBACK = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")
MARK = "LISTENERS_OF"
"""Of the environment, which all processes that a search starts inherit: others may listen too."""


def listening() -> set[str]:
    """Addresses on which processes listen that have the same mark as this one."""
    mark = f"{MARK}={os.environ[MARK]}".encode()
    sockets, found = set(), set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                files = list((process / "fd").iterdir())
                sockets |= {os.readlink(file) for file in files if file.is_socket()}
        except OSError:  # it has ended, or is another's
            continue
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == LISTEN and f"socket:[{inode}]" in sockets:
                found.add(local)
    return found


def score(model, tokenizer):
    """An objective that fails where something listens to others, or nothing of Ray's is seen."""
    found = listening()
    strangers = {local for local in found if local.split(":")[0] not in LOOPBACK}
    if strangers or not found:
        raise RuntimeError(f"open to others: {strangers} of {found}")
    return 0.5
