"""Tasks of lm-evaluation-harness against its own evaluator and its own model, item by item."""

import json
import random
import sys
import warnings
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, processors, trainers
from transformers import PreTrainedTokenizerFast

import evomerge
from evomerge import errors, harness, plugins, shelf, worker
from evomerge.files.companions import Form
from evomerge.scorers import lm_eval as scorer
from tests import families

needs_lm_eval = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval not installed")

COMMON = {"dataset_path": "json", "test_split": "test", "target_delimiter": " "}
CHOICE = {
    **COMMON, "output_type": "multiple_choice", "doc_to_text": "{{prompt}}",
    "doc_to_choice": "choices", "doc_to_target": "answer",
}  # fmt: skip
METRICS = ["acc", "acc_norm", "acc_bytes", "exact_match", "acc_mutual_info"]
TASKS = {
    "choices": CHOICE,
    "metrics": {**CHOICE, "metric_list": [{"metric": name} for name in METRICS]},
    "glued": {**CHOICE, "doc_to_text": "{{prompt}}  ", "target_delimiter": ""},
    "examples": {**CHOICE, "num_fewshot": 2, "fewshot_split": "train", "description": "Say: "},
    "inputs": {
        **CHOICE, "doc_to_text": "answer", "doc_to_target": "prompt",
        "metric_list": [{"metric": "acc"}],
    },
    "several": {**CHOICE, "doc_to_target": "{{[answer, (answer + 1) % 4]}}"},
    "named": {**CHOICE, "doc_to_target": "{{choices[answer]}}"},
    "words": {
        **COMMON, "output_type": "loglikelihood", "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{choices[0]}}", "target_delimiter": "",
    },
    "texts": {
        **COMMON, "output_type": "loglikelihood_rolling", "doc_to_text": "",
        "doc_to_target": "{{prompt}}",
    },
    "generated": {
        **COMMON, "output_type": "generate_until", "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{choices[0]}}", "repeats": 2,
        "generation_kwargs": {"until": ["j", "ab"], "max_gen_toks": 7},
        "metric_list": [{"metric": "exact_match", "ignore_case": True}],
        "filter_list": [
            {"name": "first", "filter": [{"function": "take_first"}]},
            {
                "name": "letter",
                "filter": [
                    {"function": "regex", "regex_pattern": "([a-f])"},
                    {"function": "take_first"},
                ],
            },
        ],
    },
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _quiet(tmp_path_factory):
    """lm-eval and what it imports warn of many things; data sets are kept for this module alone."""
    if find_spec("lm_eval") is None:
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import datasets
        import lm_eval  # noqa: F401

        kept = datasets.config.HF_DATASETS_CACHE
        datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
        yield
        datasets.config.HF_DATASETS_CACHE = kept


@pytest.fixture(scope="module")
def model(family):
    """The small Llama with a tokenizer that merges letters, also across the end of a prompt."""
    with worker.one_thread():
        causal, _ = worker.load(
            Form(family / "base", family / "base"), "float32", torch.device("cpu")
        )
    plain = Tokenizer(models.BPE(unk_token="<unk>"))
    special = ["<unk>", "<s>", "</s>"]
    texts = [str(question["prompt"]) for question in families.questions("merges", 60)]
    plain.train_from_iterator(
        [*texts, *"0123456789Say:\n"], trainers.BpeTrainer(vocab_size=250, special_tokens=special)
    )
    return causal, plain


def words(plain, *, first):
    """A tokenizer; `first`: with a token before every text."""
    made = Tokenizer.from_str(plain.to_str())
    if first:
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<unk>",
        model_max_length=512,
    )  # fmt: skip


def write(folder, name, **changes):
    """The YAML of a task and its data, which stand in `folder`."""
    rows = families.questions(name, 15)
    for split, part in (("train", rows[:10]), ("test", rows[10:30])):
        lines = [
            json.dumps({key: row[key] for key in ("prompt", "choices", "answer")}) for row in part
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "test")}
    keys = {"task": name, "dataset_kwargs": {"data_files": files}, **TASKS[name], **changes}
    (folder / f"{name}.yaml").write_text(json.dumps(keys))
    return folder / f"{name}.yaml"


def bank(path, **changes):
    keys = {"name": "own", "version": 1, "scorer": {"name": "lm_eval", "task": path.name}}
    (path.parent / "bank.yml").write_text(json.dumps({**keys, **changes}))
    return shelf.load(path.parent / "bank.yml")


def reference(causal, tokenizer, path):
    """What lm-eval itself says, as rows of (doc, filter, metrics, responses)."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    own = HFLM(pretrained=causal, tokenizer=tokenizer, batch_size=7, backend="causal")
    manager = TaskManager(include_defaults=False)
    with harness.seeded():
        found = lm_eval.simple_evaluate(
            model=own, tasks=[str(path)], task_manager=manager, bootstrap_iters=0
        )
    [samples] = found["samples"].values()
    assert len(samples) >= 20
    return samples


@needs_lm_eval
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("name", TASKS)
def test_metrics_and_likelihoods_are_those_of_lm_eval(model, tmp_path, name, first):
    causal, tokenizer = model[0], words(model[1], first=first)
    path = write(tmp_path, name)
    made = bank(path)
    batch = scorer.prepare(tokenizer, made.items, **made.options)
    found = scorer.score(causal, batch)
    requests = harness.loaded(made.options["task"], None).requests
    places = {json.dumps(requests[i.id][0].doc): k for k, i in enumerate(made.items)}
    compared = 0
    for row in reference(causal, tokenizer, path):
        place = places[json.dumps(row["doc"])]
        for metric in row["metrics"]:
            key, value = f"{metric},{row['filter']}", row[metric]
            if isinstance(value, int | float):
                assert found[key][place] == pytest.approx(value, abs=1e-4), key
                compared += 1
            else:
                total, count = value
                kept = scorer._metrics(batch.task, batch.requests[place])[key]
                assert kept == (pytest.approx(total, abs=1e-3), count)
                compared += 1
        own = [request.resps for request in batch.requests[place]]
        for answers, theirs in zip(own, row["resps"], strict=True):
            assert len(answers) == len(theirs)
            if isinstance(theirs[0], tuple):
                assert answers[0] == (pytest.approx(theirs[0][0], abs=1e-4), theirs[0][1])
            else:
                assert answers == pytest.approx(theirs, abs=1e-4)
    assert compared >= 20
    assert all(0 <= score <= 1 for score in found["score"])
