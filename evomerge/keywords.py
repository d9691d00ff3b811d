"""Options by the keywords of a call: which it takes, and with which values."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

import pydantic
from typing_extensions import Unpack

from evomerge import errors
from evomerge.files import plain


def check(
    call: Callable[..., Any],
    options: Mapping[str, Any],
    place: str,
    key: str,
    *,
    unless: Collection[str] = (),
) -> None:
    """Raise RecipeError for an option that `call` does not take, or not with this value.

    Options are its keywords and the keys of a TypedDict that it unpacks, `unless` its caller
    fills them; what values one takes is its annotation: `Annotated[int, Field(ge=1)]`. Errors
    begin with `place`, and those of a value with its key below `key`.
    """
    parameters = inspect.signature(call).parameters.values()
    known = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
    hints, shared = _hints(call)
    names = [option for option in (*known, *shared) if option not in unless]
    if shared or not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for option in options:
            if option not in names:
                raise errors.RecipeError(errors.unknown(place, "option", option, names))
    needed = [o for o in names if o in known and known[o].default is inspect.Parameter.empty]
    for option in needed:
        if option not in options:
            raise errors.RecipeError(f"{place}: option '{option}' is missing")
    _check_values({**hints, **shared}, options, key)


def takes(call: Callable[..., Any], option: str) -> bool:
    """Whether `call` has this option, of its own or of those that it shares with others."""
    return option in inspect.signature(call).parameters or option in _hints(call)[1]


def _hints(call: Callable[..., Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The annotations of a call, and those of the options that it shares with others.

    Shared are the keys of a TypedDict in `**options: Unpack[...]`.
    """
    try:
        hints = typing.get_type_hints(call, include_extras=True)
    except NameError:  # a user's annotation that exists for type checkers alone
        return {}, {}
    unpacked = [typing.get_args(h)[0] for h in hints.values() if typing.get_origin(h) is Unpack]
    shared = [typing.get_type_hints(keys, include_extras=True) for keys in unpacked]
    return hints, {option: hint for keys in shared for option, hint in keys.items()}


def _check_values(hints: Mapping[str, Any], options: Mapping[str, Any], where: str) -> None:
    for option, value in options.items():
        try:
            pydantic.TypeAdapter(hints.get(option, Any)).validate_python(value, strict=True)
        except pydantic.ValidationError as error:
            fault = error.errors(include_url=False)[0]
            text = f"{where}.{option}: got {plain.shown(value)}, {plain.worded(fault)}"
            raise errors.RecipeError(text) from None
        except pydantic.errors.PydanticUserError:  # an annotation that pydantic does not know
            continue
