"""What a notebook calls: search, merge, evaluate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evomerge import ancestry, errors, inputs, layout, modules, saving, shelf, stacks
from evomerge.answers import Scores
from evomerge.blocks import places
from evomerge.files import bank as banks
from evomerge.files import plain
from evomerge.files.ledger import begun
from evomerge.genome import Value
from evomerge.layers import Layers
from evomerge.live import Live
from evomerge.loading import load
from evomerge.loop import Report, Search
from evomerge.materialize import Workshop
from evomerge.maths import intervals
from evomerge.plan import Plan, Template
from evomerge.recipe import dtype_of, named, read, resolve
from evomerge.run import Run
from evomerge.session import pinned
from evomerge.worker import Job as _Job
from evomerge.worker import Result, Setup, Worker


def search(
    recipe: str | Path | Mapping[str, Any],
    folder: str | Path | None = None,
    *,
    objectives: Mapping[str, Callable[..., float]] | None = None,
    report: Report | None = None,
    allow_change: bool = False,
    **changes: Any,
) -> Run:
    """Search as a recipe says and return the run; call it again to resume or to extend.

    `folder` defaults to runs/NAME. `objectives` are further ones: f(model, tokenizer) -> a number
    in [0, 1]. `changes` replace top-level keys of the recipe, such as `budget={"candidates": 50}`.
    `allow_change` goes on with a run although its inputs or libraries have changed, and records
    it. An interruption (Ctrl-C) raises Interrupted; nothing is lost.
    """
    if not isinstance(objectives, Mapping | None):
        raise errors.RecipeError(
            f"objectives: expected a mapping of names to functions, got {objectives!r}; banks "
            "stand under 'objectives' of the recipe"
        )
    name = changes.get("name") or read(recipe)[0].name
    place = Path(folder) if folder is not None else Path("runs") / name
    problem = resolve(recipe, functions=objectives, pinned=pinned(place), **changes)
    told = report or (lambda event, facts: None)
    Search(problem, place, told, allow_change=allow_change).run()
    return Run(place)


def plan_of(
    base: str | Path,
    experts: Mapping[str, str | Path] | Sequence[str | Path] | str | Path,
    operator: str,
    *,
    blocks: int | str = 1,
    dtype: str = "",
    seed: int = 0,
    tokenizer: str = "base",
    allow_mismatch: bool = False,
    **genes: Any,
) -> Plan:
    """The plan of one merge, its genes given by name: a number for all, a list or {expert: value}.

    `dtype` defaults to that of the base; `tokenizer` and `allow_mismatch` as in a recipe. Raises
    RecipeError for an unknown gene or a value outside its range, InputError for experts that do
    not fit the base.
    """
    if isinstance(experts, str | Path):
        experts = [experts]
    _expected(experts, operator)
    blocks, seed, dtype = _native(blocks), _native(seed), str(dtype).removeprefix("torch.")
    called = experts if isinstance(experts, Mapping) else named(experts)
    references = {str(name): str(expert) for name, expert in called.items()}
    found = inputs.load(str(base), references, Path.cwd(), tokenizer=tokenizer)
    ancestry.refuse(found.ancestry, allow_mismatch)
    wanted = plain.check(Layers, {"blocks": blocks}, "plan", raises=errors.RecipeError)
    names = found.sources[0].tensors
    layers = stacks.layers(found.base.folder, names, wanted.model_dump())
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise errors.RecipeError(f"seed: expected a whole number of at least 0, got {seed!r}")
    template = Template(
        base=found.inputs[0], experts=found.inputs[1:], layers=layers,
        groups=tuple(dict.fromkeys(layers.groups(names).values())), operators=(operator,),
        dtype=dtype_of(found.base, dtype), seed=seed, vocabulary=found.vocabulary,
    )  # fmt: skip
    return template.plan(_values(template, genes))


def read_plan(file: str) -> Plan:
    """The plan in a JSON file; RecipeError for one that is none."""
    return Plan.parse(plain.read_json(Path(file), file), file)


def plan_of_recipe(source: str, genes: Mapping[str, Any]) -> Plan:
    """The plan of a recipe at its defaults, with gene values by name as in `plan_of`."""
    problem = resolve(source)
    ancestry.refuse(problem.inputs.ancestry, problem.recipe.allow_mismatch)
    defaults = {gene.key: gene.default for gene in problem.space.genes}
    return problem.template.plan({**defaults, **problem.fixed, **_values(problem.template, genes)})


def _expected(experts: Any, operator: Any) -> None:
    """Raise RecipeError for arguments of other kinds."""
    if not isinstance(experts, Mapping | Sequence) or not experts:
        raise errors.RecipeError(f"experts: expected {{name: model}}, at least one, got {experts}")
    if not isinstance(operator, str):
        raise errors.RecipeError(f"operator: expected the name of one, got {operator!r}")


def _native(value: Any) -> Any:
    """A number or an array of numpy or torch as Python has it."""
    return value.tolist() if hasattr(value, "tolist") else value


def _values(template: Template, genes: Mapping[str, Any]) -> dict[str, Value]:
    """Gene values by key, from values by name."""
    placed = template.genes()
    names = [expert.name for expert in template.experts]
    found: dict[str, Value] = {}
    for name, value in genes.items():
        copies, value = layout.named(placed, name, " or ".join(template.operators)), _native(value)
        if isinstance(value, Sequence) and not isinstance(value, str):
            if len(value) != len(names):
                raise errors.RecipeError(
                    f"{name}: expected {len(names)} values ({', '.join(names)}), got {len(value)}"
                )
            value = dict(zip(names, value, strict=True))
        if isinstance(value, Mapping) and {gene.expert for gene in copies} != set(value):
            per = ", ".join(dict.fromkeys(gene.expert for gene in copies if gene.expert))
            expected = f"a value for each of {per}" if per else "one value, for all experts"
            raise errors.RecipeError(f"{name}: expected {expected}, got {dict(value)}")
        for gene in copies:
            one = _native(value[gene.expert]) if isinstance(value, Mapping) else value
            gene.check(one, name)
            found[gene.key] = one
    return found


def merge(
    base: str | Path,
    experts: Mapping[str, str | Path] | Sequence[str | Path] | str | Path,
    operator: str = "task_arithmetic",
    *,
    out: str | Path | None = None,
    shard_size: str = saving.SHARD,
    **genes: Any,
) -> Any:
    """Merge without a search: the live model, or with `out` the folder it is written to.

    Further keywords as in `plan_of`: merge(base, experts, "ties", density=0.4, weight=[1, 0.5]).
    `shard_size`, such as "500MB", bounds the weight files of `out`.
    """
    plan = plan_of(base, experts, operator, **genes)
    return build(plan) if out is None else saving.write(plan, out, shard_size=shard_size)


def build(plan: Plan) -> Any:
    """A live model of a plan, in evaluation mode."""
    workshop = Workshop.of(plan)
    model, _ = load(workshop.checkpoints.form(plan), plan.dtype, torch.device("cpu"))
    Live(modules.writable(model), workshop).build(plan)
    return model


@dataclass(frozen=True)
class Score:
    """Scores of one model on one bank and their mean with Wilson's 95 % interval."""

    bank: str
    scores: Scores = field(repr=False)
    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, bank: str, scores: Scores) -> Score:
        return cls(bank, scores, float(scores.mean()), *intervals.of_mean(scores))

    def plain(self) -> dict[str, float]:
        """As JSON has it, without each item's score."""
        ends = {"mean": self.mean, "low": self.low, "high": self.high}
        return {**ends, "items": len(self.scores)}


