"""Record what PEFT makes of small adapters, for test_adapters.py.

Run in an environment that has peft: python -m tests.record_peft tests/peft.safetensors
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, __version__, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

LLAMA = LlamaConfig(
    vocab_size=24, hidden_size=8, intermediate_size=12, num_hidden_layers=1,
    num_attention_heads=2, num_key_value_heads=1, bos_token_id=1, eos_token_id=1,
)  # fmt: skip
GPT2 = GPT2Config(
    vocab_size=24, n_embd=8, n_layer=1, n_head=2, n_positions=16, bos_token_id=1, eos_token_id=1
)
CASES = {
    "plain": (LLAMA, {"r": 3, "target_modules": ["q_proj", "down_proj"]}),
    "rslora": (LLAMA, {"r": 4, "use_rslora": True, "target_modules": ["v_proj", "gate_proj"]}),
    "patterns": (
        LLAMA,
        {
            "r": 2,
            "target_modules": ["q_proj", "k_proj", "up_proj"],
            "alpha_pattern": {"q_proj": 7, "layers.0.mlp.up_proj": 1},
            "rank_pattern": {"k_proj": 3},
        },
    ),
    "words": (
        LLAMA,
        {"r": 2, "target_modules": ["embed_tokens", "q_proj"], "modules_to_save": ["lm_head"]},
    ),
    "conv1d": (
        GPT2,
        {"r": 2, "fan_in_fan_out": True, "target_modules": ["c_attn", "c_proj", "c_fc"]},
    ),
    "bias": (
        GPT2,
        {"r": 2, "fan_in_fan_out": True, "bias": "all", "target_modules": ["c_attn"]},
    ),
    "lora_bias": (
        GPT2,
        {"r": 2, "fan_in_fan_out": True, "lora_bias": True, "target_modules": ["c_attn"]},
    ),
}


def record(config, options) -> tuple[dict[str, torch.Tensor], str]:
    """Tensors `base/NAME`, `adapter/NAME` and `merged/NAME`, and the adapter's config."""
    torch.manual_seed(0)
    kind = LlamaForCausalLM if config is LLAMA else GPT2LMHeadModel
    tensors = {}
    with tempfile.TemporaryDirectory() as folder:
        model = kind(config).eval()
        model.save_pretrained(f"{folder}/base")
        lora = LoraConfig(task_type="CAUSAL_LM", lora_alpha=5, **options)
        adapted = get_peft_model(model, lora)
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape) * 0.1)
        adapted.save_pretrained(f"{folder}/adapter")
        adapted.merge_and_unload().save_pretrained(f"{folder}/merged")
        for part, file in (("base", "model"), ("adapter", "adapter_model"), ("merged", "model")):
            found = load_file(f"{folder}/{part}/{file}.safetensors")
            tensors |= {f"{part}/{name}": tensor for name, tensor in found.items()}
        told = json.loads(Path(folder, "adapter", "adapter_config.json").read_text())
    return tensors, json.dumps(told | {"base_model_name_or_path": ""})


if __name__ == "__main__":
    everything, configs = {}, {"peft": __version__}
    for case, (config, options) in CASES.items():
        tensors, configs[case] = record(config, options)
        everything |= {f"{case}/{name}": tensor for name, tensor in tensors.items()}
    save_file(everything, sys.argv[1], metadata=configs)
