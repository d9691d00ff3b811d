"""Tasks of lm-evaluation-harness against its own evaluator and its own model, item by item."""

import json
import random
import warnings
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, processors, trainers
from transformers import PreTrainedTokenizerFast

import evomerge
from evomerge import errors, harness, loading, shelf, threads
from evomerge.files.companions import Form
from evomerge.scorers import lm_eval as scorer
from evomerge.zoo import tiny
from tests import bigrams, families, ledgers

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
    "spelled": {
        **CHOICE, "output_type": "generate_until", "metric_list": [{"metric": "exact_match"}],
        "generation_kwargs": {"until": ["j"], "max_gen_toks": 3},
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
    """lm-eval and what it imports warn of many things; its data sets are kept by this module."""
    if find_spec("lm_eval") is None:
        yield
        return
    with warnings.catch_warnings(), threads.one_thread():
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
    with threads.one_thread():
        causal, _ = loading.load(
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


def yaml_of(keys):
    """Keys as lines, to which others may be added that are no JSON."""
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in keys.items())


def bank(path, **changes):
    keys = {"name": "own", "version": 1, "scorer": {"name": "lm_eval", "task": path.name}}
    (path.parent / "bank.yml").write_text(json.dumps({**keys, **changes}))
    return shelf.load(path.parent / "bank.yml")


def reference(causal, tokenizer, path, least=20, **options):
    """What lm-eval itself says, as rows of (doc, filter, metrics, responses)."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    own = HFLM(pretrained=causal, tokenizer=tokenizer, batch_size=7, backend="causal")
    manager = TaskManager(include_defaults=False)
    with harness.seeded():
        found = lm_eval.simple_evaluate(
            model=own, tasks=[str(path)], task_manager=manager, bootstrap_iters=0, **options
        )
    [samples] = found["samples"].values()
    assert len(samples) >= least
    return samples


FAST = ("choices", "words", "spelled")


@needs_lm_eval
@pytest.mark.parametrize(
    ("name", "first"),
    [
        pytest.param(name, first, marks=() if name in FAST and not first else pytest.mark.slow)
        for name in TASKS
        for first in (False, True)
    ],
)
def test_metrics_and_likelihoods_are_those_of_lm_eval(model, tmp_path, name, first):
    compare(model[0], words(model[1], first=first), write(tmp_path, name))


def compare(causal, tokenizer, path, keys=None, **options):
    """Every metric and every answer of a bank's items, ours and lm-eval's own."""
    made = bank(path, scorer={"name": "lm_eval", "task": path.name, **(keys or {})})
    batch = scorer.prepare(tokenizer, made.items, **made.options)
    found = scorer.score(causal, batch)
    requests = dict(zip(batch.ids, batch.requests, strict=True))
    places = {json.dumps(requests[i.id][0].doc): k for k, i in enumerate(made.items)}
    compared = 0
    for row in reference(causal, tokenizer, path, **options):
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
    return batch


TALK = (
    "{% for m in messages %}{% if m.role == 'assistant' %}a{% elif m.role == 'user' %}b"
    "{% else %}c{% endif %}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}a: {% endif %}"
)
TEMPLATES = {
    "plain": TALK,
    "begins": "{{ bos_token }}" + TALK,
    "no system": "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    + TALK,
}


@needs_lm_eval
@pytest.mark.parametrize(
    ("name", "template", "multiturn"),
    [
        ("examples", "begins", True),
        pytest.param("generated", "begins", True, marks=pytest.mark.slow),
        pytest.param("examples", "no system", False, marks=pytest.mark.slow),
        pytest.param("choices", "plain", True, marks=pytest.mark.slow),
        pytest.param("examples", "plain", False, marks=pytest.mark.slow),
        pytest.param("examples", "no system", True, marks=pytest.mark.slow),
        pytest.param("generated", "plain", False, marks=pytest.mark.slow),
        pytest.param("inputs", "begins", True, marks=pytest.mark.slow),
        pytest.param("several", "plain", True, marks=pytest.mark.slow),
        pytest.param("words", "begins", True, marks=pytest.mark.slow),
        pytest.param("metrics", "begins", True, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("first", [pytest.param(True, marks=pytest.mark.slow), False])
def test_chat_templates_are_filled_as_lm_eval_does(
    model, tmp_path, name, template, multiturn, first
):
    """With and without a tokenizer that itself begins every text."""
    tokenizer = words(model[1], first=first)
    tokenizer.chat_template = TEMPLATES[template]
    talk = {"apply_chat_template": True, "fewshot_as_multiturn": multiturn}
    keys = {"chat": True, "fewshot_as_multiturn": multiturn}
    batch = compare(model[0], tokenizer, write(tmp_path, name), keys, **talk)
    context = batch.requests[0][0].args[0]
    assert context.endswith("a: ") and ("c: Say" in context) == (
        name == "examples" and template != "no system"
    )
    turns = 3 if name == "examples" and multiturn else 1
    assert context.count("\nb: ") + context.replace("<s>", "").startswith("b: ") == turns


@needs_lm_eval
def test_a_talk_needs_a_template_and_is_another_bank(model, tmp_path):
    path = write(tmp_path, "choices")
    silent, talk = (
        bank(path),
        bank(path, scorer={"name": "lm_eval", "task": path.name, "chat": True}),
    )
    assert silent.sha256 != talk.sha256 and silent.items == talk.items
    tokenizer = words(model[1], first=False)
    with pytest.raises(errors.InputError, match="has no chat template"):
        scorer.prepare(tokenizer, talk.items, **talk.options)
    scores = []
    for template in (TALK, TALK.replace("a: ", "j: "), TALK):
        tokenizer.chat_template = template
        batch = scorer.prepare(tokenizer, talk.items, **talk.options)
        scores.append(scorer.score(model[0], batch)["probability"])
    assert scores[0] == scores[2] != scores[1], "requests are kept apart by template"


@needs_lm_eval
@pytest.mark.parametrize("chat", [False, True])
def test_a_task_that_was_edited_is_asked_as_it_is_now(model, tmp_path, chat):
    tokenizer = words(model[1], first=False)
    tokenizer.chat_template = TALK
    for said in ("Say: ", "Think: "):
        path = write(tmp_path, "choices", description=said)
        made = bank(path, scorer={"name": "lm_eval", "task": path.name, "chat": chat})
        batch = scorer.prepare(tokenizer, made.items, **made.options)
        contexts = [request.args[0] for row in batch.requests for request in row]
        begin = f"c: {said}" if chat else said
        assert all(context.startswith(begin) for context in contexts)


@pytest.mark.slow
@needs_lm_eval
def test_what_the_model_would_have_said_itself(tmp_path):
    """Of a model that must go on with the alphabet; lm-eval's own model sees the same."""
    rows = [("x a", "bcd", 1), ("x a", "bce", 0), ("b", "c", 1), ("b", "d", 0), ("ab", "cde", 1)]
    path = write(tmp_path, "words", metric_list=[{"metric": "acc"}])
    lines = [json.dumps({"prompt": p, "choices": [c], "answer": 0}) for p, c, _ in rows]
    (tmp_path / "test.jsonl").write_text("\n".join(lines) + "\n")
    causal, tokenizer = bigrams.model("abcdefg"), tiny.tokenizer()
    made = bank(path)
    batch = scorer.prepare(tokenizer, made.items, **made.options)
    found = dict(zip(batch.ids, scorer.score(causal, batch)["score"], strict=True))
    requests = harness.loaded(made.options["task"], None).requests
    names = {tuple(row[0].args): name for name, row in requests.items()}
    assert [found[names[p, c]] for p, c, _ in rows] == [right for *_, right in rows]
    for row in reference(causal, tokenizer, path, least=5):
        assert found[names[tuple(row["arguments"][0])]] == row["acc"]


CODE = """
import random
def choose(docs):
    random.seed(5)
    return docs.shuffle(seed=3).select(range(12))
def results(doc, answers):
    logs = [log for log, _ in answers]
    return {"acc": float(logs.index(max(logs)) == doc["answer"]), "spread": max(logs) - min(logs)}
"""


@pytest.mark.slow
@needs_lm_eval
def test_code_beside_a_task_and_the_seeds_it_needs(model, tmp_path):
    """Functions of the YAML work, and whatever they do to global generators stays with them."""
    path = write(tmp_path, "choices", metric_list=[{"metric": "acc"}])
    (tmp_path / "own.py").write_text(CODE)
    text = "process_docs: !function own.choose\nprocess_results: !function own.results\n"
    path.write_text(text + yaml_of(json.loads(path.read_text())))
    tokenizer = words(model[1], first=False)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    made, again = bank(path), bank(path)
    batch = scorer.prepare(tokenizer, made.items, **made.options)
    found = scorer.score(model[0], batch)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert [i.id for i in made.items] == [i.id for i in again.items] and len(made.items) == 12
    rows = {json.dumps(row["doc"]): row for row in reference(model[0], tokenizer, path, least=12)}
    assert len(rows) == 12
    requests = harness.loaded(made.options["task"], None).requests
    for place, item in enumerate(made.items):
        row = rows[json.dumps(requests[item.id][0].doc)]
        assert found["acc,none"][place] == row["acc"]
        assert found["spread,none"][place] == pytest.approx(row["spread"], abs=1e-4)


MIXED = """
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
class Mixed(ConfigurableTask):
    def __init__(self, config):
        super().__init__(config={key: config[key] for key in config if key != "class"})
    def construct_requests(self, doc, ctx, **kwargs):
        given = {"doc": doc, "doc_id": kwargs["metadata"][1], "metadata": kwargs["metadata"]}
        return [
            Instance(request_type="generate_until", arguments=(ctx, {}), idx=0, **given),
            Instance(request_type="loglikelihood", arguments=(ctx, " none"), idx=1, **given),
        ]
"""


@needs_lm_eval
def test_a_question_of_texts_and_likelihoods_is_refused(tmp_path):
    path = write(tmp_path, "choices")
    (tmp_path / "own.py").write_text(MIXED)
    path.write_text(f"class: !function own.Mixed\n{yaml_of(json.loads(path.read_text()))}")
    with pytest.raises(errors.InputError, match="asks for texts and for likelihoods in one"):
        bank(path)


@needs_lm_eval
def test_a_bank_is_the_same_wherever_it_stands(tmp_path):
    """Items, splits and sha256 follow from content; data files may be named beside the YAML."""
    relative = {"data_files": {"train": "train.jsonl", "test": "test.jsonl"}}
    made = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        made.append(bank(write(tmp_path / folder, "choices", dataset_kwargs=relative)))
    assert made[0].sha256 == made[1].sha256 and made[0].items == made[1].items
    assert {item.split for item in made[0].items} == {"search", "validation", "test"}
    changed = [
        write(tmp_path / "two", "choices", target_delimiter=": "),
        write(tmp_path / "two", "metrics", task="choices"),
    ]
    assert len({made[0].sha256, *(bank(path).sha256 for path in changed)}) == 3
    rows = (tmp_path / "one" / "test.jsonl").read_text().splitlines()
    (tmp_path / "one" / "test.jsonl").write_text("\n".join([*rows, rows[3]]))
    twice = bank(tmp_path / "one" / "choices.yaml")
    assert twice.items == made[0].items, "equal questions are asked once"
    shares = bank(tmp_path / "one" / "choices.yaml", split={"search": 1})
    assert {item.split for item in shares.items} == {"search"}


@needs_lm_eval
@pytest.mark.parametrize(
    ("changes", "options", "says"),
    [
        ({"unsafe_code": True}, {}, "runs programs that a model has written"),
        ({"group": "several", "task": ["choices"]}, {}, "is a group"),
        ({"num_fewshot": 1, "fewshot_split": "test"}, {}, "'num_fewshot: 0'"),
        ({"test_split": "nothing"}, {}, "lm-eval can not load it: KeyError"),
        ({}, {"task": "absent.yaml"}, "absent.yaml: no such file"),
        pytest.param(  # lm-eval reads all of its tasks
            {}, {"task": "countdown_0.5k"}, "is none of lm-eval's", marks=pytest.mark.slow
        ),
    ],
)
def test_tasks_that_can_not_be_used(tmp_path, changes, options, says):
    path = write(tmp_path, "choices", **changes)
    with pytest.raises(errors.InputError) as caught:
        bank(path, scorer={"name": "lm_eval", "task": path.name, **options})
    assert says in str(caught.value) and str(tmp_path / "bank.yml") in str(caught.value)
    if "num_fewshot" in changes:
        bank(path, scorer={"name": "lm_eval", "task": path.name, "num_fewshot": 0})


@needs_lm_eval
@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("choices", {"metric": "ac"}, "unknown metric 'ac'. Did you mean 'acc'"),
        ("generated", {"filter": "leter"}, "unknown filter 'leter'. Did you mean 'letter'"),
        ("brier", {"metric": "brier_score"}, "of 'brier_score' less is better"),
        ("sampled", {}, "the task samples its texts"),
    ],
)
def test_options_that_a_task_does_not_have(model, tmp_path, monkeypatch, name, options, says):
    monkeypatch.setitem(TASKS, "brier", {**CHOICE, "metric_list": [{"metric": "brier_score"}]})
    sampled = {"generation_kwargs": {"until": ["j"], "do_sample": True, "temperature": 1.0}}
    monkeypatch.setitem(TASKS, "sampled", {**TASKS["generated"], **sampled})
    made = bank(write(tmp_path, name))
    with pytest.raises(errors.EvomergeError, match=says):
        scorer.prepare(words(model[1], first=False), made.items, **made.options, **options)


