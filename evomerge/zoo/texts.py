"""The four texts every Python ships or can make: code, docs, unicode names and facts.

A text comes in pieces; a piece is either for training or for the banks, never both. Its sha256
decides, so that the order and the number of the other pieces do not matter. Each version of the
family holds out a third that the one before trained on: questions nobody has looked at.
"""

from __future__ import annotations

import hashlib
import sys
import sysconfig
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from evomerge.errors import MachineError
from evomerge.zoo import facts

CODE_BYTES = 4_500_000
FACTS = 60_000
HELD_ONE_IN, HELD = 3, 1
PIECE = 1500

# Not the programs people read: tests, generated tables, and what is not there on every system.
_NO_CODE = {
    "dist-packages",
    "encodings",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "site-packages",
    "test",
    "turtledemo",
}
_NO_NAMES = (
    "ANATOLIAN HIEROGLYPH",
    "CJK",
    "CUNEIFORM SIGN",
    "EGYPTIAN HIEROGLYPH",
    "HANGUL SYLLABLE",
    "KHITAN",
    "NUSHU",
    "TANGUT",
    "VARIATION SELECTOR",
)


def _whole_lines(text: str) -> Iterator[str]:
    piece: list[str] = []
    size = 0
    for line in text.splitlines(keepends=True):
        piece.append(line)
        size += len(line)
        if size >= PIECE:
            yield "".join(piece)
            piece, size = [], 0
    if piece:
        yield "".join(piece)


def _code() -> Iterator[str]:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [
        file
        for file in root.rglob("*.py")
        if not _NO_CODE.intersection(file.relative_to(root).parts)
        and not file.name.startswith(("_sysconfigdata", "entities"))
    ]
    # In an order of its own, so that the cut at CODE_BYTES does not favour the first letters.
    files.sort(
        key=lambda file: hashlib.sha256(file.relative_to(root).as_posix().encode()).digest()
    )
    size = 0
    for file in files:
        text = file.read_text(encoding="utf-8", errors="ignore")
        size += len(text)
        yield text
        if size >= CODE_BYTES:
            return


def _docs() -> Iterator[str]:
    try:
        from pydoc_data.topics import topics
    except ImportError as problem:
        raise MachineError(
            f"zoo: this Python comes without pydoc_data.topics ({problem})"
        ) from None
    for name in sorted(topics):
        yield from _whole_lines(topics[name])


def _unicode() -> Iterator[str]:
    named = ((code, unicodedata.name(chr(code), "")) for code in range(sys.maxunicode + 1))
    lines = (
        f"U+{code:04X} {name}\n" for code, name in named if not name.startswith(_NO_NAMES) and name
    )
    yield from _whole_lines("".join(lines))


def _facts() -> Iterator[str]:
    for question, answer in facts.made("facts", FACTS):
        yield f"{question}{answer}\n"


DOMAINS: dict[str, Callable[[], Iterator[str]]] = {
    "code": _code,
    "docs": _docs,
    "unicode": _unicode,
    "facts": _facts,
}


def held_out(piece: str) -> bool:
    return hashlib.sha256(piece.encode()).digest()[0] % HELD_ONE_IN == HELD


class Sides(NamedTuple):
    """The pieces to train on and those for the banks, each in the order of the source."""

    train: list[str]
    held: list[str]


def split(domain: str) -> Sides:
    sides = Sides([], [])
    for piece in DOMAINS[domain]():
        sides[held_out(piece)].append(piece)
    return sides


def held_facts() -> list[tuple[str, str]]:
    """The facts of the banks, as question and answer."""
    made = facts.made("facts", FACTS)
    return [fact for fact in made if held_out("".join(fact) + "\n")]
