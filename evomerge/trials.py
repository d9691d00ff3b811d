"""What strategies that ask optuna have in common."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import optuna


@contextmanager
def quiet() -> Iterator[None]:
    """Without a line on the terminal: what optuna remarks is no news to a user of this package."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def study(objectives: int) -> optuna.Study:
    """A study in memory that minimises."""
    with quiet():
        return optuna.create_study(directions=["minimize"] * objectives)