@needs_lm_eval
def test_what_can_not_be_scored(model, tmp_path, family):
    made = bank(write(tmp_path, "choices"))
    tokenizer = words(model[1], first=False)
    asked = scorer.prepare(tokenizer, made.items[:3], **made.options)
    broken, _ = loading.load(
        Form(family / "base", family / "base"), "float32", torch.device("cpu")
    )
    broken.model.norm.weight.fill_(float("nan"))
    with pytest.raises(errors.EvaluationError, match=made.items[0].id):
        scorer.score(broken, asked)
    batch = scorer.prepare(tokenizer, made.items[:3], **made.options, metric="acc_norm")
    batch.task.process_results = lambda doc, answers: {"acc": 0.5, "acc_norm": 34.1}
    with pytest.raises(errors.EvaluationError, match=r"'acc_norm,none' of the task is 34\.1"):
        scorer.score(model[0], batch)
    other = bank(write(tmp_path, "words"))
    with pytest.raises(errors.InputError, match="is no question of the task"):
        scorer.prepare(tokenizer, other.items, **made.options)
    tokenizer.model_max_length = 4
    with pytest.raises(errors.InputError, match=r"has \d+ tokens, the model reads 4"):
        scorer.prepare(tokenizer, made.items, **made.options)
    texts = bank(write(tmp_path, "generated"))
    tokenizer.model_max_length = 8
    with pytest.raises(errors.InputError, match="gets up to 7 more, the model reads 8"):
        scorer.prepare(tokenizer, texts.items, **texts.options)


