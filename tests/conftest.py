"""What all tests share."""

import os

import pytest
from hypothesis import settings

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# A deadline an example would measure how busy the machine is.
settings.register_profile("evomerge", deadline=None)
settings.load_profile("evomerge")


@pytest.fixture(scope="session")
def family(tmp_path_factory):
    """A folder with base, two experts and a bank: real checkpoints, random and very small."""
    from tests import families

    return families.build(tmp_path_factory.mktemp("family"))
