"""Scorers against definitions: log-likelihoods one by one, greedy text by hand, labels."""

import contextlib
import json
import math
import shutil
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    FNetConfig,
    FNetForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPTJConfig,
    LlamaConfig,
    LlamaForSequenceClassification,
    OPTConfig,
)

import evomerge
from evomerge import errors, likelihood, loading, plugins, prompts, shelf, threads
from evomerge.files import bank as banks
from evomerge.files.companions import Form
from evomerge.files.items import Item
from evomerge.files.items import read_file as items_of
from evomerge.recipe import resolve
from evomerge.schema import Signal
from evomerge.scorers import choice, exact_match, function, label, perplexity
from evomerge.zoo import tiny
from tests import bigrams, families, ledgers

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(family):
    with threads.one_thread():
        return loading.load(Form(family / "base", family / "base"), "float32", CPU)


@pytest.fixture(scope="module")
def items(family):
    return banks.load(family / "one.jsonl").split("test") + banks.load(family / "two.jsonl").items


def one_by_one(model, tokenizer, item):
    """The log-likelihood of each choice, each sequence alone and whole."""
    found = []
    for text in item.choices:
        context, whole = (
            tokenizer(item.prompt)["input_ids"],
            tokenizer(item.prompt + text)["input_ids"],
        )
        logits = model(torch.tensor([whole[:-1]])).logits[0].log_softmax(-1)
        found.append(sum(logits[i - 1, whole[i]].item() for i in range(len(context), len(whole))))
    return found


def test_log_likelihoods_are_those_of_whole_sequences(model, items):
    batch = choice.prepare(model[1], items[:20])
    found = likelihood.log_likelihoods(model[0], batch.asked)
    for row, item in zip(found.tolist(), items[:20], strict=True):
        assert row == pytest.approx(one_by_one(*model, item), abs=1e-4)


def test_logits_taken_in_parts_are_the_same_bits(model, items, monkeypatch):
    batch = choice.prepare(model[1], items[:20]).asked
    whole = likelihood.log_likelihoods(model[0], batch)
    monkeypatch.setattr(likelihood, "NUMBERS", 1)
    assert torch.equal(likelihood.log_likelihoods(model[0], batch), whole)


def test_an_item_alone_and_among_64(model, items):
    """Less than 1e-4 apart, and no answer differs beyond that margin."""
    together = choice.prepare(model[1], items[:64])
    among = likelihood.log_likelihoods(model[0], together.asked)
    scores = choice.score(model[0], together)
    for i, item in enumerate(items[:64]):
        single = choice.prepare(model[1], [item])
        alone = likelihood.log_likelihoods(model[0], single.asked)[0]
        assert (alone - among[i]).abs().max() < 1e-4
        own = choice.score(model[0], single)
        assert own["score"][0] == scores["score"][i] or abs(scores["margin"][i]) < 1e-4


def test_scores_margins_and_probabilities(model, items):
    batch = choice.prepare(model[1], items[:12])
    plain = choice.prepare(model[1], items[:12], normalize=False)
    raw = likelihood.log_likelihoods(model[0], batch.asked).numpy()
    found, unnormalised = choice.score(model[0], batch), choice.score(model[0], plain)
    for i, item in enumerate(items[:12]):
        per_byte = raw[i] / [len(text.encode()) for text in item.choices]
        best = int(np.argmax(per_byte))
        assert found["score"][i] == (best == item.answer)
        assert found["plain"][i] == unnormalised["score"][i] == (np.argmax(raw[i]) == item.answer)
        others = np.delete(per_byte, item.answer)
        assert found["margin"][i] == pytest.approx(per_byte[item.answer] - others.max(), abs=1e-5)
        assert (found["margin"][i] > 0) == bool(found["score"][i])
        softmax = np.exp(raw[i] - raw[i].max())
        expected = softmax[item.answer] / softmax.sum()
        assert found["probability"][i] == pytest.approx(expected, rel=1e-3)


