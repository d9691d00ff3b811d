"""zoo:tiny: a byte-level language model of 0.8 million parameters and four experts of it.

A base learns a little of four domains, four experts go on with one domain each, from texts that
ship with Python. Matrices are trained by Muon (Jordan et al. 2024), which gets as far as AdamW in
half the steps here. The lengths were chosen as docs/zoo.md says, and are frozen.
"""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from evomerge.errors import MachineError

Report = Callable[[str, float], None]

RECIPE: dict[str, Any] = {
    "family": "tiny",
    "version": 3,
    "members": ["base", "code", "docs", "unicode", "facts"],
    "banks": ["code", "docs", "unicode", "facts", "facts_exact"],
    "model": {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    },
    "training": {"length": 64, "batch": 16, "warmup": 30, "cooldown": 0.4, "clip": 1.0},
    "base": {"steps": 800, "rate": 4e-3, "vectors": 3e-3, "replay": 1.0, "seed": 3, "threads": 2},
    "expert": {
        "steps": 250,
        "rate": 2e-3,
        "vectors": 1e-3,
        "replay": 0.05,
        "seed": 4,
        "threads": 1,
    },
}

_SPECIALS = ("<|pad|>", "<|begin|>", "<|end|>")
_SPACE = 64 * 2**20

# Two threads that wait by spinning take fifty times as long when a third process wants a core; and
# glibc gives large blocks back to the system at once, so that every step fetches them anew.
_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "HF_HUB_OFFLINE": "1",
}


