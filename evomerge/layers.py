"""Which group of genes each tensor belongs to: depth blocks, roles, and what has no depth."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_serializer

from evomerge import errors

Role = Literal["attention", "mlp", "norm", "embedding", "router", "experts", "conv"]

APART = ("embedding", "head", "tower", "projector")
"""Roles outside of all blocks: each is a group of its own. A tower is what sees or hears for a
language model, a projector brings its findings there."""

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

    `role`: attention, mlp, norm, router, experts, conv, one of APART, or other. `depth`: its
    layer, from 0; None outside of all layers. `layers`: how many the model has (0: none are
    numbered). `offset`: whether it is a norm that scales by 1 + w.
    """

    name: str
    shape: tuple[int, ...]
    role: str = "other"
    depth: int | None = None
    layers: int = 0
    offset: bool = False

    def is_matrix(self, embeddings: bool = False) -> bool:
        """Whether it maps vectors to vectors; embedding and head, which look rows up by token,
        only if asked for."""
        return len(self.shape) == 2 and (embeddings or self.role not in ("embedding", "head"))


class Structure(BaseModel):
    """The blocks and roles of a model's tensors, as found from its modules.

    Paths are those of tensors, with `*` for every number. `stacks`: the repeated blocks
    (`model.layers.*`) in the order of the computation, the last `*` counting them. `roles`: what
    is below a path, the longest one deciding. `offset`: norms that scale by 1 + w.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stacks: tuple[str, ...]
    roles: dict[str, str]
    offset: tuple[str, ...] = ()

    def role(self, name: str) -> str | None:
        """What a tensor is for; None for one that the modules do not have."""
        path = starred(name)
        while path not in self.roles and path:
            path = path.rpartition(".")[0]
        return self.roles.get(path)

    def place(self, name: str) -> tuple[int, int | None] | None:
        """(stack, number of the block in it) of a tensor; no number beside a stack's blocks."""
        for i, pattern in enumerate(self._patterns):
            if found := pattern.match(name):
                return i, int(found[1])
        beside = [
            (len(stack), i)
            for i, stack in enumerate(self.stacks)
            if f"{starred(name)}.".startswith(f"{_parent(_parent(stack))}.")
        ]
        return (max(beside)[1], None) if beside else None

    def beside(self, names: Iterable[str]) -> frozenset[str]:
        """Tensors that go with a stack, as its last norm does, and are in none of its blocks."""
        return frozenset(name for name in names if (self.place(name) or (0, 0))[1] is None)

    @cached_property
    def _patterns(self) -> list[re.Pattern[str]]:
        parts = [re.escape(stack[:-1]).replace(r"\*", r"\d+") for stack in self.stacks]
        return [re.compile(rf"{part}(\d+)\.") for part in parts]


def starred(name: str) -> str:
    """A tensor's name with `*` for each of its numbers."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


class Resolution(BaseModel):
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
        return (*APART, *numbered)


class Layers(Resolution):
    """A resolution, and the `structure` it is of, where names alone do not tell it."""

    structure: Structure | None = None

    @model_serializer(mode="wrap")
    def _brief(self, serialize: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        found = serialize(self)
        return {key: value for key, value in found.items() if value or key != "structure"}

    def groups(self, names: Iterable[str]) -> dict[str, str]:
        """Tensor name -> group: `2`, `2/mlp`, `2/other`, `embedding`, `head`, `tower`, ...

        Tensors above all layers, such as the last norm, belong to the last block.
        Raises RecipeError for more blocks than layers.
        """
        names = list(names)
        depths, n_layers = self._depths(names)
        blocks = n_layers if self.blocks == "all" else self.blocks
        if not 1 <= blocks <= n_layers:
            raise errors.RecipeError(
                f"space.blocks: expected 1 to {n_layers} (the model's layers) or 'all', "
                f"got {self.blocks}"
            )
        groups = {}
        for name in names:
            depth, role = depths[name], self._role(name, depths[name])
            block = str((n_layers - 1 if depth is None else depth) * blocks // n_layers + 1)
            kind = role if role in self.roles else "other"
            groups[name] = role if role in APART else f"{block}/{kind}" if self.roles else block
        return groups

    def places(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Place]:
        """The place of every tensor of a model, by name."""
        depths, layers = self._depths(list(shapes))
        beside = self.structure.beside(shapes) if self.structure is not None else frozenset()
        offset = self.structure.offset if self.structure is not None else ()
        numbered = any(depth is not None for depth in depths.values())
        return {
            name: Place(
                name, shape, self._role(name, depths[name]),
                None if name in beside else depths[name], layers if numbered else 0,
                starred(name) in offset,
            )
            for name, shape in shapes.items()
        }  # fmt: skip

    def _role(self, name: str, depth: int | None) -> str:
        told = self.structure.role(name) if self.structure is not None else None
        if told is not None:
            return told
        if depth is None and _EMBEDDING.search(name):
            return "embedding"
        if depth is None and _HEAD.search(name):
            return "head"
        return next((role for role, pattern in _ROLES if pattern.search(name)), "other")

    def _depths(self, names: list[str]) -> tuple[dict[str, int | None], int]:
        """How deep each tensor is, one stack after the other, and the number of layers."""
        if self.structure is None:
            numbers = {name: _DEPTH.search(name) for name in names}
            depths = {name: int(n[1]) if n else None for name, n in numbers.items()}
            return depths, 1 + max((n for n in depths.values() if n is not None), default=0)
        places = {name: self.structure.place(name) for name in names}
        sizes = [0] * len(self.structure.stacks)
        for stack, number in filter(None, places.values()):
            sizes[stack] = max(sizes[stack], 1 + (number or 0))
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        found: dict[str, int | None] = dict.fromkeys(names)
        for name, place in places.items():
            if place is not None:
                stack, number = place
                found[name] = (
                    ends[stack] - 1 if number is None else number + ends[stack] - sizes[stack]
                )
        return found, max(1, sum(sizes))