def test_choices_of_different_number_and_length(model):
    items = [
        Item("a", "one", ("x", "longer one"), 0, "test"),
        Item("b", "", ("left", "right", "é"), 2, "test"),
        Item("c", "a much longer prompt", ("q",) * 1 + ("rst", "uv", "w", "xyz"), 4, "test"),
    ]
    batch = choice.prepare(model[1], items)
    found = likelihood.log_likelihoods(model[0], batch.asked)
    for row, item in zip(found.tolist(), items, strict=True):
        if item.prompt:
            n = len(item.choices)
            assert row[:n] == pytest.approx(one_by_one(*model, item), abs=1e-4)
    assert set(choice.score(model[0], batch)["score"]) <= {0.0, 1.0}


def test_a_model_of_nans_gets_no_score(family, items):
    model, tokenizer = loading.load(Form(family / "base", family / "base"), "float32", CPU)
    model.model.norm.weight.fill_(math.nan)
    with pytest.raises(errors.EvaluationError, match=items[0].id):
        choice.score(model, choice.prepare(tokenizer, items[:5]))
    texts = perplexity.prepare(tokenizer, [Item("lost", "text", (), "", "test")])
    with pytest.raises(errors.EvaluationError, match="item lost is not finite"):
        perplexity.score(model, texts)
    with pytest.raises(errors.EvaluationError, match="not finite"):
        exact_match.score(model, exact_match.prepare(tokenizer, items[:2]))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_infinite_logit_of_a_token_that_nobody_asks_for_gets_no_score(family, items, value):
    model, tokenizer = loading.load(Form(family / "base", family / "base"), "float32", CPU)

    def spoil(head, given, logits):
        logits[..., -1] = value
        return logits

    texts = [Item("lost", "text", (), "", "test")]
    for scorer, asked in ((choice, items[:5]), (perplexity, texts), (exact_match, items[:2])):
        batch = scorer.prepare(tokenizer, asked)
        scorer.score(model, batch)
        with (
            model.lm_head.register_forward_hook(spoil),
            pytest.raises(errors.EvaluationError, match="not finite"),
        ):
            scorer.score(model, batch)


def test_exact_match_is_the_greedy_continuation(model):
    """Answers made by transformers' own generation, some of them spoilt."""
    causal, tokenizer = model
    prompts = ["abc", "defg hij", "a", "jihgfedcba"]
    answers = []
    for prompt in prompts:
        tokens = tokenizer(prompt, return_tensors="pt")
        out = causal.generate(**tokens, max_new_tokens=6, do_sample=False, eos_token_id=-1)
        answers.append(
            tokenizer.decode(out[0, tokens["input_ids"].shape[1] :], skip_special_tokens=True)
        )
    expected = [text.split("\n")[0].strip() for text in answers]
    items = [
        Item(str(i), p, (), a, "test")
        for i, (p, a) in enumerate(zip(prompts, expected, strict=True))
    ]
    spoilt = [Item("s", "abc", (), expected[0] + "x", "test")]
    batch = exact_match.prepare(tokenizer, items + spoilt, max_new_tokens=6)
    found = exact_match.score(causal, batch)
    assert found["score"] == [1.0] * 4 + [0.0]
    assert all(1 <= n <= 6 for n in found["length"])


