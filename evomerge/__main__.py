"""The command line, as `evomerge` and as `python -m evomerge`."""

from __future__ import annotations

import atexit
import gc
import sys
from collections import namedtuple

from evomerge import errors


def main() -> None:
    """Run it; Ctrl-C while it is loaded is an interruption like any other."""
    # Python looks for cycles among the million objects of torch, again and again while they are
    # made and once more at its end: a quarter of what the shortest search takes.
    gc.set_threshold(10_000, 10, 10)
    atexit.register(gc.freeze)
    try:
        from evomerge import cli

        cli.main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(errors.INTERRUPTED)
    finally:
        # With -m, Python ends by SIGINT, whatever the exit code, where a KeyboardInterrupt has
        # passed code that was made of text, as named tuples are; another one makes it forget.
        namedtuple("Forget", "")


if __name__ == "__main__":
    main()
