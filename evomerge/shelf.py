"""The banks that a recipe or a command names: found, loaded, and fit for their scorers."""

from __future__ import annotations

from pathlib import Path

from evomerge import errors, keywords, plugins, zoo
from evomerge.files import bank as banks
from evomerge.files import plain, sources
from evomerge.files.sheet import Sheet
from evomerge.scorers import brevity


def check(reference: str, folder: Path) -> Sheet | None:
    """What is wrong with a bank before any item is read: its name, its file, its scorer.

    Returns its keys, if it has a YAML file. `folder` is where relative paths may begin beside the
    current one; no zoo family is built.
    """
    if reference.startswith("zoo:"):
        zoo.check(reference, "bank")
        return None
    path = banks.find(_near(reference, folder))
    if path.suffix in sources.SUFFIXES:
        if not path.is_file():
            raise errors.InputError(f"{path}: {plain.absent(path)}")
        return None
    keys = banks.sheet(path)
    scorer = plugins.load("scorer", keys.scorer["name"], f"{path}: scorer")
    plugins.check_options("scorer", keys.scorer["name"], keys.options, f"{path}: scorer")
    _check_origin(keys, path, hasattr(scorer, "origin"))
    if keys.benchmark is None and hasattr(scorer, "benchmark"):
        keys.benchmark = scorer.benchmark(keys)
    if isinstance(keys.source, str) and keys.source.startswith("zoo:"):
        with errors.at(f"{path}: source"):
            zoo.check(keys.source, "bank")
    return keys


def load(reference: str | Path, folder: Path | None = None) -> banks.Bank:
    """A bank with its items; everything about it is checked."""
    place = str(reference) if folder is None else _near(str(reference), folder)
    check(place, folder or Path())
    found = banks.load(place, resolve=zoo.path, origin=_origin)
    _check_items(found)
    return found


def seen(bank: banks.Bank, signal: str) -> banks.Bank:
    """A bank as it is scored where a search sees `signal`; RecipeError where no answer has it.

    What a scorer that does not declare its signals gives is not known before it is asked.
    """
    if signal == brevity.SIGNAL:
        return brevity.of(bank)
    scorer = plugins.load("scorer", bank.scorer)
    has = ("score", *scorer.signals(bank.items)) if hasattr(scorer, "signals") else (signal,)
    if signal not in has:
        raise errors.RecipeError(
            f"signal: the answers to bank '{bank.name}', which is scored by '{bank.scorer}', have "
            f"no '{signal}'; name what they have: {', '.join(has)}"
        )
    return bank


def _origin(keys: Sheet, path: Path) -> banks.Origin:
    own: banks.Origin = plugins.load("scorer", keys.scorer["name"]).origin(keys, path)
    return own


def _check_origin(keys: Sheet, path: Path, own: bool) -> None:
    """Items come from the YAML, from the file that it names, or from the scorer: one of them."""
    given = keys.source is not None or keys.items is not None
    if not own and not given:
        raise errors.InputError(f"{path}: expected either 'source' or 'items'")
    worded = keys.prompt != "{prompt}" or keys.shots is not None or keys.examples is not None
    if own and (given or worded):
        raise errors.RecipeError(
            f"{path}: the scorer '{keys.scorer['name']}' brings its items with it: no 'source', "
            "'items', 'prompt', 'shots' or 'examples' is taken"
        )


def _check_items(bank: banks.Bank) -> None:
    """InputError for the first item that the scorer of its bank can not mark."""
    check = getattr(plugins.load("scorer", bank.scorer), "check", lambda item: None)
    named = {key: value for key, value in bank.options.items() if keywords.takes(check, key)}
    for item in bank.items:
        try:
            check(item, **named)
        except ValueError as error:
            where = banks.where(bank.path, item)
            raise errors.InputError(f"{where}: {error} (scorer {bank.scorer})") from None


def _near(reference: str, folder: Path) -> str:
    beside = folder / reference
    return str(beside) if not Path(reference).exists() and beside.is_file() else reference