@needs_lm_eval
def test_a_search_on_a_task(family, tmp_path):
    """Beside a bank of our own, whose scores must be what they are without it."""
    path = write(tmp_path, "choices")
    bank(path)
    objectives = {"one": str(family / "one.jsonl"), "own": str(tmp_path / "bank.yml")}
    changes = {
        "objectives": objectives,
        "budget": {"candidates": 2},
        "ask": 2,
        "shortlist": 1,
        "strategy": "sobol",
    }
    evomerge.search(families.recipe(family, **changes), tmp_path / "run")
    content = ledgers.content(tmp_path / "run")
    assert not content["failures"]
    rows = [row for row in content["answers"] if row[1] == "own"]
    assert {row[3] for row in rows} == {"search", "validation", "test"}
    assert all(score == json.loads(extra)["acc,none"] for *_, score, extra in rows)
    assert all(0 < json.loads(extra)["probability"] < 1 for *_, extra in rows)


@needs_lm_eval
def test_a_task_has_a_probability_where_it_has_choices(tmp_path):
    for name in ("choices", "generated", "spelled"):
        made = bank(write(tmp_path, name))
        if name == "choices":
            assert shelf.seen(made, "probability") is made
            continue
        with pytest.raises(errors.RecipeError, match="no 'probability'; name what they have: sc"):
            shelf.seen(made, "probability")


