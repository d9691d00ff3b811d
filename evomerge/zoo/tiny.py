"""zoo:tiny: a byte-level language model of a million parameters and four experts of it.

A base learns a little of four domains, four experts go on with one domain each. What everything is made
from ships with Python. The lengths were chosen as docs/zoo.md says, and are frozen.
"""

from __future__ import annotations

import json
import os
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
    "version": 1,
    "members": ["base", "code", "docs", "unicode", "facts"],
    "banks": ["code", "docs", "unicode", "facts", "facts_exact"],
    "model": {
        "hidden_size": 144,
        "intermediate_size": 416,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
    "training": {"batch": 16, "length": 128, "warmup": 30, "clip": 1.0, "decay": 0.1},
    "base": {"steps": 750, "rate": 3e-3, "seed": 1, "threads": 2},
    "expert": {"steps": 200, "rate": 1.5e-3, "seed": 2, "threads": 1},
}

_SPECIALS = ("<|pad|>", "<|begin|>", "<|end|>")
_SPACE = 64 * 2**20

# glibc gives large blocks back to the system at once; every step would fetch them again, zeroed.
_ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "HF_HUB_OFFLINE": "1",
}


def tokenizer() -> Any:
    """One token a byte, with the byte's value as its id; decoding gives back any UTF-8 text exactly."""
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
    return PreTrainedTokenizerFast(
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


def _batches(files: list[Path], settings: dict[str, Any], seed: int) -> Iterator[Any]:
    """Windows at random places, every text as likely as the others whatever its size."""
    import torch

    texts = [torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8) for file in files]
    rng = torch.Generator().manual_seed(seed)
    size, length = settings["batch"], settings["length"]
    while True:
        which = torch.randint(len(texts), (size,), generator=rng).tolist()
        where = torch.rand(size, generator=rng, dtype=torch.float64).tolist()
        rows = []
        for text, place in zip((texts[row] for row in which), where, strict=True):
            start = int(place * (len(text) - length))
            rows.append(text[start : start + length])
        yield torch.stack(rows).long()


def train(folder: Path, member: str) -> None:
    """Train one member in this process and save it, telling each step done on stdout."""
    import torch

    work = folder / "work"
    recipe = json.loads((work / "recipe.json").read_text(encoding="utf-8"))
    shared, own = recipe["training"], recipe["base" if member == "base" else "expert"]
    domains = recipe["members"][1:] if member == "base" else [member]
    torch.set_num_threads(own["threads"])
    model = _fresh(recipe)
    if member != "base":
        model = type(model).from_pretrained(folder / "base")
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=(0.9, 0.95), weight_decay=shared["decay"]
    )
    batches = _batches([work / f"{domain}.txt" for domain in domains], shared, own["seed"])
    for step, tokens in zip(range(own["steps"]), batches, strict=False):
        warm = min(1.0, (step + 1) / shared["warmup"])
        angle = torch.pi * step / own["steps"]
        for group in optimizer.param_groups:
            group["lr"] = own["rate"] * warm * 0.5 * (1 + torch.cos(torch.tensor(angle)).item())
        logits = model(input_ids=tokens, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
        )
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), shared["clip"])
        optimizer.step()
        optimizer.zero_grad()
        print(member, step + 1, loss.item(), flush=True)
    model.eval().save_pretrained(folder / member)
    tokenizer().save_pretrained(folder / member)


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


def build(folder: Path, report: Report, recipe: dict[str, Any] = RECIPE) -> None:
    """Make texts, banks, base and experts in `folder`, which exists and is empty.

    Training happens in processes of their own: the base with two threads, then two experts at a time.
    """
    from evomerge.zoo import banks, texts

    if shutil.disk_usage(folder).free < _SPACE:
        raise MachineError(f"zoo: less than {_SPACE >> 20} MB free at {folder}")
    report("writing texts and banks", 0.0)
    work = folder / "work"
    work.mkdir()
    (work / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    base, *experts = recipe["members"]
    for domain in experts:
        (work / f"{domain}.txt").write_bytes("".join(texts.split(domain)[0]).encode())
    banks.write(folder / "banks")
    # A step of an expert takes as long as one of the base: one thread instead of two, but two at a time.
    steps = recipe["base"]["steps"] + len(experts) * recipe["expert"]["steps"]
    with _Trainings(folder, steps, report) as trainings:
        trainings.run([base])
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(trainings.run, (experts[::2], experts[1::2])))
    shutil.rmtree(work)


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for name in sys.argv[2:]:
        train(Path(sys.argv[1]), name)