CHAT = (
    "{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SHOTS = (("1+1=", "2"), ("1+2=", "3"))


def talking(template=CHAT):
    made = tiny.tokenizer()
    made.chat_template = template
    return made


def test_examples_stand_before_the_question():
    asked = Item("i", "2+2=", (), "4", "test", shots=SHOTS)
    assert prompts.text(talking(), asked, chat=False) == "1+1=2\n\n1+2=3\n\n2+2="
    turns = "<user>1+1=</><assistant>2</><user>1+2=</><assistant>3</><user>2+2=</><assistant>"
    assert prompts.text(talking(), asked, chat=True) == turns


@pytest.mark.parametrize("name", ["choice", "exact_match", "contains", "numeric", "perplexity"])
def test_a_chat_is_the_template_written_out(model, name):
    """Each scorer with `chat` equals itself on items whose prompts hold the filled template."""
    scorer = plugins.load("scorer", name)
    choices = ("4", "five") if name == "choice" else ()
    answer = 0 if choices else "4"
    asked = [Item(str(i), f"{i}+2=", choices, answer, "test", (), SHOTS) for i in range(3)]
    written = [
        replace(item, prompt=prompts.text(talking(), item, chat=True), shots=()) for item in asked
    ]
    batch = scorer.prepare(talking(), asked, chat=True)
    given = getattr(batch, "asked", batch).prompts[1].tolist()
    assert talking().decode(given) == prompts.text(talking(), asked[1], chat=True)
    found = scorer.score(model[0], batch)
    assert found == scorer.score(model[0], scorer.prepare(talking(), written))


def test_a_template_is_needed_and_named(family, tmp_path):
    bank = {"name": "b", "version": 1, "items": [{"prompt": "x", "answer": "y", "split": "test"}]}
    path = tmp_path / "b.yaml"
    path.write_text(json.dumps({**bank, "scorer": {"name": "exact_match", "chat": True}}))
    with pytest.raises(errors.InputError, match=r"base: bank 'b': the tokenizer has no chat"):
        evomerge.evaluate(family / "base", [path])
    with pytest.raises(errors.InputError, match="can not be filled: TemplateError: no second"):
        template = "{% if messages|length > 1 %}{{ raise_exception('no second') }}{% endif %}"
        prompts.text(talking(template), Item("i", "x", (), "y", "test", (), SHOTS), chat=True)


def test_bits_per_byte_of_known_models():
    """Of a uniform model log2 V; where one byte must follow, its softmax."""
    texts = [Item("a", "abcd", (), "", "test"), Item("b", "q", (), "", "test")]
    found = perplexity.score(bigrams.model(), perplexity.prepare(tiny.tokenizer(), texts))
    uniform = math.log2(bigrams.VOCABULARY)
    assert found["bits_per_byte"] == pytest.approx([uniform] * 2)
    assert found["score"] == pytest.approx([1 / bigrams.VOCABULARY] * 2)
    causal = bigrams.model("abcd", advantage=5.0)
    sure = math.log2((math.exp(5) + bigrams.VOCABULARY - 1) / math.exp(5))
    found = perplexity.score(causal, perplexity.prepare(tiny.tokenizer(), texts))
    assert found["bits_per_byte"] == pytest.approx([(uniform + 3 * sure) / 4, uniform])
    after = [Item("a", "a", (), "bcd", "test"), Item("b", "ab", (), "é", "test")]
    found = perplexity.score(causal, perplexity.prepare(tiny.tokenizer(), after))
    other = math.log2(math.exp(5) + bigrams.VOCABULARY - 1)
    assert found["bits_per_byte"] == pytest.approx([sure, (other + uniform) / 2])
    assert found["score"] == pytest.approx([2**-bits for bits in found["bits_per_byte"]])


def test_perplexity_is_that_of_whole_sequences(model, items):
    """Texts and answers of one block: the log-likelihood of each alone, per byte and in bits."""
    asked = [replace(item, choices=(), answer=item.choices[0]) for item in items[:9]]
    found = perplexity.score(model[0], perplexity.prepare(model[1], asked))
    for bits, item in zip(found["bits_per_byte"], asked, strict=True):
        total = one_by_one(*model, replace(item, choices=(item.answer,)))[0]
        assert bits == pytest.approx(-total / math.log(2) / len(item.answer.encode()), abs=1e-4)
    long = Item("long", "text" * 999, (), "", "test")
    with pytest.raises(
        errors.InputError, match=r"item long: has 3996 tokens, the model reads \d+"
    ):
        perplexity.prepare(model[1], [*asked, replace(long, answer="!")])
    with pytest.raises(errors.InputError, match="'chat' wants a prompt and an answer"):
        perplexity.prepare(talking(), [Item("a", "text", (), "", "test")], chat=True)


@pytest.mark.parametrize("name", ["choice", "exact_match", "contains", "numeric"])
def test_the_longest_item_that_a_model_reads(model, name):
    """The last token of a choice or of a made text is not read."""
    scorer, reads = plugins.load("scorer", name), model[1].model_max_length
    choices = ("42", "4") if name == "choice" else ()
    options = {} if choices else {"max_new_tokens": 2}
    fits = Item("x", "a" * (reads - 1), choices, 0 if choices else "42", "test")
    scorer.score(model[0], scorer.prepare(model[1], [fits], **options))
    long, fine = replace(fits, prompt="a" * reads), replace(fits, prompt="a")
    says = rf"^item x: has {reads} tokens and gets up to 2 more, the model reads {reads}$"
    with pytest.raises(errors.InputError, match=says):
        scorer.prepare(model[1], [fine, long], **options)


def test_the_longest_text_that_a_model_reads(model):
    """As of choices, its last token is not read."""
    reads = model[1].model_max_length
    text = Item("x", "a" * reads, (), "", "test")  # a token stands before it
    after = replace(text, prompt="a" * (reads - 1), answer="42")
    for item, part in ((text, "prompt"), (after, "answer")):
        perplexity.score(model[0], perplexity.prepare(model[1], [item]))
        long = replace(item, **{part: getattr(item, part) + "a"})
        says = rf"^item x: has {reads + 1} tokens, the model reads {reads}$"
        with pytest.raises(errors.InputError, match=says):
            perplexity.prepare(model[1], [long])


SMALL = {"vocab_size": 260, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(**SMALL),
        GPTJConfig(**SMALL, rotary_dim=4),
        OPTConfig(
            vocab_size=260, hidden_size=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=2,
            word_embed_proj_dim=16, max_position_embeddings=64,
        ),
    ],
    ids=lambda config: config.model_type,
)  # fmt: skip
def test_items_that_fit_a_table_of_positions_fit_together(config):
    """A long prompt beside a long choice: what fills the rows up is beyond the table."""
    torch.manual_seed(0)
    made, read = AutoModelForCausalLM.from_config(config).eval(), tiny.tokenizer()
    items = [
        Item("a", "a" * 60, ("yes", "no", "so it"), 0, "test"),
        Item("b", "b" * 64, ("y", "n"), 0, "test"),
        Item("c", "short", ("a choice that is longer than all", "no"), 0, "test"),
    ]
    found = likelihood.log_likelihoods(made, choice.prepare(read, items).asked)
    for row, item in zip(found.tolist(), items, strict=True):
        n = len(item.choices)
        assert row[:n] == pytest.approx(one_by_one(made, read, item), abs=1e-4)


