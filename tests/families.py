"""A random Llama of two layers, two experts of it, and a bank: enough to search in a second."""

import json
import random
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from evomerge.zoo.tiny import tokenizer

RECIPE = {
    "name": "small",
    "operator": "task_arithmetic",
    "space": {"blocks": 2, "genes": {"weight": [0, 1.2]}},
    "strategy": {"name": "nsga2", "population": 6},
    "fidelity": {"name": "first", "items": 20},
    "budget": {"candidates": 18},
    "batch": 20,
    "ask": 3,
    "shortlist": 4,
    "seed": 3,
}


def build(folder: Path) -> Path:
    config = LlamaConfig(
        vocab_size=260,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        bos_token_id=256,
        eos_token_id=257,
        pad_token_id=258,
    )
    for i, name in enumerate(("base", "left", "right")):
        generator = torch.Generator().manual_seed(0)
        model = LlamaForCausalLM(config)
        for tensor in model.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
        generator.manual_seed(i)
        for tensor in model.state_dict().values() if i else ():
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.1)
        model.save_pretrained(folder / name)
        tokenizer().save_pretrained(folder / name)
    for bank in ("one", "two"):
        items = questions(bank, 30, 20)  # a block of `validation` and of `test` is all of it
        (folder / f"{bank}.jsonl").write_text("".join(f"{json.dumps(i)}\n" for i in items))
    return folder


def questions(seed: str, n: int, after: int | None = None) -> list[dict[str, object]]:
    """Four-choice items of random lower-case words: n of `search`, and as many or `after` of the
    other splits each."""
    draw = random.Random(seed)

    def word() -> str:
        return "".join(draw.choices("abcdefghij ", k=draw.randint(3, 9)))

    return [
        {
            "prompt": word() * 2,
            "choices": [f"{word()}{i}" for i in range(4)],
            "answer": draw.randrange(4),
            "split": split,
        }
        for split in ("search", "validation", "test")
        for _ in range(n if split == "search" or after is None else after)
    ]


def recipe(folder: Path, **changes) -> dict[str, object]:
    """A recipe for the family, as a mapping."""
    inputs = {
        "base": str(folder / "base"),
        "experts": {name: str(folder / name) for name in ("left", "right")},
        "objectives": {name: str(folder / f"{name}.jsonl") for name in ("one", "two")},
    }
    return {**RECIPE, **inputs, **changes}
