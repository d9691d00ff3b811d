"""Random Llamas for benchmarks of building: a base, and experts that differ from it a little."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from evomerge import inputs
from evomerge.files import writer
from evomerge.layers import Layers
from evomerge.plan import Plan, Template


@dataclass(frozen=True)
class Shape:
    """By default that of SmolLM2-135M, with tied embeddings."""

    hidden: int = 576
    layers: int = 30
    heads: int = 9
    kv_heads: int = 3
    intermediate: int = 1536
    vocabulary: int = 49152
    alike: bool = False
    """Whether all layers have the numbers of the first, which are made once."""

    @property
    def config(self) -> dict[str, object]:
        return {
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "dtype": "bfloat16",
            "hidden_size": self.hidden, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.intermediate, "vocab_size": self.vocabulary,
            "tie_word_embeddings": True,
        }  # fmt: skip

    def tensors(self) -> dict[str, tuple[int, ...]]:
        h, kv, up = self.hidden, self.hidden // self.heads * self.kv_heads, self.intermediate
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, h)}
        for i in range(self.layers):
            shapes: dict[str, tuple[int, ...]] = {
                "input_layernorm": (h,), "post_attention_layernorm": (h,),
                "self_attn.q_proj": (h, h), "self_attn.o_proj": (h, h),
                "self_attn.k_proj": (kv, h), "self_attn.v_proj": (kv, h),
                "mlp.gate_proj": (up, h), "mlp.up_proj": (up, h), "mlp.down_proj": (h, up),
            }  # fmt: skip
            found |= {f"model.layers.{i}.{n}.weight": shape for n, shape in shapes.items()}
        return found | {"model.norm.weight": (h,)}


def build(folder: Path, shape: Shape, experts: int) -> list[Path]:
    """Folders of the base and its experts, bfloat16, made where they are not there yet."""
    found = [folder / name for name in ("base", *(f"expert-{k}" for k in range(1, experts + 1)))]
    source = folder / "source"
    source.mkdir(parents=True, exist_ok=True)
    (source / "config.json").write_text(json.dumps(shape.config))
    for number, place in enumerate(found):
        if not place.exists():
            tensors = _numbers(shape, number)
            sizes = shape.tensors()
            writer.write(place, tensors, source=source, dtype=torch.bfloat16, sizes=sizes)
    return found


def _numbers(shape: Shape, expert: int) -> Iterator[tuple[str, torch.Tensor]]:
    """The base's weights have a standard deviation of .02, task vectors one of .002."""
    made: dict[str, torch.Tensor] = {}
    for i, (name, size) in enumerate(shape.tensors().items()):
        place = re.sub(r"\.\d+\.", ".0.", name) if shape.alike else name
        if place not in made:
            weights = 0.02 * torch.randn(size, generator=torch.Generator().manual_seed(i))
            if expert:
                own = torch.Generator().manual_seed(1_000_003 * expert + i)
                weights += 0.002 * torch.randn(size, generator=own)
            made[place] = weights.bfloat16()
        yield name, made[place] if shape.alike else made.pop(place)


class Plans:
    """Plans of one family, its files opened and hashed once; base first."""

    def __init__(self, folders: list[Path]) -> None:
        base, *experts = folders
        named = {folder.name: str(folder) for folder in experts}
        self.found = inputs.load(str(base), named, Path.cwd())
        self.files = self.found.files
        self.tensors = self.found.sources[0].tensors

    def plan(self, operator: str, variant: int = 0, blocks: int = 1, changed: str = "") -> Plan:
        """Weights of their own for each expert and variant, and others in the group `changed`;
        all else at its default."""
        layers = Layers(blocks=blocks)
        base, *experts = self.found.inputs
        template = Template(
            base=base, experts=tuple(experts), layers=layers, operators=(operator,),
            groups=tuple(dict.fromkeys(layers.groups(self.tensors).values())), dtype="bfloat16",
        )  # fmt: skip
        order = [expert.name for expert in experts]
        values = {
            gene.key: 0.3 + 0.1 * order.index(gene.expert) + 0.001 * variant
            + 0.01 * (gene.group == changed)
            for gene in template.genes()
            if gene.name == "weight"
        }  # fmt: skip
        return template.plan(values)