def tokenizer() -> Any:
    """One token a byte, the byte's value as its id; decoding gives any UTF-8 text back exactly."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = sorted(set(range(256)).difference(shown))
    alphabet = {byte: chr(byte) for byte in shown}
    alphabet.update({byte: chr(256 + place) for place, byte in enumerate(hidden)})
    backend = Tokenizer(models.BPE({alphabet[byte]: byte for byte in range(256)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True) for name in _SPECIALS])
    pad, begin, end = _SPECIALS
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        pad_token=pad,
        bos_token=begin,
        eos_token=end,
        clean_up_tokenization_spaces=False,
        model_max_length=RECIPE["model"]["max_position_embeddings"],
    )


def _fresh(recipe: dict[str, Any]) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(recipe["base"]["seed"])
    config = LlamaConfig(
        vocab_size=256 + len(_SPECIALS),
        pad_token_id=256,
        bos_token_id=257,
        eos_token_id=258,
        **recipe["model"],
    )
    return LlamaForCausalLM(config)


def _batches(
    work: Path, domain: str, shared: dict[str, Any], own: dict[str, Any]
) -> Iterator[Any]:
    """Windows at random places of the domain and, for the share of the replay, of all four."""
    import torch

    from evomerge.zoo import texts

    content = {name: (work / f"{name}.txt").read_bytes() for name in texts.DOMAINS}
    rng = random.Random(f"{own['seed']} {domain}")
    while True:
        rows = []
        for _ in range(shared["batch"]):
            replayed = rng.random() < own["replay"]
            text = content[rng.choice(list(content)) if replayed else domain]
            start = rng.randrange(len(text) - shared["length"])
            rows.append(list(text[start : start + shared["length"]]))
        yield torch.tensor(rows)


def _twin(model: Any) -> Any:
    """A model with the same weights, which are one piece of memory, and gradients of its own."""
    twin = copy.deepcopy(model)
    for mine, its in zip(twin.parameters(), model.parameters(), strict=True):
        mine.data = its.data
    return twin


def _share(step: int, steps: int, training: dict[str, Any]) -> float:
    """Of the full rate: up in a line, level, and down in a line over the last `cooldown`."""
    down = (steps - step) / steps / training["cooldown"]
    return float(min(1.0, (step + 1) / training["warmup"], down))


def _backward(model: Any, tokens: Any) -> float:
    import torch

    logits = model(input_ids=tokens, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item()


def train(folder: Path, member: str) -> None:
    """Train one member in this process and save it, telling each step done on stdout."""
    import torch

    from evomerge.zoo import muon

    work = folder / "work"
    recipe = json.loads((work / "recipe.json").read_text(encoding="utf-8"))
    shared, own = recipe["training"], recipe["base" if member == "base" else "expert"]
    torch.set_num_threads(1)
    model = _fresh(recipe)
    if member != "base":
        model = type(model).from_pretrained(folder / "base")
    model.train()
    # Halves of a batch in threads of their own: torch's threads inside one gain a third of that.
    models = [model, *(_twin(model) for _ in range(own["threads"] - 1))]
    optimizers = muon.optimizers(model, own)
    full = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    batches = _batches(work, member, shared, own)
    with ThreadPoolExecutor(own["threads"]) as pool:
        for step, tokens in zip(range(own["steps"]), batches, strict=False):
            losses = list(pool.map(_backward, models, tokens.chunk(len(models))))
            _gather(models)
            torch.nn.utils.clip_grad_norm_(model.parameters(), shared["clip"])
            for optimizer, rate in zip(optimizers, full, strict=True):
                optimizer.param_groups[0]["lr"] = rate * _share(step, own["steps"], shared)
            list(pool.map(muon.step, optimizers))
            model.zero_grad()
            print(member, step + 1, sum(losses) / len(losses), flush=True)
    model.eval().save_pretrained(folder / member)
    tokenizer().save_pretrained(folder / member)


def _gather(models: list[Any]) -> None:
    """The mean of all gradients into the first model, always summed in the same order."""
    for first, *others in zip(*(model.parameters() for model in models), strict=True):
        for other in others:
            first.grad += other.grad
            other.grad = None
        first.grad /= len(models)


class _Trainings:
    """The processes of one build; when it fails, none of them lives on."""

    def __init__(self, folder: Path, steps: int, report: Report) -> None:
        self.folder, self.steps, self.report = folder, steps, report
        self.done = 0
        self.lock = threading.Lock()
        self.processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> _Trainings:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()

    def run(self, members: list[str]) -> None:
        command = [sys.executable, "-m", "evomerge.zoo.tiny", str(self.folder), *members]
        root = str(Path(__file__).parents[2])
        paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, **_ENVIRONMENT, "PYTHONPATH": paths}
        with tempfile.TemporaryFile("w+") as problems:
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=problems,
                text=True,
            )
            self.processes.append(process)
            with process:
                assert process.stdout
                for line in process.stdout:
                    with self.lock:
                        self.done += 1
                        self.report(f"training {line.split()[0]}", self.done / self.steps)
            if process.returncode:
                problems.seek(0)
                said = problems.read().strip().splitlines() or [f"exit code {process.returncode}"]
                raise MachineError(f"zoo: training {', '.join(members)} failed: {said[-1]}")


def train_absent(folder: Path, report: Report, recipe: dict[str, Any]) -> None:
    """Train the members `folder` does not have yet, from the texts in its `work`.

    In processes of their own: the base with two threads, then two experts at a time.
    """
    (folder / "work" / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    absent = [member for member in recipe["members"] if not (folder / member).exists()]
    experts = [member for member in absent if member != "base"]
    steps = len(experts) * recipe["expert"]["steps"]
    steps += recipe["base"]["steps"] if "base" in absent else 0
    # The pool is left last: it waits for threads, which wait for processes, which are ended first.
    with ThreadPoolExecutor(2) as pool, _Trainings(folder, steps, report) as trainings:
        if "base" in absent:
            trainings.run(["base"])
        list(pool.map(trainings.run, filter(None, (experts[::2], experts[1::2]))))


def prepare(folder: Path) -> None:
    """Write the banks, and the texts to train on into `work`."""
    from evomerge.zoo import banks, texts

    work = folder / "work"
    work.mkdir()
    sides = {domain: texts.split(domain) for domain in texts.DOMAINS}
    for domain, both in sides.items():
        (work / f"{domain}.txt").write_bytes("".join(both.train).encode())
    banks.write(folder / "banks", sides)


def build(folder: Path, report: Report) -> None:
    """Make the whole family in `folder`, which exists and is empty."""
    if shutil.disk_usage(folder).free < _SPACE:
        raise MachineError(f"zoo: less than {_SPACE >> 20} MB free at {folder}")
    report("writing texts and banks", 0.0)
    prepare(folder)
    train_absent(folder, report, RECIPE)
    shutil.rmtree(folder / "work")


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for name in sys.argv[2:]:
        train(Path(sys.argv[1]), name)
