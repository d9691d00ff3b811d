"""The keys of a recipe's YAML file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from evomerge import budget, errors
from evomerge.files.items import SPLITS
from evomerge.layers import Resolution
from evomerge.plan import Dtype

Text = Annotated[str, Field(min_length=1)]
Signal = Literal["score", "probability", "plain", "length"]


NAME = r"^\w[\w.-]*$"

OF_A_POINT = ("point", "chosen", "nondominated", *(f"mean_{split}" for split in SPLITS))
"""Keys of a front's rows that are no objectives."""

LACKING = "lacks what it has to keep"

OF_A_CANDIDATE = ("items", LACKING)
"""Further keys of the rows of a front that is not confirmed."""


def require_own_keys(names: Sequence[str], where: str, taken: Sequence[str] = ()) -> None:
    """Raise RecipeError for a score whose name is a key of rows or a bound of another."""
    bounds = [f"{name}_{end}" for name in names for end in ("low", "high")]
    for name in names:
        if name in (*OF_A_POINT, *taken) or name in bounds:
            raise errors.RecipeError(
                f"{where}: '{name}' can not be the name of a score: rows of a front have this key "
                "for something else; choose another"
            )


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SpaceOptions(Resolution):
    """The resolution of the genome; `genes` narrows ranges, fixes values or adds genes.

    Keys of `genes` are `weight`, `ties.weight`, `weight[code]`, `weight@2` or a mix; values a
    number or choice (fixed), [low, high], a list of choices, or `search` (the whole range).
    """

    genes: dict[str, float | str | list[float] | list[str]] = Field(default_factory=dict)

    @field_validator("genes", mode="before")
    @classmethod
    def _one_of_four(cls, value: Any) -> Any:
        for key, given in value.items() if isinstance(value, Mapping) else ():
            parts = given if isinstance(given, list) else [given]
            kinds = {str if isinstance(part, str) else type(part) for part in parts}
            if not (kinds <= {int, float} or kinds == {str}) or not parts:
                raise ValueError(
                    f"'{key}': expected a number or a choice (fixed), [low, high], a list of "
                    "choices, or 'search'"
                )
        return value


class Objective(_Part):
    """A bank by name or path, a function as `module:name`, or a measure of the model such as
    `sparsity`; `signal` is what the search sees. `length` is another score of a bank of generated
    texts: the shorter they are the better, in the search and in what is reported."""

    bank: Text | None = None
    function: Text | None = None
    measure: Text | None = None
    signal: Signal = "score"


class Fidelity(_Part):
    """Which items of each bank's `search` split a candidate is asked; how its answers are read.

    All of them, the `first` of a fixed order, a `random` draw, one in equal parts from strata of
    difficulty, or the most informative for the front and a share `random` from strata. Everybody
    is asked the same `items`. `estimator` is `mean`, `stratified`, `p_irt` or `equated`. When
    `every` further candidates have been told, a share `rotate` of the items (at least one, if it
    is not 0) is replaced, and the best candidates, `elites`, answer the new ones; when half as
    many again have been told, item response theory is fitted anew. The first `calibration`
    candidates, and the first `recalibration` after each fit, are asked every item.
    """

    name: Literal["all", "first", "random", "stratified", "informative"] = "all"
    items: int | None = Field(default=None, ge=1)
    estimator: Literal["mean", "stratified", "p_irt", "equated"] | None = None
    random: float = Field(default=0.3, ge=0, le=1)
    calibration: int | None = Field(default=None, ge=0)
    recalibration: int | None = Field(default=None, ge=0)
    every: int = Field(default=25, ge=1)
    rotate: float | None = Field(default=None, ge=0, le=1)
    elites: int | None = Field(default=None, ge=0)

    @property
    def reads(self) -> str:
        """The estimator: by default the mean, of strata where items are chosen by them. What one
        model has chosen is not read by it too, or its misfit counts twice."""
        by_strata = self.name in ("informative", "stratified")
        return self.estimator or ("stratified" if by_strata else "mean")

    @property
    def draws(self) -> bool:
        """Whether items are chosen, not taken in their fixed order."""
        return self.name not in ("all", "first")

    @property
    def modelled(self) -> bool:
        """Whether item response theory is fitted."""
        return self.name == "informative" or self.reads in ("p_irt", "equated")

    @property
    def whole(self) -> int:
        """How many of the first candidates are asked every item."""
        return (6 if self.modelled else 0) if self.calibration is None else self.calibration

    @property
    def fresh(self) -> int:
        """How many candidates after each further fit are asked every item."""
        return int(self.modelled) if self.recalibration is None else self.recalibration

    @property
    def rotates(self) -> float:
        """The share of the items that is replaced each time."""
        return (
            (0.3 if self.modelled and self.draws else 0.0) if self.rotate is None else self.rotate
        )

    @property
    def refits(self) -> bool:
        """Whether there are further fits after the first."""
        return self.modelled or self.rotates > 0

    def identity(self) -> dict[str, Any]:
        """What was given, so that a run keeps its identity when there are further options."""
        return {"name": self.name, "items": self.items, **self.model_dump(exclude_defaults=True)}


