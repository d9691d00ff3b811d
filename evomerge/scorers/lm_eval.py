"""A task of lm-evaluation-harness, asked and marked as it does, answered by the live model.

Follows lm-eval 0.4.13: its Task builds the requests and turns the answers into metrics, its rules
make tokens of them. Its evaluator, its models and its caches are not used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from evomerge import errors, generation, harness, likelihood, prompts
from evomerge.files import plain
from evomerge.files.bank import Origin
from evomerge.files.items import SPLITS, Item
from evomerge.files.sheet import Benchmark, Sheet

NEEDS_CAUSAL = True

FILES = ("json", "csv", "parquet", "text", "arrow", "pandas")
"""What the package datasets calls files of any origin, by their form."""
PERPLEXITIES = ("perplexity", "weighted_perplexity", "bits_per_byte")
"""Aggregations of log-likelihoods, or of pairs of one and a number of words or bytes."""


@dataclass(frozen=True)
class Batch:
    """Requests of I items, one after the other, and the tokens in which they are asked.

    `places` say where a request stands among the likelihoods; there are none for generated texts.
    `rights` are the number of choices and the right one, where one of them is.
    """

    task: Any
    ids: tuple[str, ...]
    requests: tuple[tuple[Any, ...], ...]
    asked: likelihood.Batch | generation.Batch
    places: tuple[tuple[int, int], ...]
    rights: tuple[tuple[int, int], ...]
    metric: str
    filter: str


def benchmark(keys: Sheet) -> Benchmark | None:
    """A task by name is a public one: whatever is asked of it is in what others report."""
    task = str(keys.options.get("task", ""))
    return None if Path(task).suffix in plain.YAML else _public(task)


def origin(keys: Sheet, path: Path) -> Origin:
    """The task's questions as items; `path` is the bank's, beside which a task's YAML may stand.

    Raises InputError for a task that can not be used, MachineError where lm-eval is not installed.
    """
    given = str(keys.options["task"])
    near = path.parent / given
    place = str(near.resolve()) if near.suffix in plain.YAML and near.is_file() else given
    shares = keys.split.model_dump() if keys.split else None
    with errors.at(f"{path}: task '{given}'"):
        found = harness.load(place, keys.options.get("num_fewshot"), shares)
    options = {**keys.options, "task": place}
    public = benchmark(keys) or _benchmark(found.task.config)
    return Origin(found.items, options, found.identity, public)


def _benchmark(config: Any) -> Benchmark | None:
    """That of a task's YAML: a data set on a hub is what others report, whoever wrote the YAML."""
    files = json.dumps((config.dataset_kwargs or {}).get("data_files"), default=str)
    name = str(config.dataset_path or "")
    own = name in FILES and "://" not in files
    return None if own or not name or Path(name).is_dir() else _public(name)


def _public(name: str) -> Benchmark:
    splits: Any = list(SPLITS)
    return Benchmark(name=name, public_test=splits)


def signals(items: Sequence[Item]) -> tuple[str, ...]:
    """What an objective may name of the answers to these items, beside `score`."""
    return ("probability",) if all(item.choices for item in items) else ()


def prepare(
    tokenizer: Any,
    items: Sequence[Item],
    *,
    task: Annotated[str, Field(min_length=1)],
    metric: str | None = None,
    filter: str | None = None,
    num_fewshot: Annotated[int, Field(ge=0)] | None = None,
    chat: bool = False,
    fewshot_as_multiturn: bool = True,
) -> Batch:
    """Tokenise a block of items of `task`, the name of one or the file of its YAML.

    `metric` and `filter` are the task's own, by default its first ones; `num_fewshot` replaces
    the number of solved examples. With `chat`, prompts go through the model's chat template, as
    with lm-eval's --apply_chat_template, solved examples as turns or all in one. Raises
    RecipeError for a metric of which more is not better.
    """
    talk = harness.Chat(tokenizer, fewshot_as_multiturn) if chat else None
    loaded = harness.loaded(task, num_fewshot, talk)
    for item in items:
        if item.id not in loaded.requests:
            raise errors.InputError(
                f"item {item.id} is no question of the task '{task}': has its data changed?"
            )
    requests = tuple(tuple(loaded.requests[item.id]) for item in items)
    asked, places = _asked(tokenizer, items, requests)
    rights = tuple((len(item.choices), int(item.answer)) for item in items if item.choices)
    return Batch(
        loaded.task, tuple(item.id for item in items), requests, asked, places,
        rights,
        _metric(loaded.task, metric), _filter(loaded.task, filter),
    )  # fmt: skip


def score(model: Any, batch: Batch) -> dict[str, list[float]]:
    """Per item: `score`, and every metric that is a number, as `metric,filter`.

    A metric that averages log-likelihoods scores the mean probability of a word, byte or text.
    Of choices, also `probability` of the right one. Raises EvaluationError for a log-likelihood
    that is not finite, and for a metric that is not between 0 and 1.
    """
    answers = _answers(model, batch)
    flat = [request for requests in batch.requests for request in requests]
    for request, answer in zip(flat, answers, strict=True):
        request.resps, request.filtered_resps = [answer] * (request.repeats or 1), {}
    with harness.seeded():
        batch.task._instances = flat
        batch.task.apply_filters()
        found = [_metrics(batch.task, requests) for requests in batch.requests]
    scores = [_score(batch, *pair) for pair in zip(batch.ids, found, strict=True)]
    return {"score": scores, **_probability(batch, answers), **_numbers(found)}