def test_a_tokenizer_that_states_no_limit_has_that_of_the_config(family, tmp_path):
    shutil.copytree(family / "base", tmp_path / "base")
    for name, key in (("tokenizer_config", "model_max_length"), ("config", None)):
        path = tmp_path / "base" / f"{name}.json"
        keys = json.loads(path.read_text())
        keys.pop(key, None)
        path.write_text(json.dumps(keys if key else {**keys, "max_position_embeddings": 100}))
    for length, fits in ((50, True), (120, False)):
        item = {"prompt": "a" * length, "choices": ["b", "c"], "answer": 0, "split": "test"}
        (tmp_path / "b.jsonl").write_text(json.dumps(item))
        refusal = pytest.raises(errors.InputError, match="the model reads 100")
        with contextlib.nullcontext() if fits else refusal:
            assert len(evomerge.evaluate(tmp_path / "base", [tmp_path / "b.jsonl"])["b"].scores)


@pytest.mark.parametrize("scorer", ["choice", "exact_match", "perplexity"])
def test_a_long_item_is_told_before_anything_is_scored(family, tmp_path, capfd, scorer):
    """Wherever it stands in the bank, by its line, and with no remark of transformers."""
    right = {"choices": ["4", "5"], "answer": 0} if scorer == "choice" else {"answer": "4"}
    rows = [{"prompt": f"{i}+2=", **right, "split": "test"} for i in range(60)]
    rows[50]["prompt"] = "a b" * 200
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = {"name": "b", "version": 1, "scorer": scorer, "source": "b.jsonl"}
    (tmp_path / "b.yaml").write_text(json.dumps(keys))
    with pytest.raises(errors.InputError) as caught:
        evomerge.evaluate(family / "base", [tmp_path / "b.yaml"])
    place = f"{family / 'base'}: bank 'b': {tmp_path / 'b.jsonl'}:51: has 60"
    assert str(caught.value).startswith(place) and "the model reads 512" in str(caught.value)
    assert "longer than the specified" not in capfd.readouterr().err
    rows[50]["split"] = "search"
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(evomerge.evaluate(family / "base", [tmp_path / "b.yaml"])["b"].scores) == 59


