"""A score from the user's own Python: f(model, tokenizer) -> a number in [0, 1], more is better.

The whole function is one item. If `f` takes an argument `split`, it is told which of `search`,
`validation` and `test` is asked for, so that it can keep its own items apart.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from evomerge import errors, plugins
from evomerge.files.bank import Bank
from evomerge.files.items import SPLITS, Item

NEEDS_TOKENIZER = False
"""A model without words, such as one of images, can be scored."""


@dataclass(frozen=True)
class Batch:
    tokenizer: Any
    items: tuple[Item, ...]
    call: Callable[..., Any]


CODE = " code "
"""Stands between a function's name and what tells its code from another's."""


def bank(name: str, call: Callable[..., Any] | str) -> Bank:
    """The bank of one item a split that stands for a function or its `module:name`.

    Raises RecipeError for what can not be called.
    """
    call = find(call) if isinstance(call, str) else call
    if not callable(call):
        raise errors.RecipeError(f"objectives.{name}: expected a function, got {call!r}")
    items = tuple(Item(f"{name}:{split}", name, (), "", split) for split in SPLITS)
    named = call if hasattr(call, "__qualname__") else type(call)
    identity = f"{call.__module__}:{named.__qualname__}{CODE}{_code(named)}"
    return Bank(
        name=name, version=1, scorer="function", options={"call": call}, items=items,
        licence="", sha256=identity, path=Path(), description="",
    )  # fmt: skip


def _code(call: Callable[..., Any]) -> str:
    """A digest of a function's own code, whatever its comments and spaces; not of what it calls,
    nor of values that it finds outside."""
    try:
        text = textwrap.dedent(inspect.getsource(call))
    except (OSError, TypeError):  # typed into an interpreter, or not Python
        return "unknown"
    with contextlib.suppress(SyntaxError):  # a lambda is cut out with the lines around it
        text = ast.unparse(ast.parse(text))
    return sha256(text.encode()).hexdigest()[:12]


def is_same(old: object, new: object) -> bool:
    """Whether two identities are of one function, as far as is known: the code was not always
    part of it."""
    if not (isinstance(old, str) and isinstance(new, str)):
        return False
    (name, _, code), (other, _, its) = old.partition(CODE), new.partition(CODE)
    return name == other and ({code, its} & {"", "unknown"} != set())


def find(reference: str) -> Callable[..., Any]:
    """The function behind `module:name`; raises RecipeError where there is none."""
    module, _, name = reference.partition(":")
    if not name:
        raise errors.RecipeError(f"function: expected module:name, got '{reference}'")
    found = plugins.own_module(module, "function")
    if not hasattr(found, name):
        functions = [key for key in vars(found) if inspect.isfunction(getattr(found, key))]
        raise errors.RecipeError(errors.unknown(f"function: {module}", "name", name, functions))
    call = getattr(found, name)
    if not callable(call):
        raise errors.RecipeError(f"function: '{reference}' is {call!r}, which can not be called")
    return call  # type: ignore[no-any-return]


def prepare(tokenizer: Any, items: Sequence[Item], *, call: Callable[..., Any]) -> Batch:
    return Batch(tokenizer, tuple(items), call)


def score(model: Any, batch: Batch) -> dict[str, list[float]]:
    """Raises EvaluationError unless the function returns a number in [0, 1]."""
    takes_split = "split" in inspect.signature(batch.call).parameters
    scores = []
    for item in batch.items:
        options = {"split": item.split} if takes_split else {}
        value = batch.call(model, batch.tokenizer, **options)
        number = _number(value)
        if not 0 <= number <= 1:
            raise errors.EvaluationError(
                f"objective '{item.prompt}': expected a number in [0, 1], got {value!r}"
            )
        scores.append(number)
    return {"score": scores}


def _number(value: Any) -> float:
    """What numpy and torch return for one number is one too; nan for anything else."""
    try:
        return float(value) if hasattr(value, "__float__") else float("nan")
    except (TypeError, ValueError, RuntimeError):
        return float("nan")
