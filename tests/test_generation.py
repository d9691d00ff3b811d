"""Scorers of generated text: models that must say one thing, and transformers' own generation."""

import math
from fractions import Fraction

import pytest
import torch

from evomerge import errors, generation, loading, plugins, threads
from evomerge.files.companions import Form
from evomerge.files.items import Item
from evomerge.scorers import contains, exact_match, numeric, regex
from evomerge.zoo.tiny import tokenizer
from tests import bigrams

OPTIONS = {"exact_match": {}, "contains": {}, "regex": {"pattern": "."}, "numeric": {}}
END = tokenizer().eos_token


def prepared(scorer, answers, prompts="x", **options):
    """A block of one question a prompt, all with the same accepted answers."""
    first, *also = answers if isinstance(answers, tuple) else (answers,)
    items = [Item(str(i), p, (), first, "test", tuple(also)) for i, p in enumerate(prompts)]
    return scorer.prepare(tokenizer(), items, **options)


@pytest.mark.parametrize(
    ("scorer", "options", "answers", "score"),
    [
        (exact_match, {}, " y=42 ", 1),
        (exact_match, {}, ("no", "y=42"), 1),
        (exact_match, {}, "42", 0),
        (exact_match, {"stop": ["="]}, "y", 1),
        (exact_match, {"stop": ["42", "4"]}, "y=", 1),
        (exact_match, {"max_new_tokens": 3}, "y=4", 1),
        (contains, {}, "=4", 1),
        (regex, {"pattern": r"=(\d+)"}, 42, 1),
        (numeric, {}, "42.0", 1),
        (numeric, {"stop": ["2"]}, 4, 1),
    ],
)
def test_a_model_that_must_say_one_thing(scorer, options, answers, score):
    found = scorer.score(bigrams.model("xy=42\n"), prepared(scorer, answers, **options))
    assert found["score"] == [score]


@pytest.mark.parametrize(
    ("scorer", "options", "text", "answers", "right"),
    [
        (contains, {}, "in Paris, France", ("London", "Paris"), True),
        (contains, {}, "in paris", "Paris", False),
        (contains, {"ignore_case": True}, "in paris", "Paris", True),
        (contains, {}, "New  York", "New York", False),
        (contains, {"ignore_space": True}, "New \t York", " New York ", True),
        (contains, {}, "it is 14.", "4", True),
        (contains, {"whole_words": True}, "it is 14.", "4", False),
        (contains, {"whole_words": True}, "it is (4).", "4", True),
        (contains, {"whole_words": True}, "it is 12.5", "5", True),
        (contains, {"whole_words": True}, "1,200 euros", "1,200", True),
        (contains, {"whole_words": True}, "on 01.05.1990", "1990", True),
        (contains, {"whole_words": True}, "no 3.yes", "yes", True),
        (contains, {"whole_words": True}, "yes.3", "yes", True),
        (contains, {}, "a+b", "a.b", False),
        (regex, {"pattern": r"\d"}, "a1b2", "1", True),
        (regex, {"pattern": r"\d", "match": "last"}, "a1b2", "2", True),
        (regex, {"pattern": r"answer is(.*)\."}, "the answer is 7 .", "7", True),
        (regex, {"pattern": r"<(\d)>|\[(\d)\]"}, "[3]", "3", True),
        (regex, {"pattern": r"(x)?y"}, "y", "y", True),
        (regex, {"pattern": r"\d"}, "none", "1", False),
        (numeric, {}, "first 3, then 4", 4, True),
        (numeric, {"match": "first"}, "first 3, then 4", 3, True),
        (numeric, {}, "no number", 3, False),
        (numeric, {}, "1,234.50 in all", "1234.5", True),
        (numeric, {}, "3.1415", "3.14159", False),
        (numeric, {"absolute": 0.001}, "3.1415", "3.14159", True),
        (numeric, {"relative": 0.01}, "-99", -100, True),
        (numeric, {"relative": 0.01}, "99", -100, False),
        (numeric, {"absolute": 0.3}, "5.3", 5, True),
        (numeric, {"absolute": 0.3}, "5.3000000000000000001", 5, False),
        (numeric, {"relative": 0.03}, "103", 100, True),
        (numeric, {}, "x = 1/0", 1, False),
        (numeric, {}, "9" * 5000, 9, False),
    ],
)
def test_what_counts_as_right(scorer, options, text, answers, right):
    batch = prepared(scorer, answers, **options)
    assert batch.mark(text, batch.accepted[0]) is right


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1,234,567 and 12'345", [1234567, 12345]),
        ("1,2,3", [1, 2, 3]),
        ("12,34", [12, 34]),
        ("10-5, COVID-19, (-7), \u22128", [10, 5, 19, -7, -8]),
        ("$5, -$5, 5%, 5km", [5, -5, 5, 5]),
        ("H2O", []),
        ("3/4, 1 1/2, -1/3", [Fraction(3, 4), Fraction(3, 2), Fraction(-1, 3)]),
        ("3/4/2020", []),
        ("1/0", [None]),
        ("1e3 2.5E-1 3e9999", [1000, Fraction(1, 4), 3]),
        (".5 and 3.", [Fraction(1, 2), 3]),
        ("0.1 + 0.2", [Fraction(1, 10), Fraction(1, 5)]),
    ],
)
def test_numbers_are_read_exactly(text, found):
    assert list(numeric.numbers(text)) == found