@pytest.mark.slow
def test_a_long_item_is_told_by_a_worker_of_ray(family, tmp_path):
    """As what it is, and not as a worker that can not start."""
    rows = families.questions("long", 5)
    rows[7]["prompt"] = "a b" * 200
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    objectives = {"b": str(tmp_path / "b.jsonl")}
    recipe = families.recipe(family, objectives=objectives, executor={"name": "ray", "workers": 1})
    with pytest.raises(errors.InputError, match=r"b\.jsonl:8: has 60\d tokens.* reads 512$"):
        evomerge.search(recipe, tmp_path / "run")


def test_a_scorer_that_can_not_prepare_is_told_before_anything_is_scored(
    family, tmp_path, monkeypatch
):
    code = "def prepare(tokenizer, items): return items[0].nothing\ndef score(model, batch): ..."
    (tmp_path / "lab_of_mine").mkdir()
    (tmp_path / "lab_of_mine" / "broken.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    keys = {"name": "b", "version": 1, "scorer": "lab_of_mine.broken", "split": {"test": 1}}
    items = [{"prompt": "x", "answer": "y"}]
    (tmp_path / "b.yaml").write_text(json.dumps({**keys, "items": items}))
    with pytest.raises(errors.InputError) as caught:
        evomerge.evaluate(family / "base", [tmp_path / "b.yaml"])
    for part in (f"{family / 'base'}: bank 'b'", "'lab_of_mine.broken' can not", "AttributeError"):
        assert part in str(caught.value)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A folder with a random BERT that tells three labels."""
    folder = tmp_path_factory.mktemp("classifier")
    config = BertConfig(
        vocab_size=260, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=64, pad_token_id=256,
        id2label={0: "bad", 1: "fair", 2: "good"}, label2id={"bad": 0, "fair": 1, "good": 2},
    )  # fmt: skip
    made = BertForSequenceClassification(config)
    generator = torch.Generator().manual_seed(0)
    for tensor in made.state_dict().values():
        if tensor.ndim == 2 and tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    made.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def test_labels_by_number_and_by_name(classifier, tmp_path):
    causal, words = loading.load(Form(classifier, classifier), "float32", CPU)
    texts = ["a", "a longer text", "q" * 40, "yes", "no, not at all"]
    logits = torch.stack([causal(**words(t, return_tensors="pt")).logits[0] for t in texts])
    names, best = ["bad", "fair", "good"], logits.argmax(1).tolist()
    assert len(set(best)) > 1
    wrong = [(b + 1) % 3 for b in best]
    for right, answers in ((1, best), (1, [names[b] for b in best]), (0, wrong)):
        items = [
            Item(str(i), *pair, "test")
            for i, pair in enumerate(zip(texts, [()] * 5, answers, strict=True))
        ]
        found = label.score(causal, label.prepare(words, items))
        assert found["score"] == [right] * 5
        places = [a if isinstance(a, int) else names.index(a) for a in answers]
        for row, i, p, m in zip(
            logits, places, found["probability"], found["margin"], strict=True
        ):
            assert p == pytest.approx(row.softmax(0)[i].item(), abs=1e-5)
            others = torch.cat([row[:i], row[i + 1 :]])
            assert m == pytest.approx((row[i] - others.max()).item(), abs=1e-4)
    entries = [
        {"prompt": t, "answer": names[b], "split": "test"}
        for t, b in zip(texts, best, strict=True)
    ]
    sheet = {"name": "b", "version": 1, "scorer": "label", "items": entries}
    (tmp_path / "b.yaml").write_text(json.dumps(sheet))
    assert evomerge.evaluate(classifier, [tmp_path / "b.yaml"])["b"].mean == 1


def test_labels_of_a_csv_are_numbers_where_no_label_is_called_so(classifier, tmp_path):
    """An unknown one is told with its file and line."""
    causal, words = loading.load(Form(classifier, classifier), "float32", CPU)
    path = tmp_path / "b.csv"
    path.write_text("prompt,answer\na,0\nb,1\nc,2\n")
    numbers = [replace(item, answer=int(item.answer)) for item in items_of(path)]
    found, expected = (
        label.score(causal, label.prepare(words, items)) for items in (items_of(path), numbers)
    )
    assert found == expected
    causal.config.label2id = {"2": 0, "1": 1, "0": 2}
    assert label.score(causal, label.prepare(words, items_of(path))) != expected
    path.write_text("prompt,answer\na,3\n")
    with pytest.raises(errors.EvaluationError, match=r"b\.csv:2: unknown label '3'"):
        label.score(causal, label.prepare(words, items_of(path)))


@pytest.mark.parametrize(("pad", "own"), [(None, None), (None, 258), (258, None), (258, 258)])
def test_a_decoder_that_classifies_needs_no_padding(pad, own):
    """In a block as alone; `pad` is the tokenizer's token, `own` the one that the model knows."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=260, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, num_labels=3, pad_token_id=own,
        initializer_range=0.5,
    )  # fmt: skip
    causal, words = LlamaForSequenceClassification(config).eval(), tiny.tokenizer()
    words.pad_token = None if pad is None else words.convert_ids_to_tokens(pad)
    items = [Item(str(i), text, (), 1, "test") for i, text in enumerate(["a longer text", "q"])]
    found = label.score(causal, label.prepare(words, items))["probability"]
    for item, p in zip(items, found, strict=True):
        logits = causal(**words(item.prompt, return_tensors="pt")).logits[0]
        assert p == pytest.approx(logits.softmax(0)[1].item(), abs=1e-5)


