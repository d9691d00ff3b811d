"""Which group of genes each tensor belongs to: depth blocks, roles, embedding, head."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from evomerge import errors

Role = Literal["attention", "mlp", "norm", "embedding"]

_DEPTH = re.compile(r"\.(\d+)\.")
# The first pattern that fits decides, so `post_attention_layernorm` is a norm.
_ROLES = (
    ("norm", re.compile(r"norm|\bln_|\.ln_", re.I)),
    ("attention", re.compile(r"attn|attention", re.I)),
    ("mlp", re.compile(r"mlp|ffn|feed_forward|experts|\.fc\d|dense", re.I)),
)
_EMBEDDING = re.compile(r"embed|\bwte\b|\bwpe\b|\bshared\b", re.I)
_HEAD = re.compile(r"^(lm_head|score|classifier|embed_out|cls)\b")


MOST_BLOCKS = 1000


@dataclass(frozen=True)
class Place:
    """Where a tensor stands in its model: what an operator may know of it beside its numbers.

    `role`: attention, mlp, norm, embedding, head or other. `depth`: its layer, from 0; None
    outside of all layers. `layers`: how many the model has (0: none are numbered).
    """

    name: str
    shape: tuple[int, ...]
    role: str = "other"
    depth: int | None = None
    layers: int = 0

    def is_matrix(self, embeddings: bool = False) -> bool:
        """Whether it maps vectors to vectors; embedding and head, which look rows up by token,
        only if asked for."""
        return len(self.shape) == 2 and (embeddings or self.role not in ("embedding", "head"))


def places(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Place]:
    """The place of every tensor of a model, by name."""
    depths = {name: _depth(name) for name in shapes}
    layers = 1 + max((depth for depth in depths.values() if depth is not None), default=-1)
    return {
        name: Place(name, shape, _role(name, depths[name]), depths[name], layers)
        for name, shape in shapes.items()
    }


class Layers(BaseModel):
    """How finely genes follow the depth of a model (`blocks`) and the roles of its tensors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    blocks: int | Literal["all"] = Field(default=1)
    roles: tuple[Role, ...] = ()

    @field_validator("blocks", mode="before")
    @classmethod
    def _whole_or_all(cls, value: Any) -> Any:
        if value != "all" and (type(value) is not int or not 1 <= value <= MOST_BLOCKS):
            raise ValueError("expected a whole number from 1, or 'all'")
        return value

    def imaginable(self) -> tuple[str, ...]:
        """Every group that some model could have; of blocks `all`, those of the first."""
        blocks = 1 if self.blocks == "all" else self.blocks
        roles = [f"/{role}" for role in (*self.roles, "other")] if self.roles else [""]
        numbered = (f"{block + 1}{role}" for block in range(blocks) for role in roles)
        return ("embedding", *numbered, "head")

    def groups(self, names: Iterable[str]) -> dict[str, str]:
        """Tensor name -> group: `2`, `2/mlp`, `2/other`, `embedding` or `head`.

        Tensors above all layers, such as the last norm, belong to the last block.
        Raises RecipeError for more blocks than layers.
        """
        names = list(names)
        depths = {name: _depth(name) for name in names}
        n_layers = 1 + max((depth for depth in depths.values() if depth is not None), default=0)
        blocks = n_layers if self.blocks == "all" else self.blocks
        if not 1 <= blocks <= n_layers:
            raise errors.RecipeError(
                f"space.blocks: expected 1 to {n_layers} (the model's layers) or 'all', "
                f"got {self.blocks}"
            )
        return {name: self._group(name, depths[name], n_layers, blocks) for name in names}

    def _group(self, name: str, depth: int | None, n_layers: int, blocks: int) -> str:
        role = _role(name, depth)
        if role in ("embedding", "head"):
            return role
        block = str((n_layers - 1 if depth is None else depth) * blocks // n_layers + 1)
        if not self.roles:
            return block
        return f"{block}/{role if role in self.roles else 'other'}"


def _role(name: str, depth: int | None) -> str:
    if depth is None and _EMBEDDING.search(name):
        return "embedding"
    if depth is None and _HEAD.search(name):
        return "head"
    return next((role for role, pattern in _ROLES if pattern.search(name)), "other")


def _depth(name: str) -> int | None:
    found = _DEPTH.search(name)
    return int(found.group(1)) if found else None