@pytest.mark.parametrize("task", ["arc_easy", "longproc_countdown_0.5k"])
def test_a_task_by_name_is_a_public_benchmark(family, tmp_path, task):
    keys = {"name": "arc", "version": 1, "scorer": {"name": "lm_eval", "task": task}}
    (tmp_path / "arc.yaml").write_text(json.dumps(keys))
    recipe = families.recipe(family, objectives={"arc": str(tmp_path / "arc.yaml")})
    with pytest.raises(errors.RecipeError, match=rf"public test set of {task} \(search, valid"):
        evomerge.search(recipe, tmp_path / "run")


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"source": "x.jsonl"}, "brings its items with it"),
        ({"shots": 2}, "brings its items with it"),
        ({"scorer": "lm_eval"}, "option 'task' is missing"),
        ({"scorer": {"name": "lm_eval", "task": "a", "metrc": "b"}}, "Did you mean 'metric'"),
        ({"scorer": {"name": "lm_eval", "task": "a", "num_fewshot": -1}}, "at least 0"),
    ],
)
def test_banks_of_a_task_that_can_not_be(tmp_path, keys, says):
    whole = {"name": "own", "version": 1, "scorer": {"name": "lm_eval", "task": "a.yaml"}, **keys}
    (tmp_path / "bank.yaml").write_text(json.dumps(whole))
    with pytest.raises(errors.RecipeError, match=says):
        shelf.load(tmp_path / "bank.yaml")


def test_without_lm_eval_its_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    with pytest.raises(errors.MachineError, match=r"pip install 'evomerge\[lm_eval\]'"):
        bank(write(tmp_path, "choices"))
