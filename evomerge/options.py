"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RunFolder = Annotated[Path, typer.Argument(help="folder of a run", metavar="RUN")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