SMALL = {"vocab_size": 260, "hidden_size": 16, "num_hidden_layers": 1, "num_labels": 3,
         "pad_token_id": 258, "initializer_range": 0.5}  # fmt: skip


@pytest.mark.parametrize(
    ("model", "config"),
    [
        (GPT2ForSequenceClassification, GPT2Config(**SMALL, n_head=2)),  # learned positions
        (FNetForSequenceClassification, FNetConfig(**SMALL, intermediate_size=24)),  # no mask
    ],
)
def test_a_text_has_the_label_that_it_has_alone(model, config):
    torch.manual_seed(0)
    causal, words = model(config).eval(), tiny.tokenizer()
    words.padding_side, words.model_input_names = "left", ["input_ids"]
    items = [Item(str(i), text, (), 1, "test") for i, text in enumerate(["abcdef", "q", "fedcba"])]
    found = label.score(causal, label.prepare(words, items))
    alone = [label.score(causal, label.prepare(words, [item])) for item in items]
    for name, values in found.items():
        assert values == pytest.approx([one[name][0] for one in alone], abs=1e-5)


def test_labels_that_can_not_be_given(classifier, model):
    causal, words = loading.load(Form(classifier, classifier), "float32", CPU)
    for answer, says in (
        ("godo", "item i: unknown label 'godo'. Did you mean 'good'"),
        (3, "'3'"),
    ):
        batch = label.prepare(words, [Item("i", "x", (), answer, "test")])
        with pytest.raises(errors.EvaluationError, match=says):
            label.score(causal, batch)
        with pytest.raises(errors.EvaluationError, match="wants a model that classifies"):
            label.score(model[0], batch)
    causal.classifier.bias[1] = math.nan
    with pytest.raises(errors.EvaluationError, match="logits of item i are not finite"):
        label.score(causal, batch)
    causal.config.problem_type = "multi_label_classification"
    with pytest.raises(errors.EvaluationError, match="this model gives several"):
        label.score(causal, batch)
    words.model_max_length = 8
    with pytest.raises(errors.InputError, match="item i: has 9 tokens, the model reads 8"):
        label.prepare(words, [Item("i", "x" * 9, (), 0, "test")])