def _score(batch: Batch, name: str, metrics: Mapping[str, Any]) -> float:
    key = f"{batch.metric},{batch.filter}"
    value = metrics.get(key)
    if batch.task.aggregation()[batch.metric].__name__ in PERPLEXITIES:
        total, n = value if isinstance(value, tuple) else (value, 1)
        value = math.exp(total / n)
    if isinstance(value, bool | int | float | np.number) and 0 <= value <= 1:
        return float(value)
    raise errors.EvaluationError(
        f"item {name}: metric '{key}' of the task is {value!r}, expected a number from 0 to 1"
    )


def _numbers(found: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    kind = bool | int | float | np.number
    keys = [key for key in found[0] if all(isinstance(row.get(key), kind) for row in found)]
    return {key: [float(row[key]) for row in found] for key in keys}


def _probability(batch: Batch, answers: Sequence[Any]) -> dict[str, list[float]]:
    if len(batch.rights) < len(batch.ids):
        return {}
    found, begin = [], 0
    for requests, (n, right) in zip(batch.requests, batch.rights, strict=True):
        logs = torch.tensor([answer[0] for answer in answers[begin : begin + n]])
        found.append(logs.softmax(0)[right].item())
        begin += len(requests)
    return {"probability": found}


def _metrics(task: Any, requests: Sequence[Any]) -> dict[str, Any]:
    """What lm-eval says of one question, for each of the task's filters."""
    names = list(requests[0].filtered_resps)
    found = {
        name: task.process_results(requests[0].doc, [r.filtered_resps[name] for r in requests])
        for name in names
    }
    return {f"{metric},{name}": v for name in names for metric, v in found[name].items()}


def _answers(model: Any, batch: Batch) -> list[Any]:
    """Answers to all requests in the form of lm-eval's models."""
    if isinstance(batch.asked, generation.Batch):
        return list(generation.generate(model, batch.asked)[0])
    logs, greedy = likelihood.greedy(model, batch.asked)
    found = [(logs[place].item(), bool(greedy[place])) for place in batch.places]
    rolling = batch.requests[0][0].request_type == "loglikelihood_rolling"
    return [log for log, _ in found] if rolling else found


def _asked(
    tokenizer: Any, items: Sequence[Item], requests: Sequence[Sequence[Any]]
) -> tuple[likelihood.Batch | generation.Batch, tuple[tuple[int, int], ...]]:
    if requests[0][0].request_type == "generate_until":
        options = _generation(tokenizer, requests[0][0].args[1])
        tokens = [prompts.tokens(tokenizer, str(row[0].args[0]), chat=False) for row in requests]
        for item, prompt in zip(items, tokens, strict=True):
            prompts.check_length(tokenizer, item, len(prompt), options["max_new_tokens"])
        return generation.assemble(tokenizer, items, tokens, lambda *_: False, options), ()
    lm = pairs(tokenizer)
    ids: list[str] = []
    rows: list[likelihood.Row] = []
    places = []
    for item, asked_of in zip(items, requests, strict=True):
        here: dict[tuple[int, ...], int] = {}
        kind = asked_of[0].request_type
        for context, continuation in getattr(lm, kind)(asked_of):
            prompts.check_length(tokenizer, item, len(context) + len(continuation) - 1)
            row = here.setdefault(tuple(context), len(rows))
            if row == len(rows):
                ids.append(item.id)
                rows.append((list(context), []))
            places.append((row, len(rows[row][1])))
            rows[row][1].append(list(continuation))
    n_bytes = [[1] * len(tails) for _, tails in rows]
    return likelihood.assemble(tokenizer, ids, rows, n_bytes), tuple(places)


def pairs(tokenizer: Any) -> Any:
    """lm-eval's own tokens of its requests, as (context, continuation); it is asked nothing."""
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.utils import has_bos_prefix

    class Pairs(TemplateLM):  # type: ignore[misc]
        @property
        def eot_token_id(self) -> int:
            return int(tokenizer.eos_token_id)

        @property
        def prefix_token_id(self) -> int:
            return prompts.start(tokenizer)[0]

        def tok_encode(
            self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
        ) -> list[int]:
            if add_special_tokens is None and has_bos_prefix(
                string, tokenizer.decode(self.prefix_token_id)
            ):
                add_special_tokens = False
            given = (
                {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
            )
            return list(tokenizer.encode(string, **given))

        def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
            return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

        def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> Any:
            return [tokens for _, *tokens in requests]

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> Any:
            return [([self.prefix_token_id], self.tok_encode(*r.args)) for r in requests]

        def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
            raise NotImplementedError("texts are generated from strings")

    return Pairs()


def _generation(tokenizer: Any, given: Mapping[str, Any]) -> generation.Options:
    from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

    chosen: Any = normalize_gen_kwargs(dict(given))
    if chosen["do_sample"] or chosen.get("num_beams", 1) != 1:
        raise errors.InputError("the task samples its texts, which only greedy ones are made of")
    end = tokenizer.decode(tokenizer.eos_token_id, skip_special_tokens=False)
    stop = [text for text in handle_stop_sequences(list(chosen["until"]), eos=end) if text]
    return {"max_new_tokens": chosen["max_gen_toks"], "stop": stop, "chat": False}


def _metric(task: Any, name: str | None) -> str:
    known = list(task.aggregation())
    name = known[0] if name is None else name
    if name not in known:
        raise errors.RecipeError(errors.unknown(f"task '{task.task_name}'", "metric", name, known))
    better = task.higher_is_better().get(name, True)
    if not better and task.aggregation()[name].__name__ not in PERPLEXITIES:
        raise errors.RecipeError(f"task '{task.task_name}': of '{name}' less is better")
    return name


def _filter(task: Any, name: str | None) -> str:
    known = [part.name for part in task._filters]
    name = known[0] if name is None else name
    if name not in known:
        raise errors.RecipeError(errors.unknown(f"task '{task.task_name}'", "filter", name, known))
    return name
