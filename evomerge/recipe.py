"""Recipes: a YAML file that says what to search for; checked whole before any model is loaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, get_args

from evomerge import checks, errors, inputs, plugins, processor, products, shelf, stacks
from evomerge.files import bank as banks
from evomerge.files import likeness, plain
from evomerge.files.checkpoint import Checkpoint
from evomerge.files.items import SPLITS
from evomerge.genome import Space, Value
from evomerge.layout import lay_out
from evomerge.maths import estimates
from evomerge.plan import Dtype, Input, Plan, Template
from evomerge.schema import Fidelity as Fidelity
from evomerge.schema import Recipe as Recipe
from evomerge.schema import Signal
from evomerge.scorers import function, structural
from evomerge.worker import Setup


def read(source: str | Path | Mapping[str, Any]) -> tuple[Recipe, str, Path]:
    """The recipe of a file, of a shipped recipe's name or of a mapping; where; its folder.

    Raises RecipeError with the file, the key and the nearest valid key; names of other things
    are looked at by `resolve`.
    """
    if isinstance(source, Mapping):
        where, folder, data = "recipe", Path.cwd(), plain.texts(source)
    else:
        path = _find(str(source))
        where, folder = str(source), path.parent
        data = plain.read_yaml(path, where, raises=errors.RecipeError)
    recipe = plain.check(Recipe, data, where, raises=errors.RecipeError)
    return recipe, where, folder


def _find(source: str) -> Path:
    """A file, or a shipped recipe as `quickstart` or `recipes/quickstart.yaml`."""
    if Path(source).is_file():
        return Path(source)
    shipped = banks.shipped("recipes")
    name = re.sub(r"^recipes/|\.ya?ml$", "", source)
    if (shipped / f"{name}.yaml").is_file() and "/" not in name:
        return shipped / f"{name}.yaml"
    if source and Path(source).is_dir():
        raise errors.RecipeError(f"{source}: is a folder, expected a recipe file")
    known = [path.stem for path in shipped.glob("*.yaml")]
    if "/" in name or Path(source).suffix:
        raise errors.RecipeError(
            f"{source}: no such file; shipped recipes are: {', '.join(sorted(known))}"
        )
    raise errors.RecipeError(errors.unknown("recipe", "file or name", source, known))


@dataclass(frozen=True)
class Problem:
    """A recipe with its inputs opened (headers only) and its space laid out."""

    recipe: Recipe
    where: str
    inputs: inputs.Inputs
    banks: Mapping[str, banks.Bank]
    template: Template
    space: Space
    fixed: Mapping[str, Value]

    @property
    def base(self) -> Checkpoint:
        return self.inputs.base

    @property
    def experts(self) -> Mapping[str, Checkpoint]:
        return self.inputs.experts

    @property
    def objectives(self) -> list[str]:
        return [name for name in self.banks if name not in self.recipe.keep]

    @property
    def signals(self) -> dict[str, Signal]:
        """What the search sees of each objective."""
        given = self.recipe.objectives
        return {name: given[name].signal if name in given else "score" for name in self.objectives}

    def plan(self, point: Iterable[float]) -> Plan:
        """The plan at a point of the unit cube."""
        return self.template.plan({**self.fixed, **self.space.decode(list(point))})

    @cached_property
    def setup(self) -> Setup:
        """What a worker needs."""
        models = (self.base, *self.experts.values())
        folders = {c.sha256: str(c.folder.absolute()) for c in models}
        return Setup(
            base=self.base.sha256, folders=folders, banks=self.banks, dtype=self.recipe.dtype,
            device=checks.device(self.recipe), batch=self.recipe.batch,
            vocabulary=self.template.vocabulary,
        )  # fmt: skip

    def contamination(self) -> dict[str, str]:
        """By objective, why scores on its benchmark can not be claimed; most have no entry."""
        found = {name: bank.benchmark for name, bank in self.banks.items()}
        lines = {name: mark.contamination() for name, mark in found.items() if mark is not None}
        return {name: line for name, line in lines.items() if line}

    def notes(self) -> Iterator[str]:
        """What a person should know of the inputs, though nothing is wrong."""
        yield from (f"'{name}': {line}" for name, line in self.contamination().items())
        fidelity = self.recipe.fidelity
        items = fidelity.items or 0
        drawn = round(fidelity.random * items) if fidelity.name == "informative" else items
        if fidelity.draws and fidelity.reads == "stratified" and drawn < estimates.STRATA:
            yield (
                f"fidelity: {drawn} of {items} items a bank are drawn from its {estimates.STRATA} "
                "strata of difficulty: where one has none, estimates are rougher than they say"
            )
        yield from checks.all_asked(self.recipe, self.banks)
        slow = self.recipe.dtype == "bfloat16" and self.setup.device == "cpu"
        if slow and not processor.multiplies_bfloat16():
            yield "this processor is slow at bfloat16: `dtype: float32` takes a fraction of that"
        yield from checks.too_large(self.recipe, self.banks)
        yield from checks.too_few(self.banks)
        named = self.recipe.strategy
        if decided := plugins.explain(named.name, named.options, self.space, self.objectives):
            yield decided
        seen = {self.base.sha256: "the base"}
        for (name, one), source in zip(self.experts.items(), self.inputs.sources[1:], strict=True):
            if one.sha256 in seen:
                yield f"expert '{name}' is the same model as {seen[one.sha256]}"
            elif remark := getattr(source, "remark", None):
                yield f"expert '{name}' {remark}"
            seen.setdefault(one.sha256, f"expert '{name}'")
        yield from likeness.notes(self.inputs.sources[0], self.inputs.sources[1:])

    def portable(self) -> dict[str, Any]:
        """The recipe with absolute paths, so that it can be run from anywhere."""
        data = self.recipe.model_dump(mode="json")
        base, *experts = self.inputs.inputs
        data["base"] = _portable(data["base"], base)
        for item in experts:
            data["experts"][item.name] = _portable(data["experts"][item.name], item)
        for name, asked in [*data["objectives"].items(), *data["keep"].items()]:
            if Path(asked["bank"] or "").suffix:
                asked["bank"] = str(self.banks[name].path.resolve())
        return data

    def origins(self) -> dict[str, str]:
        """What each name on a hub was resolved to, as `org/name@commit`."""
        named = (self.recipe.base, *self.recipe.experts.values())
        items = self.inputs.inputs
        return {name: i.origin for name, i in zip(named, items, strict=True) if i.origin}

    def identity(self) -> dict[str, Any]:
        """What makes a run this run: a folder with another identity is refused."""
        recipe, vocabulary = self.recipe, self.template.vocabulary
        keep = {
            name: [*self.banks[name].identity(), one.model_dump(exclude={"bank"})]
            for name, one in recipe.keep.items()
        }
        return {
            "base": self.base.sha256,
            "experts": {name: c.sha256 for name, c in self.experts.items()},
            **({"vocabulary": vocabulary.sha256} if vocabulary is not None else {}),
            "operators": {
                name: plugins.load("operator", name).VERSION for name in recipe.operators
            },
            "layers": self.template.layers.model_dump(mode="json"),
            "genes": {
                gene.key: list(gene.choices) or [gene.low, gene.high, gene.step]
                for gene in self.space.genes
            },
            "fixed": dict(self.fixed),
            "objectives": {
                name: [*self.banks[name].identity(), self.signals[name]]
                for name in self.objectives
            },
            **({"keep": keep} if keep else {}),
            **({"prefer": recipe.prefer} if recipe.prefer else {}),
            **({"seeds": recipe.seeds} if recipe.seeds is not None else {}),
            "strategy": recipe.strategy.model_dump(),
            "fidelity": recipe.fidelity.identity(),
            "seed": recipe.seed,
            "dtype": recipe.dtype,
            "batch": recipe.batch,
        }


def resolve(
    source: str | Path | Mapping[str, Any],
    *,
    functions: Mapping[str, Callable[..., Any]] | None = None,
    pinned: Mapping[str, str] | None = None,
    **changes: Any,
) -> Problem:
    """Open the inputs of a recipe and lay out its space; no tensor is read.

    `changes` replace top-level keys of the recipe; `functions` are further objectives; `pinned`
    has references to use in place of others. All names and values are checked before any input is
    opened.
    """
    recipe, where, folder = read(source)
    if changes:
        data = {**recipe.model_dump(), **plain.texts(changes)}
        recipe = plain.check(Recipe, data, where, raises=errors.RecipeError)
    if recipe.seeds is not None:
        given = Path(recipe.seeds.removeprefix("run:")).expanduser()
        place = given if given.exists() else folder / given  # as inputs are looked for
        recipe = recipe.model_copy(update={"seeds": f"run:{place.resolve()}"})
    with errors.at(where):
        checks.before_inputs(recipe, folder, list(functions or {}))
        return _opened(recipe, where, folder, functions or {}, pinned or {})


def _opened(
    recipe: Recipe,
    where: str,
    folder: Path,
    functions: Mapping[str, Callable[..., Any]],
    pinned: Mapping[str, str],
) -> Problem:
    banks = _banks(recipe, folder, functions)
    base, experts = pinned.get(recipe.base, recipe.base), recipe.experts
    experts = {name: pinned.get(reference, reference) for name, reference in experts.items()}
    found = inputs.load(base, experts, folder, tokenizer=recipe.tokenizer)
    names = found.sources[0].tensors
    wanted = {"blocks": recipe.space.blocks, "roles": recipe.space.roles}
    layers = stacks.layers(found.base.folder, names, wanted)
    template = Template(
        base=found.inputs[0], experts=found.inputs[1:], layers=layers,
        groups=tuple(dict.fromkeys(layers.groups(names).values())),
        operators=tuple(recipe.operators), dtype=recipe.dtype, seed=recipe.seed,
        vocabulary=found.vocabulary,
    )  # fmt: skip
    space, fixed = lay_out(template, recipe.space.genes, "space.genes")
    space = Space(space.genes, partial(products.of, found, template))
    checks.strategy(recipe, space, [name for name in banks if name not in recipe.keep])
    return Problem(recipe, where, found, banks, template, space, fixed)


def _portable(reference: str, item: Input) -> str:
    if reference.startswith("zoo:"):
        return reference
    return item.origin or str(Path(item.path).resolve())


def named(references: Iterable[str | Path]) -> dict[str, str]:
    """Experts by the last parts of their paths, made names; a second `final` is `final-2`."""
    found: dict[str, str] = {}
    for reference in map(str, references):
        stem = re.sub(r"[^\w.-]+", "-", Path(reference).name).lstrip("-.") or "expert"
        names = (stem, *(f"{stem}-{i}" for i in range(2, len(found) + 3)))
        free = (name for name in names if name not in found and name != "base")
        found[next(free)] = reference
    return found


def dtype_of(base: Checkpoint, wanted: str) -> Dtype:
    """The wanted dtype, or the one that most of the base's numbers have."""
    counts: dict[str, int] = {}
    for info in base.tensors.values():
        name = str(info.dtype).removeprefix("torch.")
        counts[name] = counts.get(name, 0) + info.numel
    known: tuple[Dtype, ...] = get_args(Dtype)
    found = wanted or max(counts, key=lambda name: counts[name])
    for dtype in known:
        if dtype == found:
            return dtype
    raise errors.RecipeError(errors.unknown("dtype", "dtype", found, known))


def _banks(
    recipe: Recipe, folder: Path, functions: Mapping[str, Callable[..., Any]]
) -> dict[str, banks.Bank]:
    found = {}
    for name, objective in recipe.objectives.items():
        with errors.at(f"objectives.{name}"):
            if objective.function is not None:
                found[name] = function.bank(name, objective.function)
                continue
            if objective.measure is not None:
                found[name] = structural.bank(name, objective.measure)
                continue
            found[name] = shelf.seen(shelf.load(str(objective.bank), folder), objective.signal)
            for split in SPLITS:  # a night's search must not end on one that is empty
                found[name].split(split)
    found |= {name: function.bank(name, call) for name, call in functions.items()}
    for name, one in recipe.keep.items():
        with errors.at(f"keep.{name}"):
            found[name] = shelf.load(one.bank, folder)
            for split in SPLITS:
                found[name].split(split)
    return found
