"""A model folder as what answers: model, tokenizer, image processor."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from evomerge import errors, modules
from evomerge.files import companions, plain
from evomerge.files.companions import Form
from evomerge.files.folder import inside
from evomerge.packages import without_bars

STATED = 10**9
"""A tokenizer that says of more tokens than this that models read them says nothing."""


@without_bars()
def load(form: Form, dtype: str, device: torch.device) -> tuple[Any, Any]:
    """The model (evaluation mode) and tokenizer of a form, without code from its folders.

    The model is of the class that its config names. Without any file of a tokenizer, that is
    None.
    """
    try:
        config = modules.config(form.base)
        text = config.get_text_config()
        if form.untied:
            config.tie_word_embeddings = text.tie_word_embeddings = False
        kind: Any = modules.architecture(config, str(form.base))
        model: Any = kind.from_pretrained(
            form.base, config=config, dtype=getattr(torch, dtype), use_safetensors=True,
            trust_remote_code=False,
        )  # fmt: skip
        if form.rows is not None:
            model.resize_token_embeddings(form.rows, mean_resizing=False)
        _take_tokens(model, form)
        tokenizer = _tokenizer(form)
        if tokenizer is not None and tokenizer.model_max_length > STATED:
            tokenizer.model_max_length = getattr(text, "max_position_embeddings", STATED)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        if "trust_remote_code" in str(error):
            reason = "it is defined by code in its folder, which is never run"
        raise errors.InputError(f"{form.base}: transformers can not load it: {reason}") from error
    return model.to(device).eval().requires_grad_(False), tokenizer


def _take_tokens(model: Any, form: Form) -> None:
    """Have texts end as in the saved model. Not before the weights are there: the base's embedding
    may have no row of that number."""
    if form.tokenizer == form.base:
        return
    for key, value in companions.token_ids(form).items():
        setattr(model.config, key, value)
    if model.can_generate():
        from transformers import GenerationConfig

        told = companions.generation(form)
        model.generation_config = (
            GenerationConfig.from_model_config(model.config)
            if told is None
            else GenerationConfig.from_dict(
                plain.read_json(inside(told, companions.GENERATION, str(told)))
            )
        )


def _tokenizer(form: Form) -> Any:
    from transformers import AutoTokenizer

    files = companions.tokenizer_files(form)
    if not files:
        return None
    if not form.tokenizer_files:
        return AutoTokenizer.from_pretrained(form.tokenizer, trust_remote_code=False)
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            Path(folder, name).parent.mkdir(exist_ok=True)
            Path(folder, name).write_bytes(data)
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def image_processor(folder: Path) -> Any:
    """What turns the pixels of items into a model's input; None where the folder has none."""
    from transformers import AutoImageProcessor

    auto: Any = AutoImageProcessor
    if not (folder / "preprocessor_config.json").is_file():
        return None
    try:
        return auto.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise errors.InputError(f"{folder}: transformers can not load it: {reason}") from error
