"""What a model is given before it answers: an item's prompt, solved examples, a chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from evomerge import errors
from evomerge.files.items import Item


def text(tokenizer: Any, item: Item, *, chat: bool) -> str:
    """The whole prompt: the item's examples, each with its answer, then its question.

    Plain, a blank line stands between them and answers follow their prompts as they are written.
    With `chat`, prompts are a user's turns, answers the assistant's, and the assistant is next.
    Raises InputError if the model has no chat template, or one that refuses these turns.
    """
    if not chat:
        return "".join(f"{asked}{answer}\n\n" for asked, answer in item.shots) + item.prompt
    require_template(tokenizer)
    turns = [("user", item.prompt)]
    for asked, answer in reversed(item.shots):
        turns[:0] = [("user", asked), ("assistant", answer)]
    messages = [{"role": role, "content": content} for role, content in turns]
    try:
        return str(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        )
    except Exception as error:  # a template is a program of its own
        reason = f"{type(error).__name__}: {error}"
        raise errors.InputError(f"the chat template can not be filled: {reason}") from error


def require_template(tokenizer: Any) -> None:
    if not getattr(tokenizer, "chat_template", None):
        raise errors.InputError(
            "the tokenizer has no chat template, which the scorer's option 'chat' asks for"
        )


def tokens(tokenizer: Any, prompt: str, *, chat: bool) -> list[int]:
    """Token ids, that which a tokenizer ends texts with aside: this one goes on.

    A chat template has written the special tokens already, as has who begins a prompt with that
    which a tokenizer begins texts with.
    """
    first = tokenizer.bos_token
    written = chat or bool(first and prompt.startswith(first))
    # transformers would warn of more than a model reads, which is refused in any case
    given = {"add_special_tokens": not written, "verbose": False}
    found: list[int] = tokenizer(prompt, **given)["input_ids"]
    end = [tokenizer.eos_token_id]
    added = not chat and found[-1:] == end and tokenizer("a")["input_ids"][-1:] == end
    return found[:-1] if added else found


def start(tokenizer: Any) -> list[int]:
    """What stands before a text that has nothing before it."""
    first = tokenizer.bos_token_id
    return [tokenizer.eos_token_id if first is None else first]


def check_length(tokenizer: Any, item: Item, length: int, following: int = 0) -> None:
    """Raise InputError for an item with more tokens than the tokenizer says that models read.

    Up to `following` more come after them, of which all but the last are read.
    """
    most = tokenizer.model_max_length
    if length + max(following - 1, 0) > most:
        more = f" and gets up to {following} more" if following else ""
        raise errors.InputError(f"{item.named}: has {length} tokens{more}, the model reads {most}")


def n_bytes(item: Item) -> int:
    """Bytes of all that is shown of an item, the longest answer included."""
    answers = [*item.choices, *item.accepted, ""]
    shown = [item.prompt, max(answers, key=len), *(part for shot in item.shots for part in shot)]
    return sum(len(text.encode()) for text in shown)


def left_padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (I, P) that end together, and their mask (I, P)."""
    width = max(len(row) for row in rows)
    filled = [[pad] * (width - len(row)) + list(row) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(filled), torch.tensor(mask)


def positions(mask: torch.Tensor) -> torch.Tensor:
    """Of the tokens (I, P) of rows that end together: the first that counts is at 0."""
    return (mask.cumsum(1) - 1).clamp(min=0)


def padding(tokenizer: Any) -> int:
    """The token that fills rows up; masked, so that any will do."""
    return 0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
