"""zoo:tiny: what its texts, banks and models promise."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from evomerge import zoo
from evomerge.zoo import facts, texts, tiny

ROOT = Path(__file__).parents[1]
DOMAINS = ["code", "docs", "unicode", "facts"]
BANKS = [*DOMAINS, "facts_exact"]


@pytest.fixture(scope="session")
def family() -> Path:
    return zoo.path("zoo:tiny")


def bank(family: Path, name: str) -> list[dict[str, Any]]:
    lines = (family / "banks" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def passage(item: dict[str, Any]) -> str:
    right = item["choices"][item["answer"]] if "choices" in item else item["answer"]
    return str(item["prompt"] + right)


def test_facts_are_true_and_repeatable() -> None:
    made = list(facts.made("seed", 600))
    assert made == list(facts.made("seed", 600))
    assert len(dict(made)) == 600
    words = {facts.words(number): number for number in range(10_000)}
    assert len(words) == 10_000
    for question, answer in made:
        parts = question.split()
        if "plus" in question or "minus" in question:
            sign = 1 if "plus" in question else -1
            assert words[answer] == int(parts[0]) + sign * int(parts[2])
        elif "words" in question:
            assert words[answer] == int(parts[0])
        elif question.startswith("after"):
            row = [int(part) for part in (question[6:-6] + ", " + answer).split(", ")]
            assert row == list(range(row[0], row[-1] + 1, row[1] - row[0]))
    ordinals = {1: "first", 2: "second", 3: "third", 5: "fifth", 8: "eighth", 12: "twelfth"}
    ordinals.update({4: "fourth", 20: "twentieth", 21: "twenty-first", 30: "thirtieth"})
    assert {number: facts.ordinal(number) for number in ordinals} == ordinals


@pytest.mark.parametrize("name", BANKS)
def test_a_bank_has_its_quotas_and_is_what_it_says(name: str, family: Path) -> None:
    items = bank(family, name)
    assert Counter(item["split"] for item in items) == {
        "search": 300,
        "validation": 300,
        "test": 600,
    }
    assert len({item["id"] for item in items}) == 1200
    assert len({item["prompt"] for item in items}) == 1200
    assert len({passage(item) for item in items}) == 1200
    for item in items:
        content = {key: item[key] for key in item if key not in ("id", "split")}
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        assert item["id"] == digest[:16]
        number = int(hashlib.sha256(passage(item).encode()).hexdigest()[:8], 16)
        assert item["split"] == ("search", "validation", "test", "test")[number % 4]
        assert passage(item).isascii()


@pytest.mark.parametrize("name", DOMAINS)
def test_choices_are_different_and_their_order_tells_nothing(name: str, family: Path) -> None:
    items = bank(family, name)
    for item in items:
        assert len(item["prompt"]) == 40
        assert [len(choice) for choice in item["choices"]] == [16] * 4
        assert len(set(item["choices"])) == 4
    assert all(250 < count < 350 for count in Counter(i["answer"] for i in items).values())


def test_no_wrong_choice_answers_a_fact(family: Path) -> None:
    for item in bank(family, "facts"):
        right = item["choices"].pop(item["answer"]).split("\n")[0]
        assert not any(choice.startswith(right) for choice in item["choices"])


@pytest.mark.slow
@pytest.mark.parametrize("name", BANKS)
def test_what_is_asked_was_not_trained_on(name: str, family: Path) -> None:
    trained = "".join(texts.split(name.removesuffix("_exact")).train)
    for item in bank(family, name):
        if name.startswith("facts"):
            question = item["prompt"].rpartition("\n")[2]
            assert f"\n{question}" not in trained
        assert passage(item) not in trained


def test_no_fact_is_in_two_items(family: Path) -> None:
    questions = [
        question
        for name in ("facts", "facts_exact")
        for item in bank(family, name)
        for question in [item["prompt"].rpartition("\n")[2]]
    ]
    shown = [item["prompt"].split("\n")[0] for item in bank(family, "facts_exact")]
    assert len(set(questions)) == 2400
    assert not [line for line in shown if line.rpartition(" is ")[0] + " is " in set(questions)]


def test_fitness_files_name_the_banks(family: Path) -> None:
    files = sorted((ROOT / "fitness").glob("tiny_*.yaml"))
    assert [file.stem for file in files] == sorted(f"tiny_{name}" for name in BANKS)
    for file in files:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        assert content["name"] == file.stem
        assert set(content) == {"name", "version", "scorer", "source", "licence", "description"}
        assert zoo.path(content["source"]).is_file()


# ---------------------------------------------------------------- models and tokenizer


@pytest.fixture(scope="session")
def tokenizer(family: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(family / "base")


@given(st.text())
def test_a_token_is_a_byte(tokenizer: Any, text: str) -> None:
    """But for the three marks that are tokens of their own, which hypothesis finds in the code."""
    assume(not any(mark in text for mark in tiny._SPECIALS))
    ids = tokenizer(text)["input_ids"]
    assert ids == list(text.encode())
    assert tokenizer.decode(ids) == text


def test_long_text_and_specials_survive(tokenizer: Any) -> None:
    rng = random.Random(5)
    text = "".join(
        chr(rng.choice([rng.randrange(32), rng.randrange(0xD800)])) for _ in range(3000)
    )
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer) == 259
    specials = "<|pad|><|begin|><|end|>"
    assert tokenizer(specials)["input_ids"] == [256, 257, 258]
    assert tokenizer.decode([72, 256, 257, 258], skip_special_tokens=True) == "H"


@pytest.mark.parametrize("member", ["base", *DOMAINS])
def test_members_load_quietly(
    member: str, family: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as hf_logging

    hf_logging.enable_propagation()
    try:
        with caplog.at_level(logging.WARNING):
            model = AutoModelForCausalLM.from_pretrained(family / member)
            text = AutoTokenizer.from_pretrained(family / member)
    finally:
        hf_logging.disable_propagation()
    assert not caplog.records
    assert "warn" not in capfd.readouterr().err.lower()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert 0.7e6 < sum(parameter.numel() for parameter in model.parameters()) < 0.9e6
    assert model.lm_head.weight is model.model.embed_tokens.weight
    said = model.generate(**text("12 plus", return_tensors="pt"), max_new_tokens=3)
    assert said.shape == (1, 10)


def test_the_manifest_lists_every_file(family: Path) -> None:
    manifest = json.loads((family / "manifest.json").read_text())
    assert manifest["recipe_sha256"] == zoo.recipe_hash("tiny")
    assert family.name == f"tiny-{manifest['recipe_sha256'][:12]}"
    assert manifest["recipe"] == tiny.RECIPE
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((family / name).read_bytes()).hexdigest() == digest
    there = {file.relative_to(family).as_posix() for file in family.rglob("*") if file.is_file()}
    assert there == {*manifest["files"], "manifest.json"}
    assert not list(family.rglob("*.bin")) and not list(family.rglob("*.p*t"))


def _lengths() -> Any:
    spec = importlib.util.spec_from_file_location("lengths", ROOT / "benchmarks/zoo_lengths.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_experts_know_their_domain_and_forget_others(family: Path) -> None:
    lengths = _lengths()
    rows = lengths.measure(family, "test", (0.2, 0.3))
    for place, domain in enumerate(DOMAINS):
        base, own = rows["base"][place], rows[domain][place]
        assert own >= base + 0.04 or base >= 0.9
        others = [other for other in range(4) if other != place]
        assert any(rows[domain][other] < rows["base"][other] for other in others)
    summary = lengths.summary(rows)
    assert summary["merged"] > summary["base"]
    assert summary["gap"] > 0.04


@pytest.mark.slow
def test_the_facts_expert_begins_answers_right(family: Path, tokenizer: Any) -> None:
    """Whole answers of several words are beyond a model of this size, first words are not."""
    from transformers import AutoModelForCausalLM

    items = [item for item in bank(family, "facts_exact") if item["split"] == "validation"]
    right = {}
    for member in ("base", "facts"):
        model = AutoModelForCausalLM.from_pretrained(family / member).eval()
        right[member] = 0
        for item in items[:100]:
            prompt = tokenizer(item["prompt"], return_tensors="pt")
            said = model.generate(**prompt, max_new_tokens=16, do_sample=False)[0]
            text = tokenizer.decode(said[prompt["input_ids"].shape[1] :])
            right[member] += text.replace(",", " ").split()[:1] == [item["answer"]]
    assert right["facts"] > right["base"] + 10
