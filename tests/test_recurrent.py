"""Models that read padding and have no ordinary cache, and models that go on with no text."""

import pytest
import torch
import transformers as tf

import evomerge
from evomerge import errors, generation, likelihood
from evomerge.files.items import Item
from evomerge.scorers import choice, exact_match, kl_to
from evomerge.zoo.tiny import tokenizer
from tests.architectures import BERT, T5, TEXT

SIZE = {**TEXT, "vocab_size": 260, "initializer_range": 0.5}
RNN = {
    "vocab_size": 260, "hidden_size": 16, "num_hidden_layers": 2, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
CASES = {
    "lfm2": lambda: tf.Lfm2Config(**SIZE, layer_types=["conv", "full_attention"]),
    "mamba": lambda: tf.MambaConfig(**RNN, initializer_range=0.5),
    "rwkv": lambda: tf.RwkvConfig(**RNN, attention_hidden_size=16, context_length=64),
    "recurrent gemma": lambda: tf.RecurrentGemmaConfig(
        **{**SIZE, "num_hidden_layers": 3}, lru_width=16, attention_window_size=8
    ),
}


@pytest.fixture(scope="module", params=CASES)
def model(request):
    torch.manual_seed(0)
    made = tf.AutoModelForCausalLM.from_config(CASES[request.param]())
    for parameter in made.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.5)
    return made.eval().requires_grad_(False)


ASKED = ("a long question", "short")


def logits(model, tokens):
    """Of one whole sequence alone."""
    return model(torch.tensor([tokens]), use_cache=False).logits[0]


def test_likelihoods_are_those_of_whole_sequences(model):
    read = tokenizer()
    items = [
        Item(str(i), text, ("yes", "n", "perhaps"), 0, "test") for i, text in enumerate(ASKED)
    ]
    found = likelihood.log_likelihoods(model, choice.prepare(read, items).asked)
    for row, item in zip(found, items, strict=True):
        for got, text in zip(row.tolist(), item.choices, strict=True):
            before, whole = (read(t)["input_ids"] for t in (item.prompt, item.prompt + text))
            log_p = logits(model, whole).log_softmax(-1)
            places = range(len(before), len(whole))
            expected = sum(log_p[i - 1, whole[i]].item() for i in places)
            assert got == pytest.approx(expected, abs=1e-3)


def test_texts_and_logits_are_those_of_whole_sequences(model):
    read, rows = tokenizer(), []
    items = [Item(str(i), text, (), "-", "test") for i, text in enumerate(ASKED)]
    batch = exact_match.prepare(read, items, max_new_tokens=6, stop=[])
    for item, made in zip(items, generation.tokens(model, batch), strict=True):
        tokens = read(item.prompt)["input_ids"]
        for token in made:
            assert token == int(logits(model, tokens)[-1].argmax())
            tokens.append(token)
        rows.append((tokens, len(made)))
    found = kl_to.expected(model, rows, 0)
    for (tokens, n), got in zip(rows, found, strict=True):
        torch.testing.assert_close(got, logits(model, tokens)[-n - 1 : -1], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("scorer", ["choice", "perplexity", "exact_match"])
@pytest.mark.parametrize(
    "kind",
    [
        lambda: tf.T5ForConditionalGeneration(tf.T5Config(**T5)),
        lambda: tf.BertForMaskedLM(tf.BertConfig(**BERT)),
        lambda: tf.LlamaForSequenceClassification(tf.LlamaConfig(**TEXT)),
    ],
)
def test_a_model_that_goes_on_with_no_text_is_refused(tmp_path, kind, scorer):
    made = kind()
    made.save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    item = {"prompt": "a", "answer": "b", "split": "test"}
    item |= {"choices": ["b", "c"]} if scorer == "choice" else {}
    bank = {"name": "b", "version": 1, "scorer": scorer, "items": [item]}
    (tmp_path / "b.yaml").write_text(str(bank))
    says = (
        f"model: the scorer '{scorer}' of the bank 'b' wants a causal language model, this is "
        f"{type(made).__name__}$"
    )
    with pytest.raises(errors.InputError, match=says):
        evomerge.evaluate(tmp_path / "model", [tmp_path / "b.yaml"])
