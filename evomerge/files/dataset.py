"""Rows of data sets that the package `datasets` reads; nothing that they bring is run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from evomerge import errors
from evomerge.files.items import KEYS
from evomerge.files.sheet import Dataset
from evomerge.files.sources import Row

READ = ("parquet", "arrow", "json", "csv", "cache")
"""Forms in which rows may lie: others unpickle, decode media, or fetch what they name."""


def rows(source: Dataset, folder: Path) -> tuple[list[Row], str]:
    """The rows, with keys of an item; and where they are from: name, commit, sha256 of the rows.

    A relative path begins in `folder`. Raises MachineError without the package, InputError for
    what is not there, can not be reached, or is stored in another form than READ.
    """
    if not find_spec("datasets"):
        raise errors.MachineError(
            f"source: '{source.datasets}' is read by the package datasets: "
            "pip install 'evomerge[datasets]'"
        )
    found: list[Row] = []
    revision = ""
    for split, ours in source.splits().items():
        where = f"{source.datasets} {split}"
        with _quiet(), errors.at(where):
            table, revision = _table(source, folder, split)
            columns = _columns(source, table.column_names)
            first = [path.split(".")[0] for path in columns.values()]
            entries = table.select_columns(list(dict.fromkeys(first))).to_list()
        for number, entry in enumerate(entries):
            known = {key: _inside(entry, path) for key, path in columns.items()}
            row = {key: value for key, value in known.items() if value is not None}
            found.append((f"{where}: row {number}", {**row, **({"split": ours} if ours else {})}))
    text = json.dumps([row for _, row in found], sort_keys=True, default=str)
    named = f"{source.datasets}@{revision}" if revision else source.datasets
    parts = [named, source.config, *source.splits(), f"sha256 {sha256(text.encode()).hexdigest()}"]
    return found, " ".join(part for part in parts if part)


def _table(source: Dataset, folder: Path, split: str) -> tuple[Any, str]:
    """One split, and the commit of a data set on a hub."""
    import datasets

    place = folder / Path(source.datasets).expanduser()
    try:
        if (place / "dataset_dict.json").is_file() or (place / "state.json").is_file():
            return _saved(datasets.load_from_disk(str(place)), split), ""
        name = str(place) if place.is_dir() else source.datasets
        builder = datasets.load_dataset_builder(name, source.config, revision=source.revision)
        form = type(builder).__module__.rsplit(".", 1)[-1]
        if form not in READ:
            raise errors.InputError(f"is stored as {form}, expected one of {', '.join(READ[:-1])}")
        builder.download_and_prepare()
        commit = "" if place.is_dir() else str(builder.hash or "")
        return builder.as_dataset(split=split), commit
    except errors.EvomergeError:
        raise
    except Exception as error:  # of the package, of what reads the files, or of the network
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        absent = (
            "; it is no folder beside the YAML, and of a hub it is neither in the cache of an "
            "earlier time, nor can it be read now"
        )
        hint = "" if place.is_dir() else absent
        raise errors.InputError(f"can not be loaded ({reason}){hint}") from error


def _saved(found: Any, split: str) -> Any:
    """A split of what `save_to_disk` wrote."""
    if not hasattr(found, "keys"):
        if str(found.split or split) != split:
            raise errors.InputError(f"is the split '{found.split}' alone")
        return found
    if split not in found:
        raise errors.InputError(errors.unknown("source", "split", split, list(found)))
    return found[split]


def _columns(source: Dataset, there: list[str]) -> dict[str, str]:
    """Column by key of an item."""
    columns = {str(key): path for key, path in source.columns.items()}
    columns = columns or {key: key for key in KEYS if key in there}
    lacking = [path for path in columns.values() if path.split(".")[0] not in there]
    if lacking:
        raise errors.InputError(errors.unknown("columns", "column", lacking[0], there))
    if not columns:
        raise errors.InputError(
            f"has the columns {', '.join(there)}: say which is what, as in "
            "columns: {prompt: question, answer: answer}"
        )
    return columns


def _inside(entry: Any, path: str) -> Any:
    for name in path.split("."):
        if not isinstance(entry, dict) or name not in entry:
            raise errors.InputError(f"columns: '{path}' is not there, only {entry!r:.100}")
        entry = entry[name]
    return entry


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the package's bars and remarks."""
    from datasets.utils import logging

    bars = logging.is_progress_bar_enabled()
    level = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