def evaluate(
    model: str | Path | Plan,
    bank: Iterable[str | Path | banks.Bank] | str | Path | banks.Bank,
    *,
    split: str = "test",
    batch: int = 25,
    dtype: str = "",
) -> dict[str, Score]:
    """Score a model folder or a plan on banks, as a search would.

    Raises EvaluationError, saying why, if the model can not be scored.
    """
    if not isinstance(batch, int) or batch < 1:
        raise errors.RecipeError(f"batch: expected a whole number of at least 1, got {batch!r}")
    if not isinstance(model, str | Path | Plan):
        raise errors.RecipeError(
            f"model: expected a folder, a name or a Plan, got a {type(model).__name__}; merge "
            "with `out=FOLDER` and evaluate the folder, or evaluate the plan of plan_of"
        )
    if isinstance(bank, str | Path | banks.Bank):
        bank = [bank]
    if not bank or not isinstance(bank, Iterable):
        raise errors.RecipeError(f"bank: expected one or more files or banks, got {bank!r}")
    plan = model if isinstance(model, Plan) else alone(model, dtype)
    shown = by_name([b if isinstance(b, banks.Bank) else shelf.load(b) for b in bank])
    found = results(plan, shown, split, batch)
    return {name: scored(plan, name, result) for name, result in found}


def results(
    plan: Plan, shown: Mapping[str, banks.Bank], split: str, batch: int = 25
) -> Iterator[tuple[str, Result]]:
    """What a plan answers to one bank after the other; it is built once."""
    asked = {  # nothing is said against items that are not asked
        name: replace(one, items=one.split(split), _splits={}) for name, one in shown.items()
    }
    worker = worker_for(plan, asked, batch)
    for name, one in asked.items():
        blocks = tuple(places({name: one}, split, batch))
        yield name, worker.run(_Job(plan.model_dump(mode="json"), plan.key, blocks))


def scored(plan: Plan, name: str, result: Result) -> Score:
    """The score that a result is; EvaluationError, saying why, where it is none."""
    if result.failed is not None:
        raise errors.EvaluationError(f"{plan.base.name}: {result.failed}")
    return Score.of(name, np.array([answer.score for answer in result.answers]))


def alone(model: str | Path, dtype: str = "") -> Plan:
    """The plan that is a model folder as it is."""
    if begun(Path(model)):
        raise errors.RecipeError(
            f"{model}: is a run, expected a model: `evomerge evaluate RUN --front` scores what it "
            "has confirmed, `evomerge export` saves one point"
        )
    found = inputs.load(str(model), {}, Path.cwd(), called="model")
    base = found.inputs[0].model_copy(update={"name": str(model)})
    return Plan(base=base, dtype=dtype_of(found.base, dtype))


def worker_for(plan: Plan, asked: Mapping[str, banks.Bank], batch: int = 25) -> Worker:
    """A worker on the CPU that can build this plan and answer these banks."""
    workshop = Workshop.of(plan)
    folders = {sha256: str(c.folder) for sha256, c in workshop.checkpoints.items()}
    first = inputs.leaves(plan.base)[0].sha256
    return Worker(Setup(first, folders, asked, plan.dtype, "cpu", batch, plan.vocabulary))


def by_name(found: Sequence[banks.Bank]) -> dict[str, banks.Bank]:
    """Banks by their names; RecipeError where two have one."""
    for bank in found:
        twins = {other.path for other in found if other.name == bank.name}
        if len(twins) > 1:
            paths = ", ".join(sorted(map(str, twins)))
            raise errors.RecipeError(f"two banks have the name '{bank.name}': {paths}")
    return {bank.name: bank for bank in found}
