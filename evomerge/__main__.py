"""The command line, as `evomerge` and as `python -m evomerge`."""

from __future__ import annotations

import sys

from evomerge import errors


def main() -> None:
    """Run it; Ctrl-C while it is loaded is an interruption like any other."""
    try:
        from evomerge import cli
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(errors.INTERRUPTED)
    cli.main()


if __name__ == "__main__":
    main()
