"""What all tests share."""

import os

from hypothesis import settings

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# A deadline an example would measure how busy the machine is.
settings.register_profile("evomerge", deadline=None)
settings.load_profile("evomerge")
