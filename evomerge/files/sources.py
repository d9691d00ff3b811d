"""Files of questions as rows of keys and values: JSON lines, CSV, Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from evomerge import errors
from evomerge.files import plain

MAX_BYTES = 1_000_000_000
LONGEST_INDEX = 18
"""Digits of a choice's number; more are a text, and int() refuses some thousands."""

Row = tuple[str, object]
"""Where it stands, for messages, and what stands there."""


def rows(path: Path) -> list[Row]:
    """The rows of a file with one of SUFFIXES; InputError with file:line for a bad one."""
    return list(_READERS[path.suffix](path))


def _json_lines(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_data(path).split(b"\n"), start=1):
        if line.strip():
            where = f"{path}:{number}"
            try:
                yield where, plain.parse_json(line)
            except ValueError as error:
                raise errors.InputError(f"{where}: {error}") from None


def _csv(path: Path) -> Iterator[Row]:
    """Empty cells are keys that are not there; `choices` are a JSON list in their cell."""
    try:
        text = _data(path).decode("utf-8")
    except UnicodeDecodeError as error:
        lines = error.object[: error.start + 1].splitlines()
        where = f"{path}:{len(lines)}"
        raise errors.InputError(f"{where}: is not UTF-8 at byte {len(lines[-1]) - 1}") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    line, usual = 1, csv.field_size_limit(MAX_BYTES)
    try:
        for cells in reader:
            where, line = f"{path}:{line}", reader.line_num + 1
            if not cells:
                continue
            if header is None:
                header = _header(cells, where)
                _check_commas(header, where)
            elif len(cells) != len(header):
                raise errors.InputError(f"{where}: has {len(cells)} cells, expected {len(header)}")
            else:
                yield where, _entry(dict(zip(header, cells, strict=True)), where)
    except csv.Error as error:
        raise errors.InputError(f"{path}:{reader.line_num}: is not CSV: {error}") from None
    finally:
        csv.field_size_limit(usual)


def _header(cells: list[str], where: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise errors.InputError(f"{where}: column {plain.shown(twice[0])} stands twice")
    return names


def _check_commas(header: list[str], where: str) -> None:
    other = next((mark for mark in ";\t|" if mark in header[0]), None)
    if other and len(header) == 1:
        raise errors.InputError(
            f"{where}: columns are separated by {plain.shown(other)}, expected commas: save it "
            "with those"
        )


def _entry(cells: dict[str, str], where: str) -> dict[str, object]:
    entry: dict[str, object] = {key: cell for key, cell in cells.items() if cell}
    if "choices" not in entry:
        return entry
    try:
        choices = entry["choices"] = plain.parse_json(cells["choices"].encode())
    except ValueError as error:
        raise errors.InputError(f"{where}: choices: {error}; expected a JSON list") from None
    answer = cells.get("answer", "")
    is_index = answer.isdecimal() and len(answer) <= LONGEST_INDEX
    if is_index and isinstance(choices, list) and answer not in choices:
        entry["answer"] = int(answer)
    return entry


def _parquet(path: Path) -> Iterator[Row]:
    """Nulls are keys that are not there. A cell may hold what can be read and not be converted."""
    if not find_spec("pyarrow"):
        raise errors.MachineError(f"{path}: reading Parquet needs pyarrow: pip install pyarrow")
    import pyarrow
    from pyarrow import parquet

    data = plain.read_bytes(path, MAX_BYTES, str(path), errors.InputError)
    try:
        table = parquet.ParquetFile(pyarrow.BufferReader(data)).read()
        names = _header(table.column_names, str(path))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise errors.InputError(f"{path}: is not Parquet: {reason}") from None
    for number, cells in enumerate(zip(*table.columns, strict=True)):
        where = f"{path}: row {number}"
        row = {n: _value(cell, n, where) for n, cell in zip(names, cells, strict=True)}
        yield where, {name: value for name, value in row.items() if value is not None}


def _value(cell: Any, name: str, where: str) -> object:
    """A cell of Parquet as Python has it."""
    try:
        return cell.as_py()
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8 at byte {error.start}"
    except Exception as error:  # of pyarrow, or of the library that has time zones or the like
        reason = f"can not be read: {type(error).__name__}: {' '.join(str(error).split())}"
    raise errors.InputError(f"{where}: {plain.shown(name)} {reason}")


def _data(path: Path) -> bytes:
    return plain.read_bytes(path, MAX_BYTES, str(path), errors.InputError).removeprefix(
        b"\xef\xbb\xbf"
    )


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".csv": _csv,
    ".parquet": _parquet,
}
SUFFIXES = tuple(_READERS)
NAMED = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
