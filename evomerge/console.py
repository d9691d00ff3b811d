"""The two streams of a terminal: text from outside is shown as it stands, whatever it holds."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from evomerge import errors


class Screen(Console):
    """A console on which names and texts of models, banks and recipes are never markup."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(errors.public(text), **options)


out = Screen()
err = Screen(stderr=True)


def faint(text: str, more: str) -> Text:
    """A cell's text, and after it what matters less."""
    return Text.assemble(text, (f" {more}" if more else "", "dim"))