def test_rows_end_where_they_end():
    """Each row alone and in a block, whose rows end one after the other: the same text."""
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    model = bigrams.model(f"{alphabet}\n")
    prompts = [*"azmq", "xyz", "y"]
    texts, lengths = generation.generate(model, prepared(exact_match, "-", prompts))
    assert texts == [alphabet.split(prompt[-1])[1] for prompt in prompts]
    assert lengths == [len(text) + 1 for text in texts]
    cut, lengths = generation.generate(
        model, prepared(exact_match, "-", prompts, max_new_tokens=7)
    )
    assert cut == [text[:7] for text in texts]
    assert lengths == [min(len(text) + 1, 7) for text in texts]


def test_a_model_ends_its_text_itself():
    model = bigrams.model(f"xy{END}z")
    batch = prepared(exact_match, "y")
    assert exact_match.score(model, batch) == {
        "score": [1.0],
        "length": [2.0],
        "degenerate": [0.0],
    }
    model = bigrams.model("xyz")
    model.generation_config.eos_token_id = [ord("z"), 258]
    assert exact_match.score(model, batch) == {
        "score": [1.0],
        "length": [2.0],
        "degenerate": [0.0],
    }


def test_a_text_ends_before_a_special_token_that_is_asked_for():
    """Decoded texts do not show it."""
    begin = tokenizer().bos_token
    batch = prepared(exact_match, "y", stop=[begin])
    assert generation.generate(bigrams.model(f"xy{begin}z"), batch) == (["y"], [2])
    found = exact_match.score(bigrams.model(f"x{begin}z"), batch)
    assert found["length"] == found["degenerate"] == [1]


def test_alone_and_among_many(family):
    """Texts of a random model, and those that transformers' generation makes."""
    with threads.one_thread():
        model, words = loading.load(
            Form(family / "base", family / "base"), "float32", torch.device("cpu")
        )
        prompts = ["abc", "defg hij", "a", "jihgfedcba", "b" * 37, "hi", "ja"]
        options = {"max_new_tokens": 11, "stop": ["e", "\n"]}
        together = generation.generate(model, prepared(exact_match, "-", prompts, **options))
        for i, prompt in enumerate(prompts):
            alone = generation.generate(model, prepared(exact_match, "-", [prompt], **options))
            assert alone == ([together[0][i]], [together[1][i]])
            given = words(prompt, return_tensors="pt")
            out = model.generate(**given, max_new_tokens=11, do_sample=False)
            whole = words.decode(out[0, len(prompt) :], skip_special_tokens=True)
            assert together[0][i] == whole.split("e")[0].split("\n")[0]


@pytest.mark.parametrize("name", OPTIONS)
def test_logits_that_are_not_finite_are_no_answer(name):
    scorer = plugins.load("scorer", name)
    model = bigrams.model("xy")
    model.model.embed_tokens.weight[ord("y")] = math.nan
    batch = prepared(scorer, "1", ["q", "x"], max_new_tokens=1, **OPTIONS[name])
    assert scorer.score(model, batch)["length"] == [1, 1]
    batch = prepared(scorer, "1", ["q", "x"], max_new_tokens=2, **OPTIONS[name])
    with pytest.raises(errors.EvaluationError, match="logits of item 1 are not finite"):
        scorer.score(model, batch)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("exact_match", {"stpo": []}, "unknown option 'stpo'. Did you mean 'stop'?"),
        ("exact_match", {"pattern": "x"}, "unknown option 'pattern'"),
        ("contains", {"max_new_tokens": 0}, "contains.max_new_tokens: got 0, expected at least 1"),
        ("contains", {"ignore_case": "yes"}, "ignore_case: got 'yes', expected a boolean"),
        ("contains", {"chat": 1}, "chat: got 1, expected a boolean"),
        ("regex", {}, "option 'pattern' is missing"),
        ("regex", {"pattern": "(x"}, "regex.pattern: got '(x', is no regular expression: missing"),
        ("regex", {"pattern": "x", "match": "lsat"}, "did you mean 'last'?"),
        ("numeric", {"absolute": -1}, "numeric.absolute: got -1, expected at least 0"),
        ("numeric", {"relative": math.nan}, "numeric.relative: got nan"),
    ],
)
def test_wrong_options_are_refused_before_a_run(name, options, says):
    with pytest.raises(errors.RecipeError) as caught:
        plugins.check_options("scorer", name, options, "b.yaml: scorer")
    assert says in str(caught.value)
    assert str(caught.value).startswith("b.yaml: scorer")


@pytest.mark.parametrize(
    ("made", "is_cycle"),
    [
        ("aaaaaaaa", True),
        ("aaaaaaa", False),  # too short to tell
        ("xyzaaaaa", True),
        ("xyzwvaaa", False),
        ("abababab", True),
        ("the cat sat on abababab", False),  # less than half
        ("the cat abababababab", True),
        ("abcdefgh" * 4, True),
        ("abcdefgh" * 3, False),
        ("abcdefghi" * 9, False),
        ("abababab.", False),
        ("1000000000000 apples", False),
        ("", False),
    ],
)
def test_tokens_that_repeat_themselves_to_their_end(made, is_cycle):
    assert generation.repeats(list(map(ord, made))) is is_cycle


@pytest.mark.parametrize(
    ("follows", "options", "is_broken"),
    [
        ("xyy", {"max_new_tokens": 12}, 1),
        ("xyzy", {"max_new_tokens": 12}, 1),
        ("xyy", {"max_new_tokens": 7}, 0),
        (f"xyzab{END}", {"max_new_tokens": 12}, 0),
        ("x y", {"stop": ["y"]}, 1),
        (f"x{END}", {}, 1),
        ("x\n", {}, 1),
    ],
)
def test_texts_that_are_none(follows, options, is_broken):
    batch = prepared(exact_match, "y", **options)
    assert exact_match.score(bigrams.model(follows), batch)["degenerate"] == [is_broken]
