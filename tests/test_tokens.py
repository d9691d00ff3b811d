"""Tokenizers that merge blanks into words, and that add a token at the end."""

from importlib.util import find_spec

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evomerge import likelihood, prompts
from evomerge.files.items import Item
from evomerge.scorers import choice, exact_match, lm_eval, perplexity

BLANK, GLUED = "The capital: ", "Q: 1"


@pytest.fixture(scope="module")
def words():
    """A byte-level BPE in which ' Paris', 'Paris', '12', '67' and '68' are one token each."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<e>", "<turn>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    text = "The capital: Paris Paris Lyon\nParis Q: 12 12 345 \n67\n68\n"
    made.train_from_iterator([text] * 9, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<e>", additional_special_tokens=["<turn>"],
        model_max_length=64,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(words):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, initializer_range=0.3,
        bos_token_id=None, eos_token_id=0, pad_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def log_p(model, before, after):
    """Summed log-probability of tokens after others, in one pass over both."""
    logits = model(torch.tensor([[*before, *after]])).logits[0].log_softmax(-1)
    return sum(logits[len(before) + i - 1, token].item() for i, token in enumerate(after))


@pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval not installed")
def test_a_prompt_that_ends_in_a_blank_is_split_as_lm_eval_does(words, model):
    """The first token of an answer brings the blank; it counts, and the bytes are the answer's."""
    assert words.tokenize(f"{BLANK}Paris")[-1] == "ĠParis"
    texts = ("Paris", "Lyon Paris", "12")
    batch = choice.prepare(words, [Item("a", BLANK, texts, 0, "test")])
    pairs = [lm_eval.pairs(words)._encode_pair(BLANK, text) for text in texts]
    expected = [log_p(model, *pair) for pair in pairs]
    assert likelihood.log_likelihoods(model, batch.asked)[0].tolist() == pytest.approx(expected)
    assert batch.asked.lengths.tolist() == [[5, 10, 2]]
    asked = [Item("p", BLANK, (), "Paris", "test"), Item("t", "Paris", (), "", "test")]
    found = perplexity.score(model, perplexity.prepare(words, asked))["bits_per_byte"]
    nats = [expected[0], log_p(model, [words.eos_token_id], words("Paris")["input_ids"])]
    assert found == pytest.approx([-n / 5 / torch.tensor(2.0).log().item() for n in nats])


def test_a_continuation_within_the_last_token_of_its_prompt_counts(words, model):
    """All choices are then counted from where the first of them parts from the prompt."""
    texts = ("2", "x2")
    wholes = [words(GLUED + text)["input_ids"] for text in texts]
    assert len(wholes[0]) < len(words(GLUED)["input_ids"])
    batch = choice.prepare(words, [Item("a", GLUED, texts, 0, "test")])
    assert batch.asked.prompts.tolist() == [wholes[0][:-1]]
    expected = [log_p(model, wholes[0][:-1], whole[len(wholes[0]) - 1 :]) for whole in wholes]
    assert likelihood.log_likelihoods(model, batch.asked)[0].tolist() == pytest.approx(expected)


def test_choices_that_a_token_of_the_prompt_makes_equal_are_told_apart(words, model):
    """'67' and '68' take in that by which the choices differ, and leave the same of all."""
    texts = ("7)", "8)")
    before = words("Q:\n6")["input_ids"]
    wholes = [words("Q:\n6" + text)["input_ids"] for text in texts]
    assert {tuple(whole[len(before) :]) for whole in wholes} == {tuple(words(")")["input_ids"])}
    batch = choice.prepare(words, [Item("a", "Q:\n6", texts, 0, "test")])
    shared = next(i for i, pair in enumerate(zip(*wholes, strict=True)) if len(set(pair)) > 1)
    expected = [log_p(model, whole[:shared], whole[shared:]) for whole in wholes]
    found = likelihood.log_likelihoods(model, batch.asked)[0].tolist()
    assert found == pytest.approx(expected) and found[0] != found[1]


@pytest.mark.parametrize("scorer", [choice, perplexity, exact_match])
def test_a_prompt_that_begins_as_texts_do_begins_so_once(words, model, scorer):
    first = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(words.backend_tokenizer.to_str()), eos_token="<e>",
        bos_token="<turn>",
    )  # fmt: skip
    first.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<turn> $A", special_tokens=[("<turn>", 1)]
    )
    choices = (" Paris", " Lyon") if scorer is choice else ()
    bare, written = (
        Item("a", f"{begin}The capital:", choices, 0 if choices else " Paris", "test")
        for begin in ("", "<turn>")
    )
    assert prompts.tokens(first, written.prompt, chat=False)[:2] != [1, 1]
    found, expected = (scorer.score(model, scorer.prepare(first, [i])) for i in (written, bare))
    assert found == expected


@pytest.mark.parametrize("scorer", [choice, perplexity, exact_match])
@pytest.mark.parametrize("prompt", ["The capital:", "", "Paris<e>"])
def test_a_token_that_a_tokenizer_ends_texts_with_is_none_of_theirs(words, model, scorer, prompt):
    """Tokens and scores are those of the same tokenizer without it."""
    ends = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(words.backend_tokenizer.to_str()), eos_token="<e>"
    )
    ends.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <e>", special_tokens=[("<e>", 0)]
    )
    assert ends("Paris")["input_ids"] == [*words("Paris")["input_ids"], 0]
    choices = (" Paris", " Lyon") if scorer is choice else ()
    item = Item("a", prompt, choices, 0 if choices else " Paris", "test")
    found, expected = (scorer.score(model, scorer.prepare(t, [item])) for t in (ends, words))
    assert found == expected
