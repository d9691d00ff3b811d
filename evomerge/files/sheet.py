"""The keys of a bank's YAML file."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from evomerge.files.items import SPLITS

Text = Annotated[str, pydantic.Field(min_length=1)]
Split = Literal["search", "validation", "test"]
Share = Annotated[float, pydantic.Field(ge=0, le=1, strict=False)]


class Shares(pydantic.BaseModel):
    """How large each split is to be; items that name their split stay there."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)
    search: Share = 0.0
    validation: Share = 0.0
    test: Share = 0.0

    @pydantic.model_validator(mode="after")
    def _whole(self) -> Shares:
        total = self.search + self.validation + self.test
        if abs(total - 1.0) > 1e-6:
            raise ValueError(f"shares must sum to 1, sum is {total:g}")
        return self


class Benchmark(pydantic.BaseModel):
    """The public benchmark that a bank's items are from, and the splits that hold items of its
    published test set; none, if they are all from its training set."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)
    name: Text
    public_test: list[Split]

    def contamination(self) -> str:
        """What a search on such a bank does to its claims; empty where it does nothing."""
        selecting = [split for split in SPLITS[:2] if split in self.public_test]
        return (
            f"models are selected on the public test set of {self.name} ({', '.join(selecting)}), "
            "so that no score on that benchmark can be claimed for them"
            if selecting
            else ""
        )


class Dataset(pydantic.BaseModel):
    """A data set that the package `datasets` reads: a folder beside the YAML, or a name on a hub.

    `split` is one of its splits, or names the one that each of ours is; `columns` says which of
    its columns is what of an item, `choices.text` being a column inside another. Without them,
    columns with the names of an item's keys are taken.
    """

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)
    datasets: Text
    config: Text | None = None
    revision: Text | None = None
    split: Text | Annotated[dict[Split, Text], pydantic.Field(min_length=1)]
    columns: dict[Literal["id", "prompt", "question", "text", "choices", "answer"], Text] = {}

    @pydantic.field_validator("split")
    @classmethod
    def _apart(cls, value: str | dict[Split, str]) -> str | dict[Split, str]:
        if isinstance(value, dict) and len(set(value.values())) < len(value):
            raise ValueError("expected another split for each; one alone is divided by its items")
        return value

    def splits(self) -> dict[str, str | None]:
        """Its splits that are read, and which of ours each is (None: as its items say)."""
        split = self.split
        if isinstance(split, str):
            return {split: None}
        return {split[ours]: ours for ours in SPLITS if ours in split}

    def benchmark(self, folder: Path) -> Benchmark | None:
        """What is published as `test` on a hub is taken to be a public test set."""
        if (folder / Path(self.datasets).expanduser()).is_dir():
            return None
        asked = [ours for theirs, ours in self.splits().items() if _has_test(theirs)]
        public = [split for split in SPLITS if split in asked or None in asked]
        return Benchmark.model_validate({"name": self.datasets, "public_test": public})


def _has_test(split: str) -> bool:
    """Whether a split as the package datasets writes it, "train+test[:9]", has rows of `test`."""
    parts = (part.strip() for part in split.split("+"))
    return any(part.startswith("test") or part == "all" for part in parts)


class Sheet(pydantic.BaseModel):
    """The keys of a bank's YAML file."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)
    name: Text
    version: Annotated[int, pydantic.Field(ge=1)]
    scorer: dict[str, Any]
    source: Text | Dataset | None = None
    items: list[Any] | None = None
    description: str = ""
    licence: str = ""
    prompt: str = "{prompt}"
    shots: Annotated[int, pydantic.Field(ge=0)] | None = None
    examples: Annotated[list[Any], pydantic.Field(min_length=1)] | None = None
    split: Shares | None = None
    benchmark: Benchmark | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Those of the scorer."""
        return {key: value for key, value in self.scorer.items() if key != "name"}

    @pydantic.field_validator("scorer", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        scorer = {"name": value} if isinstance(value, str) else value
        if not isinstance(scorer, dict) or not isinstance(scorer.get("name"), str):
            raise ValueError("expected the name of a scorer, or a mapping with 'name' and options")
        return scorer

    @pydantic.field_validator("benchmark", mode="before")
    @classmethod
    def _with_splits(cls, value: object) -> object:
        if not isinstance(value, dict):
            raise ValueError(
                "expected a mapping with 'name' and 'public_test', the list of the splits that "
                "hold items of its test set"
            )
        return value

    @pydantic.field_validator("prompt")
    @classmethod
    def _template(cls, value: str) -> str:
        names = [
            (name, spec, conversion)
            for _, name, spec, conversion in string.Formatter().parse(value)
            if name is not None
        ]
        if not names or any(part != ("prompt", "", None) for part in names):
            raise ValueError("expected a text with {prompt}; other braces are doubled")
        return value

    @pydantic.model_validator(mode="after")
    def _one_origin(self) -> Sheet:
        if self.source is not None and self.items is not None:
            raise ValueError("expected either 'source' or 'items'")
        return self
