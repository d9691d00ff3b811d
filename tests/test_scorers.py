"""Scorers against definitions: log-likelihoods one by one, greedy text by hand."""

import math

import numpy as np
import pytest
import torch

from evomerge import errors, likelihood, plugins, worker
from evomerge.files import bank as banks
from evomerge.files.companions import Form
from evomerge.files.items import Item
from evomerge.scorers import choice, exact_match, function

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(family):
    with worker.one_thread():
        return worker.load(Form(family / "base", family / "base"), "float32", CPU)


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
        logits = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        found.append(sum(logits[i - 1, whole[i]].item() for i in range(len(context), len(whole))))
    return found


def test_log_likelihoods_are_those_of_whole_sequences(model, items):
    batch = choice.prepare(model[1], items[:20])
    found = likelihood.log_likelihoods(model[0], batch.asked)
    for row, item in zip(found.tolist(), items[:20], strict=True):
        assert row == pytest.approx(one_by_one(*model, item), abs=1e-4)


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
    model, tokenizer = worker.load(Form(family / "base", family / "base"), "float32", CPU)
    model.model.norm.weight.fill_(math.nan)
    with pytest.raises(errors.EvaluationError, match=items[0].id):
        choice.score(model, choice.prepare(tokenizer, items[:5]))
    with pytest.raises(errors.EvaluationError, match="not finite"):
        exact_match.score(model, exact_match.prepare(tokenizer, items[:2]))


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


@pytest.mark.parametrize("name", plugins.known("scorer"))
def test_every_scorer_has_its_contract(name):
    module = plugins.load("scorer", name)
    assert module.__doc__ and callable(module.prepare) and callable(module.score)
