"""The two streams of a terminal: text from outside is shown as it stands, whatever it holds."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.table import Table as _Table
from rich.text import Text

from evomerge import errors


class Screen(Console):
    """A console on which names and texts of models, banks and recipes are never markup."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(errors.public(text), **options)


class Table(_Table):
    """A table that breaks what is too long for a column instead of cutting it off: a sha256 or a
    label is there to be copied."""

    def add_column(self, *header: Any, **options: Any) -> None:
        super().add_column(*header, **{"overflow": "fold", **options})

    def add_row(self, *cells: Any, **options: Any) -> None:
        while len(self.columns) < len(cells):
            self.add_column()
        super().add_row(*cells, **options)


out = Screen()
err = Screen(stderr=True)


def score(value: float) -> str:
    """For people; `-` where there is none."""
    return f"{value:.3f}" if math.isfinite(value) else "-"


def count(n: int, what: str) -> str:
    """A number of things, for people."""
    return f"{n:,} {what}{'s' * (n != 1)}"


def faint(text: str, more: str, gap: str = " ") -> Text:
    """A cell's text, and after it what matters less."""
    return Text.assemble(text, (f"{gap}{more}" if more else "", "dim"))
