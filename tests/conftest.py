"""What all tests share."""

import os
from functools import partial

import pytest
from hypothesis import settings

for library in ("OMP", "OPENBLAS"):  # threads of one test would only wait for those of another
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"  # no test needs a network; read when the hub is imported

# A deadline an example would measure how busy the machine is.
settings.register_profile("evomerge", deadline=None)
settings.load_profile("evomerge")


@pytest.fixture(scope="session")
def family(tmp_path_factory):
    """A folder with base, two experts and a bank: real checkpoints, random and very small."""
    from tests import families

    return families.build(tmp_path_factory.mktemp("family"))


@pytest.fixture
def run(monkeypatch, capsys):
    """Call the command line in this process: exit code, output, messages."""
    from tests import command

    return partial(command.run, monkeypatch, capsys)


@pytest.fixture
def refused(run):
    """Call the command line and compare code and parts of the one message."""

    def call(*arguments, code, says):
        got, out, err = run(*arguments)
        assert got == code, (out, err)
        assert err.count("error:") == 1
        for part in [says] if isinstance(says, str) else says:
            assert part in err, err
        return err

    return call
