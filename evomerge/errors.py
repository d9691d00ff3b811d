"""The exceptions that evomerge raises on purpose, and the exit code each one becomes.

EvomergeError
├── RecipeError        2   a recipe, a plan, an option or a name is wrong
├── InputError         3   a checkpoint, a bank or another input file is unusable
├── MachineError       4   machine or run folder do not allow it (lock, space, missing extra)
├── EvaluationError    3   one model can not be scored; a search records the reason and goes on
├── Unconfirmed        5   the run ended with nothing confirmed
├── TooManyFailures    6   more than half of the last 20 candidates failed
└── Interrupted       75   stopped by a signal; the same command goes on
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

DONE, USAGE, INPUT, ENVIRONMENT, UNCONFIRMED, FAILURES, INTERRUPTED = 0, 2, 3, 4, 5, 6, 75


_CREDENTIALS = re.compile(r"(?<=:/)/?[^/\s]+(?=@)|\bhf_\w{20,}")
_SECRET = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|KEY)$")
SHORTEST_SECRET = 8


def public(text: str) -> str:
    """Text from outside as it may be shown and recorded.

    Without credentials (in URLs, tokens of a hub, values of variables such as HF_TOKEN), and with
    escapes in place of characters that would control a terminal.
    """
    text = _CREDENTIALS.sub("***", text)
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= SHORTEST_SECRET:
            text = text.replace(value, "***")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


class EvomergeError(Exception):
    """Root of the tree; its message is public, `exit_code` is what the command line returns."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(public(message))


class RecipeError(EvomergeError, ValueError):
    exit_code = USAGE


class InputError(EvomergeError):
    exit_code = INPUT


class MachineError(EvomergeError):
    exit_code = ENVIRONMENT


class EvaluationError(EvomergeError):
    """One candidate can not get a score; the message is the recorded reason."""

    exit_code = INPUT


class Unconfirmed(EvomergeError):
    exit_code = UNCONFIRMED


class TooManyFailures(EvomergeError):
    exit_code = FAILURES


class Interrupted(EvomergeError):
    exit_code = INTERRUPTED


@contextmanager
def at(place: str) -> Iterator[None]:
    """Put a place before the message of a RecipeError or InputError."""
    try:
        yield
    except (RecipeError, InputError) as error:
        raise type(error)(f"{place}: {error}") from error


def unknown(where: str, what: str, got: object, known: Iterable[str]) -> str:
    """The message for an unknown name: where, what, got, the nearest valid name, all of them."""
    names, got = sorted(known), str(got)
    begun = [name for name in names if got and name.startswith(got)]
    near = begun or difflib.get_close_matches(got, names, n=1, cutoff=0.5)
    guess = f" Did you mean '{near[0]}'?" if near else ""
    return f"{where}: unknown {what} '{got}'.{guess} Known: {', '.join(names) or 'none'}"
