"""Tasks of lm-evaluation-harness: loaded, their requests built, their questions as items.

Follows lm-eval 0.4.13: requests are those that its evaluator builds with its default seeds.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import io
import json
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evomerge import errors, prompts
from evomerge.files import plain
from evomerge.files.items import Item, split_of

SEEDS = {"random": 0, "numpy": 1234, "torch": 1234, "examples": 1234}
"""Those with which lm-eval begins."""


@dataclass(frozen=True)
class Task:
    """A task of lm-eval with the requests of its questions, by the ids of our items."""

    task: Any
    items: tuple[Item, ...]
    requests: Mapping[str, Sequence[Any]]
    identity: str


@dataclass(frozen=True)
class Chat:
    """Prompts go through the template of a tokenizer, with a system turn where the task has a
    description and the template takes one; `multiturn`: solved examples are turns of their own."""

    tokenizer: Any
    multiturn: bool

    @property
    def key(self) -> str:
        return json.dumps([self.tokenizer.chat_template, self.multiturn], default=str)

    def options(self) -> dict[str, Any]:
        """What lm-eval wants to know of it."""
        prompts.require_template(self.tokenizer)
        return {
            "apply_chat_template": True, "fewshot_as_multiturn": self.multiturn,
            "chat_template": self._fill,
        }  # fmt: skip

    def _fill(self, turns: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        import jinja2

        options = {
            "tokenize": False, "add_generation_prompt": add_generation_prompt,
            "continue_final_message": not add_generation_prompt,
        }  # fmt: skip
        try:
            return str(self.tokenizer.apply_chat_template(turns, **options))
        except jinja2.TemplateError:
            turns = [turn for turn in turns if turn["role"] != "system"]
            return str(self.tokenizer.apply_chat_template(turns, **options))


def loaded(place: str, shots: int | None, chat: Chat | None = None) -> Task:
    """The task as it was loaded last, or now; requests are built once in a process."""
    key = _key(place, shots, chat)
    return _kept()[key] if key in _kept() else load(place, shots, chat=chat)


def load(
    place: str,
    shots: int | None,
    shares: Mapping[str, float] | None = None,
    *,
    chat: Chat | None = None,
) -> Task:
    """The task of a name or of a YAML file, with all its requests; `shots` None: as it says.

    Which split an item is in follows from its question and choices; questions that are equal, the
    right answer included, are asked once. Raises MachineError without lm-eval, InputError for a
    task that can not be used.
    """
    if not find_spec("lm_eval"):
        raise errors.MachineError(
            "lm-evaluation-harness is not installed: pip install 'evomerge[lm_eval]'"
        )
    try:
        with seeded(), _silent():
            task = _task(place)
            _refuse(task)
            if shots is not None or task.get_config("num_fewshot") is None:
                task.set_config("num_fewshot", shots or 0)
            task.set_fewshot_seed(SEEDS["examples"])
            task.build_all_requests(**(chat.options() if chat is not None else {}))
            found = _questions(task, shares)
    except errors.EvomergeError:
        raise
    except Exception as error:  # lm-eval, the task's own code, or what reads its data
        reason = f"{type(error).__name__}: {error}"
        raise errors.InputError(f"lm-eval can not load it: {reason}") from error
    if chat is None:  # a bank is read anew: what the same file said in a chat may be out of date
        for key in [key for key in _kept() if key[:2] == (place, shots)]:
            del _kept()[key]
    _kept()[_key(place, shots, chat)] = found
    return found


def _key(place: str, shots: int | None, chat: Chat | None) -> tuple[str, int | None, str]:
    return place, shots, "" if chat is None else chat.key


@functools.cache
def _kept() -> dict[tuple[str, int | None, str], Task]:
    return {}


@contextlib.contextmanager
def seeded() -> Iterator[None]:
    """lm-eval's seeds inside, and global generators as they were before afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(SEEDS["random"])
        np.random.seed(SEEDS["numpy"])
        torch.default_generator.manual_seed(SEEDS["torch"])
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without the bars and remarks of lm-eval and of what it imports."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _task(place: str) -> Any:
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    path = Path(place)
    if path.suffix not in plain.YAML:  # a name may have a point too
        index = TaskManager().task_index
        if place not in index:
            near = difflib.get_close_matches(place, index, n=1, cutoff=0.5)
            guess = f" Did you mean '{near[0]}'?" if near else ""
            raise errors.InputError(f"is none of lm-eval's {len(index):,} tasks.{guess}")
        if index[place].yaml_path is None:
            raise errors.InputError("is a group, of which each task is a bank of its own")
        path = index[place].yaml_path
    if not path.is_file():
        raise errors.InputError(f"{path}: {plain.absent(path)}")
    keys = load_yaml(path)
    if "group" in keys:
        raise errors.InputError("is a group, of which each task is a bank of its own")
    _beside(keys.get("dataset_kwargs") or {}, path.parent)
    [task] = TaskManager(include_defaults=False).load(keys)["tasks"].values()
    return task