class Budget(_Part):
    """When the search ends, whatever comes first; `items` counts all answers up to then.

    `seconds` of all sessions, and the hour of `until` (`07:00`, local time), hold what the
    confirmation takes. Instead of keys, a text such as `8h`, `500` or `200k-items`.
    """

    candidates: int | None = Field(default=None, ge=1)
    items: int | None = Field(default=None, ge=1)
    seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    until: str | None = None

    @field_validator("until")
    @classmethod
    def _hour(cls, value: str | None) -> str | None:
        if value is not None:
            budget.until(value, 0.0)
        return value

    @property
    def is_empty(self) -> bool:
        return not any(self.model_dump().values())


class Named(BaseModel):
    """A plug-in's name; whatever else is given are its options."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Keep(_Part):
    """A score that candidates have to keep on a bank: at most `within` below that of `of` (`base`
    or an expert), or `at_least` a score. `confidence` is that of the lower bound at the end."""

    bank: Text
    within: float | None = Field(default=None, ge=0, le=1)
    at_least: float | None = Field(default=None, ge=0, le=1)
    of: Text = "base"
    confidence: float = Field(default=0.95, ge=0.5, lt=1)

    def wanted(self) -> str:
        """For people."""
        if self.within is None:
            return f"at least {self.at_least:g}"
        return f"within {self.within:g} of {self.of}"


class Recipe(_Part):
    """A whole search. `tokenizer`: whose tokens merged models have, where those of the inputs
    differ: `base`, `union` or `expert:NAME`. `allow_mismatch`: merge experts that do not seem
    to descend from the base. `allow_contamination`: select on the test set of a public benchmark,
    which report and model card then say. `batch`: items scored at a time. `ask`: candidates
    asked for at a time when `deterministic` (always so inline). `shortlist`: how many points are
    confirmed, a strategy's incumbents among them. `prefer`: what objectives weigh in the choice of
    one point. `seeds`: `run:FOLDER`, whose best points come first and whose answers count.
    `disk_reserve`: what is left free of the run folder's disk; below it the search pauses."""

    name: str = Field(pattern=NAME)
    description: str = ""
    base: Text
    experts: dict[str, Text] = Field(min_length=1)
    operator: Text | list[Text]
    tokenizer: str = "base"
    allow_mismatch: bool = False
    allow_contamination: bool = False
    space: SpaceOptions = SpaceOptions()
    objectives: dict[str, Objective] = Field(default_factory=dict)
    keep: dict[str, Keep] = Field(default_factory=dict)
    prefer: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default_factory=dict
    )
    strategy: Named = Named(name="auto")
    seeds: str | None = None
    fidelity: Fidelity = Fidelity()
    budget: Budget = Budget(candidates=200)
    shortlist: int = Field(default=16, ge=1)
    batch: int = Field(default=25, ge=1)
    ask: int = Field(default=8, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    dtype: Dtype = "float32"
    device: str = "auto"
    executor: Named = Named(name="inline")
    deterministic: bool = False
    disk_reserve: Text = "500MB"

    @field_validator("strategy", "executor", "fidelity", mode="before")
    @classmethod
    def _plain_name(cls, value: Any) -> Any:
        if not isinstance(value, str | Mapping | BaseModel):
            raise ValueError("expected a name, or a mapping with 'name' and options")
        return {"name": value} if isinstance(value, str) else value

    @field_validator("budget", mode="before")
    @classmethod
    def _amount(cls, value: Any) -> Any:
        return budget.parse(str(value)) if isinstance(value, str | int) else value

    @field_validator("operator", mode="before")
    @classmethod
    def _operators(cls, value: Any) -> Any:
        names = value if isinstance(value, list) else [value]
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError("expected an operator's name, or a list of names")
        if len(set(names)) < len(names):
            raise ValueError("an operator stands twice")
        return value

    @field_validator("objectives", mode="before")
    @classmethod
    def _plain_bank(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        for key, given in value.items():
            if not isinstance(given, str | Mapping | BaseModel):
                raise ValueError(
                    f"'{key}': expected a bank's name or path, or a mapping with 'bank', "
                    "'function' or 'measure'"
                )
        return {key: {"bank": v} if isinstance(v, str) else v for key, v in value.items()}

    @field_validator("keep")
    @classmethod
    def _compared(cls, value: dict[str, Keep]) -> dict[str, Keep]:
        for name, one in value.items():
            if one.within is None and one.of != "base":
                raise ValueError(f"'{name}': 'of' goes with 'within' alone")
        return value

    @field_validator("seeds")
    @classmethod
    def _of_a_run(cls, value: str | None) -> str | None:
        if value is not None and not re.match("run:.", value):
            raise ValueError("expected run:FOLDER")
        return value

    @field_validator("experts")
    @classmethod
    def _names(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not re.fullmatch(NAME, name):
                raise ValueError(f"'{name}' is no name (letters, digits, then also . _ -)")
            if name == "base":
                raise ValueError("no expert can be called 'base'")
        return value

    @property
    def operators(self) -> list[str]:
        return [self.operator] if isinstance(self.operator, str) else self.operator