@pytest.mark.parametrize(
    ("name", "item", "says"),
    [
        ("choice", Item("i", "x", (), "y", "test"), "has no choices"),
        ("exact_match", Item("i", "x", (), "", "test"), "has no answer"),
        ("contains", Item("i", "x", (), "y", "test", (" ",)), "a blank one"),
        ("regex", Item("i", "x", (), " ", "test"), "a blank one"),
        ("numeric", Item("i", "x", (), "many", "test"), "expected a number, got 'many'"),
        ("numeric", Item("i", "x", (), "1/0", "test"), "expected a number, got '1/0'"),
        ("perplexity", Item("i", "x", (), "", "test", shots=(("a", "b"),)), "has examples"),
        ("numeric", Item("i", "x", (), "1/2/3", "test"), "expected a number"),
        ("numeric", Item("i", "x", ("1", "a"), 1, "test"), "expected a number, got 'a'"),
        ("perplexity", Item("i", "x", ("1", "a"), 1, "test"), "has choices"),
        ("label", Item("i", "x", ("1", "a"), 1, "test"), "no choices"),
        ("label", Item("i", "x", (), "", "test"), "has no answer"),
        ("label", Item("i", "x", (), 0, "test", (), SHOTS), "has examples"),
    ],
)
def test_items_that_a_scorer_can_not_mark(name, item, says):
    with pytest.raises(ValueError, match=says):
        plugins.load("scorer", name).check(item)


@pytest.mark.parametrize(
    ("scorer", "answer", "says"),
    [
        ("exact_match", "a\nb", r"answer: has '\\n' in it, before which a text ends: change"),
        ({"name": "exact_match", "stop": ["END", "b"]}, "abc", "answer: has 'b' in it"),
        ({"name": "regex", "pattern": ".+"}, "a\nb", r"answer: has '\\n' in it"),
        ("contains", "a\nb", r"answer: has '\\n' in it"),
        ({"name": "contains", "ignore_space": True}, "a\nb", ""),
        ({"name": "exact_match", "stop": []}, "a\nb", ""),
        ("exact_match", " ab\n", ""),
        ("exact_match", ["a\nb", "a b"], ""),
        ("exact_match", "a" * 34, r"base: bank 'b': \S+: items\[10\]: answer: takes 34 tokens, "
         r"a text has at most 32: raise the scorer's option 'max_new_tokens'"),
        ({"name": "exact_match", "max_new_tokens": 34}, "a" * 34, ""),
        ("exact_match", ["a" * 34, "a"], ""),
        ("contains", "a" * 34, ""),
        ({"name": "regex", "pattern": ""}, "a", r"regex\.pattern: got '', matches nothing but"),
        ({"name": "regex", "pattern": " "}, "a", "matches nothing but blanks"),
    ],
)  # fmt: skip
def test_an_answer_that_no_text_can_give_is_refused(family, tmp_path, scorer, answer, says):
    rows = [{"prompt": f"{i}=", "answer": "a", "split": "test"} for i in range(10)]
    rows.append({"prompt": "x", "answer": answer, "split": "test"})
    keys = {"name": "b", "version": 1, "scorer": scorer, "items": rows}
    (tmp_path / "b.yaml").write_text(json.dumps(keys))
    if says:
        with pytest.raises(errors.EvomergeError, match=says) as caught:
            evomerge.evaluate(family / "base", [tmp_path / "b.yaml"])
        assert type(caught.value) in (errors.InputError, errors.RecipeError)
    else:
        assert 0 <= evomerge.evaluate(family / "base", [tmp_path / "b.yaml"])["b"].mean <= 1


def test_a_function_is_told_the_split_if_it_asks(model):
    seen = []

    def score(model, tokenizer, split):
        seen.append(split)
        return 0.25

    bank = function.bank("mine", score)
    batch = function.prepare(model[1], bank.items, **bank.options)
    assert function.score(model[0], batch) == {"score": [0.25] * 3}
    assert seen == ["search", "validation", "test"]


