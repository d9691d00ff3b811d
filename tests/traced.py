"""Saves and ledger writes in a child of this process, under strace: what it asked of the kernel,
or killed with SIGKILL as it is about to ask for the Nth time."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

STRACE = shutil.which("strace")
CALLS = (
    "openat,mkdir,write,writev,pwrite64,lseek,ftruncate,fallocate,fsync,fdatasync,rename,renameat,"
    "renameat2,link,unlink,unlinkat,rmdir,close,fcntl"
)
_CALL = re.compile(r"^\d+ +(\w+)\((.*)\) += (-?\d+)")


@dataclass(frozen=True)
class Call:
    """One system call: its name, the path of its descriptor or its first path, all of its text."""

    name: str
    path: str
    text: str


def run(action, log: Path, *options: str) -> int:
    """Wait status of a forked child that does `action()` under strace; -1: tracing is forbidden.

    A fork shares the imports, which take far longer than what is traced.
    """
    hold, release = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(hold, 1)
        try:
            action()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    tracer = subprocess.Popen(
        [STRACE, "-f", "-y", "-qq", "-s", "0", "-o", log, "-e", f"trace={CALLS}", *options,
         "-p", str(child)], stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while not _is_traced(child):
            if tracer.poll() is not None:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return -1
            time.sleep(0.001)
        os.write(release, b"x")
        status = os.waitpid(child, 0)[1]
        tracer.wait(timeout=60)
    finally:
        os.close(hold)
        os.close(release)
    return status


def _is_traced(pid: int) -> bool:
    text = Path(f"/proc/{pid}/status").read_text()
    return "TracerPid:\t0\n" not in text


def every(found: list[Call]) -> list[tuple[str, int]]:
    """Each call as (name, how many of that name there were up to it), in their order."""
    return [(call.name, sum(c.name == call.name for c in found[: i + 1]))
            for i, call in enumerate(found)]  # fmt: skip


def killed(action, log: Path, name: str, number: int) -> bool:
    """Whether the child was killed as it began its call of that name and number; False: it
    ended without one."""
    status = run(action, log, "-e", f"inject={name}:signal=KILL:when={number}")
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert status == 0, "the action failed"
    return False


def calls(log: Path) -> list[Call]:
    found = []
    for line in log.read_text().splitlines():
        if (match := _CALL.match(line)) and int(match[3]) >= 0:
            name, text = match[1], match[2]
            path = re.search(r"<([^<>]*)>" if text[:1].isdigit() else r'"([^"]*)"', text)
            found.append(Call(name, path[1] if path else "", text))
    return found