def _beside(keys: dict[str, Any], folder: Path) -> None:
    """Data files of a task may stand beside its YAML; lm-eval looks in the current folder."""

    def near(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: near(one) for key, one in value.items()}
        if isinstance(value, list):
            return [near(one) for one in value]
        there = folder / str(value)
        return str(there) if not Path(str(value)).exists() and there.is_file() else value

    if "data_files" in keys:
        keys["data_files"] = near(keys["data_files"])


def _refuse(task: Any) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise errors.InputError("runs programs that a model has written, which is not done here")
    if getattr(task, "MULTIMODAL", False):
        raise errors.InputError("asks about more than texts")


def _questions(task: Any, shares: Mapping[str, float] | None) -> Task:
    asked: dict[int, list[Any]] = {}
    for request in task.instances:
        asked.setdefault(request.doc_id, []).append(request)
    items: dict[str, Item] = {}
    requests: dict[str, Sequence[Any]] = {}
    for row in asked.values():
        row.sort(key=lambda request: request.idx)
        if len({request.request_type for request in row}) > 1:
            raise errors.InputError("asks for texts and for likelihoods in one question")
        item = _item(task, row, shares)
        if item.id not in items:
            items[item.id], requests[item.id] = item, row
    if task.get_config("num_fewshot"):
        _check_examples(task, [row[0].doc for row in asked.values()])
    return Task(task, tuple(items.values()), requests, _identity(task))


def _item(task: Any, row: Sequence[Any], shares: Mapping[str, float] | None) -> Item:
    doc = row[0].doc
    target, question = task.doc_to_target(doc), task.doc_to_text(doc)
    choices = _choices(task, doc)
    if row[0].request_type != "loglikelihood" or len(row) < len(choices):
        choices = ()  # texts are asked for, of which these are the right ones
    right = question if isinstance(question, int) else target
    if isinstance(right, str) and right in choices:
        right = choices.index(right)
    if isinstance(right, bool) or not isinstance(right, int) or not 0 <= right < len(choices):
        right, choices = str(target), ()
    text = question if isinstance(question, str) and question else str(target)
    content = [text, choices or _choices(task, doc)]
    split = split_of(_digest(content), shares)
    name = _digest([*content, target])[:16]
    return Item(name, str(row[0].args[0]), choices, right, split)


def _choices(task: Any, doc: Any) -> tuple[str, ...]:
    if task.get_config("doc_to_choice") is None:
        return ()
    return tuple(map(str, task.doc_to_choice(doc)))


def _check_examples(task: Any, docs: Sequence[Any]) -> None:
    """An item of `validation` or `test` is never shown, nor one that is asked."""
    asked = {_digest(doc) for doc in docs}
    shown = getattr(getattr(task, "sampler", None), "df", ())
    if any(_digest(doc) in asked for doc in shown):
        raise errors.InputError(
            "its solved examples are among its questions; name another 'fewshot_split' in its "
            "YAML, or give the scorer 'num_fewshot: 0'"
        )


def _digest(doc: Any) -> str:
    return sha256(json.dumps(doc, sort_keys=True, default=str).encode()).hexdigest()


def _identity(task: Any) -> str:
    """What can change a score beside the questions: version and keys, wherever files stand."""
    from importlib.metadata import version

    keys = task.dump_config()
    for place in ("metadata", "dataset_path", "dataset_kwargs"):
        keys.pop(place, None)
    return json.dumps([version("lm-eval"), task.VERSION, _digest(keys)])
