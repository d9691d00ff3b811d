"""On what kind of file system a folder lies, and how SQLite is to keep its journal there."""

from __future__ import annotations

from pathlib import Path

# Write-ahead logs need shared memory, which network file systems do not give.
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "lustre", "beegfs", "ceph", "9p"}


def journal(kind: str) -> str:
    """SQLite's journal mode for a type of file system."""
    return "DELETE" if kind in _NETWORK else "WAL"


def file_system(folder: Path) -> str:
    """Type of the file system a folder lies on; empty where the machine does not tell."""
    try:
        mounts = Path("/proc/mounts").read_text()
    except OSError:
        return ""
    best = ("", "")
    for line in mounts.splitlines():
        _, point, kind, *_ = line.split()
        inside = folder.resolve().is_relative_to(point.replace("\\040", " "))
        if inside and len(point) > len(best[0]):
            best = (point, kind)
    return best[1]
