"""JSON and YAML from outside, read with limits, and checked against a pydantic model."""

from __future__ import annotations

import difflib
import json
import re
import typing
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from evomerge import errors

MAX_JSON_BYTES = 100_000_000
MAX_YAML_BYTES = 1_000_000
MAX_YAML_DEPTH = 40
YAML = (".yaml", ".yml")

Model = TypeVar("Model", bound=pydantic.BaseModel)


def parse_json(data: bytes) -> Any:
    """The value of a JSON text; ValueError with a readable reason; no key may stand twice."""
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"is not JSON: {error.msg} at {place}") from None
    except RecursionError:
        raise ValueError("is not usable JSON: nested too deeply") from None
    except ValueError as error:
        raise ValueError(_plainly(error)) from None


def _plainly(error: Exception) -> str:
    """What a reader says, in one line; Python's own advice for long numbers helps nobody here."""
    text = " ".join(str(error).split())
    return "a number is too long" if "sys.set_int_max_str_digits" in text else text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {shown(twice)} stands twice")
    return result


def shown(value: object, limit: int = 80) -> str:
    """A value as it may stand in a message: quoted, printable, cut to `limit` characters."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def texts(value: Any) -> Any:
    """Paths as texts, and numbers and arrays of numpy or torch as Python's, at whatever depth:
    callers have them, files do not."""
    if isinstance(value, Mapping):
        return {key: texts(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [texts(one) for one in value]
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value) if isinstance(value, Path) else value


def absent(path: Path) -> str:
    """What is said of a path where there is no file."""
    return "is a folder, expected a file" if path.is_dir() else "no such file"


def read_bytes(path: Path, limit: int, where: str, raises: type[errors.EvomergeError]) -> bytes:
    """The whole of a regular file that has at most `limit` bytes."""
    try:
        if not path.is_file():
            raise raises(f"{where}: {absent(path)}")
        size = path.stat().st_size
        if size > limit:
            raise raises(f"{where}: has {size:,} bytes, at most {limit:,} are read")
        return path.read_bytes()
    except OSError as error:
        raise raises(f"{where}: can not be read: {error.strerror}") from None


def read_json(path: Path, where: str = "") -> dict[str, Any]:
    """The JSON object in a file; InputError for anything else."""
    where = where or str(path)
    data = read_bytes(path, MAX_JSON_BYTES, where, errors.InputError)
    try:
        value = parse_json(data)
    except ValueError as error:
        raise errors.InputError(f"{where}: {error}") from None
    if not isinstance(value, dict):
        raise errors.InputError(f"{where}: expected a JSON object, got {shown(value)}")
    return value


class _Loader(yaml.SafeLoader):
    """Safe YAML without anchors, of which 289 bytes can make a structure of 9^8 items.

    1:30 is a text: a long number to the base 60, as YAML 1.1 has it, takes time without end.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "anchor", None):
            line = event.start_mark.line + 1
            raise ValueError(
                f"line {line}: anchors and aliases (& and *) are not read; write it out"
            )
        if self.depth >= MAX_YAML_DEPTH:
            raise ValueError(
                f"line {event.start_mark.line + 1}: nested too deeply, at most {MAX_YAML_DEPTH} "
                "levels are read"
            )
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (LookupError, AttributeError, TypeError):  # of `!!int ''` and the like
            line, kind = node.start_mark.line + 1, node.tag.rpartition(":")[2]
            raise ValueError(f"line {line}: {shown(node.value)} is no {kind}") from None

    def construct_yaml_int(self, node: yaml.ScalarNode) -> Any:
        if ":" in node.value:
            return node.value
        return super().construct_yaml_int(node)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> Any:
        if ":" in node.value:
            return node.value
        return super().construct_yaml_float(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                line = key.start_mark.line + 1
                raise ValueError(f"line {line}: key {shown(key.value)} stands twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)

# YAML 1.1 wants a point and a sign: without this, 1e-3 would be a text.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def read_yaml(
    path: Path, where: str = "", raises: type[errors.EvomergeError] = errors.InputError
) -> dict[str, Any]:
    """The mapping in a YAML file of at most 1 MB, with text keys and no anchors."""
    where = where or str(path)
    data = read_bytes(path, MAX_YAML_BYTES, where, raises)
    try:
        value = yaml.load(data.decode("utf-8"), _Loader)
    except UnicodeDecodeError as error:
        raise raises(f"{where}: is not UTF-8 at byte {error.start}") from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise raises(f"{where}: {line}is not YAML: {error.problem}") from None
    except RecursionError:
        raise raises(f"{where}: nested too deeply") from None
    except (ValueError, yaml.YAMLError) as error:
        raise raises(f"{where}: {_plainly(error)}") from None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise raises(f"{where}: expected 'key: value' lines, got {shown(value)}")
    return value


def check(
    model: type[Model],
    data: object,
    where: str,
    raises: type[errors.EvomergeError] = errors.InputError,
) -> Model:
    """`data` as a pydantic model.

    An unknown key is a RecipeError that names the nearest one; other faults are one line each of
    a `raises`.
    """
    try:
        return model.model_validate(data)
    except pydantic.ValidationError as error:
        faults = error.errors(include_url=False)
    unknown = [fault for fault in faults if fault["type"] == "extra_forbidden"]
    for fault in unknown:
        *parents, key = fault["loc"]
        place = ": ".join([where, *([_dotted(parents)] if parents else [])])
        known = _known_keys(model, parents)
        raise errors.RecipeError(errors.unknown(place, "key", str(key), known))
    lines = []
    for fault in faults:
        ours = isinstance(fault.get("ctx", {}).get("error"), errors.EvomergeError)
        whole = ours or fault["type"] == "missing"  # what is ours names its key and what it got
        got = "" if whole else f", got {shown(fault['input'])}"
        key = _dotted(fault["loc"][:-1] if ours else fault["loc"])
        lines.append(f"{where}: {key + ': ' if key else ''}{worded(fault)}{got}")
    raise raises("\n".join(lines))


def _known_keys(model: type[pydantic.BaseModel], parents: Iterable[object]) -> list[str]:
    models = {model}
    for part in parents:
        fields = [m.model_fields[str(part)] for m in models if str(part) in m.model_fields]
        # an index, a mapping's key or a union's tag is no field: the models stay the same
        models = {m for field in fields for m in _models_in(field.annotation)} or models
    return [f.alias or name for m in models for name, f in m.model_fields.items()]


def _models_in(annotation: object) -> set[type[pydantic.BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return {annotation}
    return {m for part in typing.get_args(annotation) for m in _models_in(part)}


def _dotted(loc: Iterable[object]) -> str:
    parts = [part for part in loc if part != "[key]"]
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in parts).lstrip(".")


_WORDS = (
    (r"^Value error, ", ""),
    (r"^Input should be (an instance of )?", "expected "),
    (r"valid dictionary( or instance of \w+)?|valid mapping", "mapping ('key: value' lines)"),
    (r"valid (list|tuple)", "list"),
    (r"valid string", "text (quote what YAML reads otherwise, such as no, 1 or a date)"),
    (r"valid integer(, .*)?", "whole number"),
    (r"valid (number|boolean)(, .*)?", r"\1"),
    (r"greater than or equal to", "at least"),
    (r"less than or equal to", "at most"),
    (r"greater than", "more than"),
    (r"^\w+ should have (at least \d+ items?) after validation, not \d+", r"expected \1"),
    (r"^expected Sequence|^'str' instances .*", "expected a list"),
    (r"^String should match pattern .*", "expected letters, digits, then also . _ -"),
    (r"^String should have at least 1 character", "expected a text that is not empty"),
    (r"^Field required", "is missing"),
)


def worded(fault: Any) -> str:
    """What pydantic says is wrong, in the words of all other messages."""
    text = str(fault["msg"])
    for pattern, word in _WORDS:
        text = re.sub(pattern, word, text)
    if fault["type"] == "literal_error":
        known = re.findall("'([^']*)'", fault["ctx"]["expected"])
        near = difflib.get_close_matches(str(fault["input"]), known, n=1, cutoff=0.5)
        text += f" (did you mean '{near[0]}'?)" if near else ""
    return text[:1].lower() + text[1:]
