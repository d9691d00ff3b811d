"""How long zoo:tiny trains, chosen by baselines alone: the table in docs/zoo.md.

Every setting trains a family and answers the validation items of the four choice banks with base,
experts and one global task-arithmetic coefficient (base + c * sum of task vectors). The gap is the
mean over the domains of the best of base and experts, minus the mean of the best coefficient.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from evomerge.zoo import tiny

DOMAINS = ("code", "docs", "unicode", "facts")
GRID = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0)
SETTINGS: tuple[tuple[dict[str, float], dict[str, float]], ...] = (
    ({"steps": 500}, {"replay": 0.1}),
    ({"steps": 800}, {"replay": 0.0}),
    ({"steps": 800}, {"replay": 0.05}),
    ({"steps": 800}, {"replay": 0.1}),
)
"""Changes to the recipe's base and experts; the third is the recipe."""

Items = tuple[torch.Tensor, torch.Tensor]


def items(bank: Path, split: str) -> Items:
    """Tokens (items, prompt + every choice) and the answers' places."""
    read = [json.loads(line) for line in bank.read_text(encoding="utf-8").splitlines()]
    read = [item for item in read if item["split"] == split]
    rows = [list((item["prompt"] + "".join(item["choices"])).encode()) for item in read]
    return torch.tensor(rows), torch.tensor([item["answer"] for item in read])


@torch.inference_mode()
def accuracy(model: Any, bank: Items, prompt: int = 40, long: int = 16) -> float:
    """The share of items whose real continuation is the likeliest of the four."""
    # An item is one row: the mask lets every choice see the prompt and itself alone.
    tokens, answers = bank
    width = tokens.shape[1]
    choice = (torch.arange(width) - prompt).div(long, rounding_mode="floor").clamp(min=-1)
    seen = (choice[None, :] == -1) | (choice[None, :] == choice[:, None])
    seen &= torch.arange(width)[None, :] <= torch.arange(width)[:, None]
    along = torch.arange(width)
    places = torch.where(choice < 0, along, prompt + (along - prompt) % long)
    scores = []
    for part in tokens.split(60):
        mask = (
            torch.zeros(width, width).masked_fill(~seen, -torch.inf).expand(len(part), 1, -1, -1)
        )
        logits = model(
            input_ids=part,
            attention_mask=mask,
            position_ids=places.expand(len(part), -1),
            use_cache=False,
        ).logits
        before = torch.arange(prompt - 1, width - 1)
        before[torch.arange(0, width - prompt, long)] = prompt - 1
        chances = logits[:, before].log_softmax(-1)
        chosen = chances.gather(-1, part[:, prompt:, None]).view(len(part), -1, long)
        scores.append(chosen.sum(-1))
    return (torch.cat(scores).argmax(1) == answers).double().mean().item()


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def measure(folder: Path, split: str, grid: tuple[float, ...] = GRID) -> dict[str, list[float]]:
    """The accuracies on the four domains of every member and every coefficient."""
    banks = [items(folder / "banks" / f"{domain}.jsonl", split) for domain in DOMAINS]
    models = {member: load(folder / member) for member in ("base", *DOMAINS)}
    rows = {name: [accuracy(model, bank) for bank in banks] for name, model in models.items()}
    base = {name: tensor.clone() for name, tensor in models["base"].state_dict().items()}
    experts = [models[domain].state_dict() for domain in DOMAINS]
    for coefficient in grid:
        merged = {
            name: tensor + coefficient * sum(expert[name] - tensor for expert in experts)
            for name, tensor in base.items()
        }
        models["base"].load_state_dict(merged)
        rows[f"{coefficient}"] = [accuracy(models["base"], bank) for bank in banks]
    return rows


def summary(rows: dict[str, list[float]]) -> dict[str, float]:
    mean = {name: sum(row) / len(row) for name, row in rows.items()}
    members = ("base", *DOMAINS)
    best = max((name for name in rows if name not in members), key=mean.__getitem__)
    room = sum(max(rows[name][place] for name in members) for place in range(len(DOMAINS))) / len(
        DOMAINS
    )
    return {
        "base": mean["base"],
        "expert": max(mean[name] for name in DOMAINS),
        "coefficient": float(best),
        "merged": mean[best],
        "best": room,
        "gap": room - mean[best],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--work", type=Path, help="keep what is trained here and use what is there"
    )
    parser.add_argument(
        "--family", type=Path, help="measure this built family instead of training"
    )
    parser.add_argument("--split", default="validation")
    given = parser.parse_args()
    disable_progress_bar()
    if given.family:
        show(str(given.family.name), measure(given.family, given.split), 0.0)
        return
    work = given.work or Path(tempfile.mkdtemp())
    for base, own in SETTINGS:
        started = time.monotonic()
        folder = trained(work, base, own)
        seconds = time.monotonic() - started
        show(folder.name, measure(folder, given.split), seconds)


def trained(work: Path, base: dict[str, float], own: dict[str, float]) -> Path:
    """Settings with the same base share it."""
    recipe = copy.deepcopy(tiny.RECIPE)
    recipe["base"].update(base)
    recipe["expert"].update(own)
    root = work / f"base-{base['steps']}"
    if not root.exists():
        root.mkdir(parents=True)
        tiny.prepare(root)
        tiny.train_absent(root, lambda *_: None, {**recipe, "members": ["base"]})
    folder = work / f"{root.name}-{'-'.join(f'{key}-{value}' for key, value in own.items())}"
    if not folder.exists():
        shutil.copytree(root, folder)
        tiny.train_absent(folder, lambda *_: None, recipe)
    return folder


def show(name: str, rows: dict[str, list[float]], seconds: float) -> None:
    print(f"\n## {name} ({seconds:.0f} s)")
    for row, values in rows.items():
        means = sum(values) / len(values)
        print(f"| {row} | {' | '.join(f'{value:.3f}' for value in values)} | {means:.3f} |")
    print(" ".join(f"{key} {value:.3f}" for key, value in summary(rows).items()), flush=True)


if __name__ == "__main__":
    main()
