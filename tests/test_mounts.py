"""On what kind of file system a folder lies, by the machine's table of mounts."""

from contextlib import closing
from pathlib import Path

import pytest

from evomerge.files import mounts

TABLE = r"""/dev/sda1 / ext4 rw,relatime 0 0
systemd-1 /data autofs rw,relatime 0 0
server:/x /data nfs4 rw,relatime 0 0
/dev/sdb1 /data/fast xfs rw,relatime 0 0
server:/y /my\040data cifs rw,relatime 0 0
server:/z /tab\011and\134 nfs rw,relatime 0 0
"""


@pytest.mark.parametrize(
    ("folder", "kind", "journal"),
    [
        ("/home/me/run", "ext4", "WAL"),
        ("/data/run", "nfs4", "DELETE"),
        ("/data/fast/run", "xfs", "WAL"),
        ("/database/run", "ext4", "WAL"),
        ("/my data/run", "cifs", "DELETE"),
        ("/tab\tand\\/run", "nfs", "DELETE"),
    ],
)
def test_what_was_mounted_last_is_in_force(tmp_path, folder, kind, journal):
    table = tmp_path / "mounts"
    table.write_text(TABLE)
    assert mounts.file_system(Path(folder), table) == kind
    assert mounts.journal(kind) == journal


def test_a_path_that_begins_with_two_slashes(tmp_path):
    with closing(mounts.connect(tmp_path / "a.sqlite")) as db:
        db.execute("CREATE TABLE one (number)")
    with closing(mounts.connect(Path(f"/{tmp_path / 'a.sqlite'}"))) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("one",)]


def test_a_machine_that_does_not_tell(tmp_path):
    assert mounts.file_system(tmp_path, tmp_path / "nothing") == ""
