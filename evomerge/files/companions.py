"""The files of a model folder beside its weights: config, tokenizer, templates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from evomerge import errors
from evomerge.files import plain
from evomerge.files.folder import inside

TOKENIZER = (
    *("tokenizer*.json", "tokenizer.model*", "*.model", "vocab*", "merges.txt"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template.*"),
    *("additional_chat_templates/*.jinja", "*.codes", "*.spm", "prophetnet.tokenizer"),
    *("target_vocab.json", "entity_vocab.json", "emoji.json", "word_*.json", "dict.txt"),
    *("normalizer.json", "byte_maps.json"),
)
"""Whatever a tokenizer of transformers is read from (its `vocab_files_names`)."""
OTHERS = ("*processor_config.json",)
PLACES = ("name_or_path", "special_tokens_map_file", "tokenizer_file")
GENERATION = "generation_config.json"


@dataclass(frozen=True)
class Form:
    """Where a model folder's small files come from, and how it differs from `base`.

    `tokenizer` is the folder of the tokenizer, `tokenizer_files` those of its files that are new.
    `rows` of embedding and head (None: as in the base); `untied`: the head is no longer tied.
    """

    base: Path
    tokenizer: Path
    tokenizer_files: Mapping[str, bytes] = field(default_factory=dict)
    rows: int | None = None
    untied: bool = False


def companions(form: Form, dtype: torch.dtype) -> dict[str, bytes]:
    """Name -> content; the config says what the form and the dtype are."""
    config = plain.read_json(inside(form.base, "config.json", str(form.base)))
    files = {"config.json": json_bytes(_adjusted(_with_dtype(config, dtype), form))}
    files |= _copied(form.base, OTHERS)
    told = generation(form)
    files |= _copied(told, (GENERATION,)) if told else {}
    return files | tokenizer_files(form)


def generation(form: Form) -> Path | None:
    """The folder whose file says what ends a text, and how else texts are generated."""
    folders = (form.tokenizer, form.base)
    return next((folder for folder in folders if (folder / GENERATION).exists()), None)


def token_ids(form: Form) -> dict[str, Any]:
    """Numbers of special tokens that the config has from that of the tokenizer's folder."""
    if form.tokenizer == form.base or not (form.tokenizer / "config.json").exists():
        return {}
    config, theirs = (
        plain.read_json(inside(folder, "config.json", str(folder)))
        for folder in (form.base, form.tokenizer)
    )
    keys = [key for key in (*config, *theirs) if key.endswith("_token_id")]
    return {key: theirs.get(key, config.get(key)) for key in keys}


def tokenizer_files(form: Form) -> dict[str, bytes]:
    """Name -> content of the tokenizer's files."""
    return {**_copied(form.tokenizer, TOKENIZER), **form.tokenizer_files}


def json_bytes(value: object) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def _copied(source: Path, patterns: tuple[str, ...]) -> dict[str, bytes]:
    files = {}
    for path in sorted({path for pattern in patterns for path in source.glob(pattern)}):
        if path.is_file():
            name = path.relative_to(source).as_posix()
            real = inside(source, name, str(source))
            limit = plain.MAX_JSON_BYTES
            files[name] = plain.read_bytes(real, limit, str(path), errors.InputError)
            if name == "tokenizer_config.json":
                files[name] = _without_places(files[name], str(path))
    return files


def _without_places(data: bytes, where: str) -> bytes:
    """A tokenizer's config without what older versions wrote of the machine it was made on."""
    if not any(b'"%s"' % key.encode() in data for key in PLACES):
        return data
    try:
        config = plain.parse_json(data)
    except ValueError as error:
        raise errors.InputError(f"{where}: {error}") from None
    return json_bytes({key: value for key, value in config.items() if key not in PLACES})


def _adjusted(config: dict[str, Any], form: Form) -> dict[str, Any]:
    """The config with the form's vocabulary, head and numbers of special tokens."""
    parts = [part for part in (config, config.get("text_config")) if isinstance(part, dict)]
    if form.untied:
        for part in parts:
            part["tie_word_embeddings"] = False
    if form.rows is not None:
        for part in [part for part in parts if "vocab_size" in part] or parts[:1]:
            part["vocab_size"] = form.rows
    return config | token_ids(form)


def _with_dtype(config: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The config as transformers 5 writes it: `dtype`, not `torch_dtype`, also in parts."""
    result = _renamed(config, str(dtype).removeprefix("torch."))
    result["dtype"] = str(dtype).removeprefix("torch.")
    return result


def _renamed(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in config.items():
        if key in ("dtype", "torch_dtype") and isinstance(value, str | dict):
            result["dtype"] = dtype
        elif key.endswith("_config") and key != "quantization_config" and isinstance(value, dict):
            result[key] = _renamed(value, dtype)
        elif key not in ("torch_dtype", "_name_or_path"):
            result[key] = value
    return result
