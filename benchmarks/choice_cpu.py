"""Processor time of 100 items x 4 choices on zoo:tiny: the scorers `choice` and `lm_eval`, and
lm-eval's own evaluate() on a task that is loaded already, with its own model class around ours.

    pip install 'evomerge[lm_eval]' accelerate
    python benchmarks/choice_cpu.py

One thread; all take turns, lm-eval with each of several batch sizes; medians and quartiles of
time.process_time are printed. Before that, log-likelihoods and marks are compared item by item.
Prompts that end with a blank are left out: lm-eval counts it to each choice, `choice` does not.
"""

from __future__ import annotations

import contextlib
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lm_eval
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from evomerge import api, harness, likelihood, shelf
from evomerge.scorers import choice
from evomerge.scorers import lm_eval as scorer
from evomerge.threads import one_thread

ITEMS, BLOCK, REPEATS = 100, 25, 11
BATCHES = (1, 16, 32, 64)
"""Sequences that lm-eval's model is given at a time; ours is given 4 x 25."""


def task(folder: Path, asked: Any) -> Path:
    rows = [{"q": i.prompt, "choices": list(i.choices), "right": i.answer} for i in asked]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = {
        "task": "tiny", "dataset_path": "json", "test_split": "test", "target_delimiter": "",
        "dataset_kwargs": {"data_files": {"test": str(folder / "items.jsonl")}},
        "output_type": "multiple_choice", "doc_to_text": "{{q}}", "doc_to_choice": "choices",
        "doc_to_target": "right", "metric_list": [{"metric": "acc"}, {"metric": "acc_bytes"}],
    }  # fmt: skip
    (folder / "tiny.yaml").write_text(json.dumps(keys))
    bank = {"name": "b", "version": 1, "scorer": {"name": "lm_eval", "task": "tiny.yaml"}}
    (folder / "bank.yaml").write_text(json.dumps(bank))
    return folder / "tiny.yaml"


def seconds(action: Callable[[], object]) -> float:
    begun = time.process_time()
    with contextlib.redirect_stderr(io.StringIO()):
        action()
    return time.process_time() - begun


def compare(model: Any, blocks: Any, theirs: Any, asked: Any) -> float:
    """The largest difference of a log-likelihood; raises unless all marks are the same."""
    own, logs = {}, {}
    for block in blocks:
        found = choice.score(model, block)
        rows = likelihood.log_likelihoods(model, block.asked).tolist()
        for i, name in enumerate(block.asked.ids):
            own[name], logs[name] = (found["plain"][i], found["score"][i]), rows[i]
    names = {(item.prompt, item.choices): item.id for item in asked}
    worst = 0.0
    for row in theirs["samples"]["tiny"]:
        name = names[row["doc"]["q"], tuple(row["doc"]["choices"])]
        assert (row["acc"], row["acc_bytes"]) == own[name], name
        pairs = zip(logs[name], row["filtered_resps"], strict=True)
        worst = max(worst, *(abs(mine - log) for mine, (log, _) in pairs))
    return worst


def main() -> None:
    plan = api.alone("zoo:tiny/base")
    worker = api.worker_for(plan, {})
    worker.live.build(plan)
    model, tokenizer = worker.model, worker.tokenizer
    found = shelf.load("tiny_code").split("search")
    asked = [item for item in found if not item.prompt[-1].isspace()][:ITEMS]
    blocks = [choice.prepare(tokenizer, asked[i : i + BLOCK]) for i in range(0, ITEMS, BLOCK)]
    with tempfile.TemporaryDirectory() as name, one_thread(), harness.seeded():
        path = task(Path(name), asked)
        bank = shelf.load(path.with_name("bank.yaml"))
        asks = [
            scorer.prepare(tokenizer, bank.items[i : i + BLOCK], **bank.options)
            for i in range(0, ITEMS, BLOCK)
        ]
        loaded = TaskManager(include_defaults=False).load([str(path)])
        loaded["tasks"]["tiny"].set_config("num_fewshot", 0)
        models = {n: HFLM(pretrained=model, tokenizer=tokenizer, batch_size=n) for n in BATCHES}

        def evaluate(n: int, samples: bool = False) -> Any:
            return lm_eval.evaluate(models[n], loaded, bootstrap_iters=0, log_samples=samples)

        print(f"largest difference: {compare(model, blocks, evaluate(64, True), asked):.1e} nats")
        actions: dict[str, Callable[[], object]] = {
            "choice": lambda: [choice.score(model, block) for block in blocks],
            "scorer lm_eval": lambda: [scorer.score(model, block) for block in asks],
            **{f"evaluate(), batch {n}": lambda n=n: evaluate(n) for n in BATCHES},
        }
        times: dict[str, list[float]] = {key: [] for key in actions}
        for _ in range(REPEATS):
            for key, action in actions.items():
                times[key].append(seconds(action))
    best = min(statistics.median(times[f"evaluate(), batch {n}"]) for n in BATCHES)
    for key, taken in times.items():
        low, middle, high = statistics.quantiles(taken, n=4)
        print(f"{key:24} {middle:.3f} s ({low:.3f}-{high:.3f}), {middle / best:.2f} of its best")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