@pytest.mark.parametrize("value", [2.0, -0.1, math.nan, None, "0.5"])
def test_a_function_must_give_a_number_from_0_to_1(model, value):
    bank = function.bank("mine", lambda model, tokenizer: value)
    batch = function.prepare(model[1], bank.items, **bank.options)
    with pytest.raises(errors.EvaluationError, match=r"mine.*\[0, 1\]"):
        function.score(model[0], batch)


@pytest.mark.parametrize(
    ("scorer", "row"),
    [
        ("choice", {"prompt": "x", "choices": ["a", "b"], "answer": 0}),
        *(
            (name, {"prompt": "x", "answer": "1"})
            for name in ("exact_match", "contains", "numeric")
        ),
        ("perplexity", {"text": "xy"}),
        ("brevity", {"prompt": "x", "answer": "1"}),
    ],
)
def test_a_search_sees_what_answers_have(model, tmp_path, scorer, row):
    """A signal that no answer has is refused; of texts the length is scored by another scorer."""
    rows = [{**row, "split": "search"}]
    keys = {"name": "b", "version": 1, "scorer": scorer, "items": rows}
    (tmp_path / "b.yaml").write_text(json.dumps(keys))
    bank, module = shelf.load(tmp_path / "b.yaml"), plugins.load("scorer", scorer)
    has = module.score(model[0], module.prepare(model[1], bank.items))
    for signal in get_args(Signal):
        if signal in has:
            wanted = "brevity" if signal == "length" else scorer
            assert shelf.seen(bank, signal).scorer == wanted
            continue
        with pytest.raises(errors.RecipeError, match=f"^signal: .*'{signal}'"):
            shelf.seen(bank, signal)


def test_a_signal_that_a_bank_lacks_is_refused_with_what_it_has(family, tmp_path):
    (tmp_path / "b.jsonl").write_text('{"prompt": "x", "answer": "1"}\n')
    objectives = {"a": {"bank": str(tmp_path / "b.jsonl"), "signal": "probability"}}
    says = "objectives.a: signal: the answers to bank 'b', .* have: score, length$"
    with pytest.raises(errors.RecipeError, match=says):
        resolve(families.recipe(family, objectives=objectives))


@pytest.mark.parametrize("name", plugins.known("scorer"))
def test_every_scorer_has_its_contract(name):
    module = plugins.load("scorer", name)
    assert module.__doc__ and callable(module.prepare) and callable(module.score)


def test_a_search_over_texts_and_generated_answers_with_examples(family, tmp_path):
    texts = "".join(json.dumps({"text": text}) + "\n" for text in map(str, range(300, 340)))
    (tmp_path / "texts.jsonl").write_text(texts)
    asked = [{"prompt": f"{i} ", "answer": ["a", "b"]} for i in range(40)]
    scorer = {"name": "contains", "max_new_tokens": 4, "ignore_case": True}
    keys = {"name": "has", "version": 1, "scorer": scorer, "shots": 2, "items": asked}
    (tmp_path / "has.yaml").write_text(json.dumps(keys))
    found = {"fluent": str(tmp_path / "texts.jsonl"), "has": str(tmp_path / "has.yaml")}
    changes = {
        "objectives": found,
        "budget": {"candidates": 2},
        "ask": 2,
        "shortlist": 1,
        "strategy": "sobol",
    }
    evomerge.search(families.recipe(family, **changes), tmp_path / "run")
    content = ledgers.content(tmp_path / "run")
    assert not content["failures"]
    rows = {name: [row for row in content["answers"] if row[1] == name] for name in found}
    for *_, score, extra in rows["fluent"]:
        assert score == pytest.approx(2 ** -json.loads(extra)["bits_per_byte"])
    assert {score for *_, score, _ in rows["has"]} <= {0, 1}
    assert all(1 <= json.loads(extra)["length"] <= 4 for *_, extra in rows["has"])
    bank = shelf.load(tmp_path / "has.yaml")
    assert {row[2] for row in rows["has"]} <= {item.id for item in bank.items}
    assert len(bank.items) == 38
