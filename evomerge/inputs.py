"""The models of a recipe or a plan: found, opened, and shown as if all had one layout."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from evomerge import ancestry, errors, modules, zoo
from evomerge.files import hub
from evomerge.files.adapter import Adapted, Adapter, check_base
from evomerge.files.checkpoint import Checkpoint
from evomerge.files.companions import Form, tokenizer_files
from evomerge.files.likeness import compare
from evomerge.files.vocabulary import Frame, Rearranged
from evomerge.plan import Input, Plan, Vocabulary

Model = Checkpoint | Adapted | Rearranged
"""A source of tensors that is a whole model: all of these have tensors, read_flat and config."""


def form(base: Path, found: Frame | None) -> Form:
    """The form of the plans in a frame (None: that of the base)."""
    if found is None:
        return Form(base, base)
    rows = None if found.same else found.rows
    leader = found.models[found.leader].folder
    return Form(base, leader, found.tokenizer_files(), rows, found.untied is not None)


class Opened(dict[str, Checkpoint]):
    """Models as they lie on disk, by sha256, and what plans mean by them."""

    def __init__(self, files: Mapping[str, Checkpoint]) -> None:
        super().__init__(files)
        self._models: dict[tuple[str, str], Model] = {}
        self._frames: dict[str, Frame] = {}

    @classmethod
    def of(cls, plan: Plan) -> Opened:
        """Open all models of a plan where its paths say; raises InputError if one changed."""
        found = cls({})
        for item in (leaf for each in all_inputs(plan) for leaf in leaves(each)):
            if not item.path:
                raise errors.InputError(f"{item.name}: the plan does not say where it is ('path')")
            if not os.path.exists(item.path):
                raise errors.InputError(
                    f"{item.name}: {item.path}: no such folder any more (sha256 {item.sha256}). "
                    "Where it has moved, run the search again with a recipe that names its new "
                    "place, or put that as 'path' into the plan"
                )
            model = opened(item.path, item.name)
            if model.sha256 != item.sha256:
                raise errors.InputError(
                    f"{item.path}: not the checkpoint that the plan was made from (sha256 "
                    f"{model.sha256[:12]}, the plan has {item.sha256[:12]})"
                )
            found[item.sha256] = model
        return found

    def source(self, item: Input, vocabulary: Vocabulary | None = None) -> Model:
        """The model that an input means, as a plan's vocabulary shows it."""
        place = (item.sha256, vocabulary.sha256 if vocabulary is not None else "")
        if place not in self._models:
            if vocabulary is None:
                self._models[place] = self._plain(item)
                return self._models[place]
            shown = self.frame(vocabulary).sources
            for model, one in zip(vocabulary.models, shown, strict=True):
                self._models[model.sha256, vocabulary.sha256] = one
        if place not in self._models:
            raise errors.InputError(f"{item.name}: is not among the models of plan.vocabulary")
        return self._models[place]

    def _plain(self, item: Input) -> Checkpoint | Adapted:
        if item.sha256 not in self:
            raise errors.InputError(
                f"{item.name}: no open checkpoint has sha256 {item.sha256[:12]} ({item.path})"
            )
        found = self[item.sha256]
        if not isinstance(found, Adapter):
            return found
        base = self._plain(item.on) if item.on is not None else None
        if not isinstance(base, Checkpoint):
            what = "an adapter without its base" if base is None else "an adapter of an adapter"
            raise errors.InputError(f"{item.name}: {item.path}: {what}")
        return Adapted(base, found, lambda: modules.names(base.folder))

    def frame(self, vocabulary: Vocabulary) -> Frame:
        """The layout of a vocabulary; InputError where the inputs' tokenizers have changed."""
        if vocabulary.sha256 not in self._frames:
            models = [self._plain(item) for item in vocabulary.models]
            names = [item.name for item in vocabulary.models]
            found = Frame(models, names, vocabulary.tokenizer)
            if found.sha256 != vocabulary.sha256:
                raise errors.InputError(
                    "the tokenizers of the inputs are not those that the plan was made from "
                    f"(sha256 {found.sha256[:12]}, the plan has {vocabulary.sha256[:12]})"
                )
            self._frames[vocabulary.sha256] = found
        return self._frames[vocabulary.sha256]

    def form(self, plan: Plan) -> Form:
        """What the model folder of a plan is made of, beside its weights."""
        folder = self[leaves(plan.base)[0].sha256].folder
        return form(folder, self.frame(plan.vocabulary) if plan.vocabulary is not None else None)


@dataclass(frozen=True)
class Inputs:
    """Opened models: `files` as they lie on disk by sha256, `inputs` for plans, base first."""

    files: Opened
    inputs: tuple[Input, ...]
    sources: tuple[Model, ...]
    vocabulary: Vocabulary | None

    @property
    def base(self) -> Checkpoint:
        return self.files[self.inputs[0].sha256]

    @cached_property
    def ancestry(self) -> dict[str, Any]:
        """What samples of the experts' weights say of their descent; see `ancestry.check`."""
        return ancestry.check(self.sources[0], self.sources[1:])

    @property
    def experts(self) -> dict[str, Checkpoint]:
        """What each expert is on disk."""
        return {item.name: self.files[item.sha256] for item in self.inputs[1:]}


def find(reference: str, folder: Path) -> tuple[Path, str]:
    """A model's folder; and `org/name@commit` where it is one of the hub.

    A reference is `zoo:family/member`, a path from here or from `folder`, or a name on the hub.
    """
    if reference.startswith("zoo:"):
        zoo.check(reference, "model")
        return zoo.path(reference), ""
    near = Path(os.path.expanduser(reference))
    # not Path.exists, which raises where a name is too long or a folder may not be read
    if os.path.exists(near) or near.is_absolute():
        return near, ""
    if not os.path.exists(folder / near) and hub.is_name(reference):
        return hub.snapshot(reference)
    return folder / near, ""


def opened(folder: Path | str, name: str = "") -> Checkpoint:
    """A model folder, or that of an adapter."""
    kind = Adapter if Adapter.is_in(Path(folder)) else Checkpoint
    return kind.open(folder, name)


def load(
    base: str, experts: Mapping[str, str], folder: Path, *,
    tokenizer: str = "base", called: str = "base",
) -> Inputs:  # fmt: skip
    """Open a base and its experts by reference, and compare them.

    `tokenizer` (`base`, `expert:NAME`, `union`) says whose tokens the merged models have. Raises
    InputError for models that do not fit together, in which the base is `called` so.
    """
    _check_choice(tokenizer, experts)
    path, origin = find(base, folder)
    root = Checkpoint.open(path, called)
    first = Input(name="base", sha256=root.sha256, path=str(root.folder.absolute()), origin=origin)
    files: dict[str, Checkpoint] = {root.sha256: root}
    inputs = [first]
    for name, reference in experts.items():
        path, origin = find(reference, folder)
        found = opened(path, f"experts.{name}")
        if isinstance(found, Adapter):
            check_base(found, root)
        files[found.sha256] = found
        on = first if isinstance(found, Adapter) else None
        place = str(found.folder.absolute())
        inputs.append(Input(name=name, sha256=found.sha256, path=place, origin=origin, on=on))
    known = Opened(files)
    sources: Sequence[Model] = [known.source(item) for item in inputs]
    frame = Frame(sources, [item.name for item in inputs], tokenizer)
    _check_leader(frame)
    vocabulary = None
    if not frame.plain:
        sources = frame.sources
        vocabulary = Vocabulary(
            tokenizer=tokenizer, models=tuple(inputs), untied=frame.untied is not None,
            sha256=frame.sha256,
        )  # fmt: skip
    compare(sources[0], sources[1:])
    ancestry.same_integers(sources[0], sources[1:])
    return Inputs(known, tuple(inputs), tuple(sources), vocabulary)


def _check_choice(tokenizer: str, experts: Mapping[str, str]) -> None:
    kind, sign, name = tokenizer.partition(":")
    if kind not in ("base", "union", "expert") or bool(sign) != (kind == "expert"):
        raise errors.RecipeError(
            f"tokenizer: expected base, union or expert:NAME, got '{tokenizer}'"
        )
    if sign and name not in experts:
        raise errors.RecipeError(errors.unknown("tokenizer", "expert", name, experts))


def _check_leader(frame: Frame) -> None:
    folder = frame.models[frame.leader].folder
    if frame.leader and not tokenizer_files(Form(folder, folder)):
        raise errors.InputError(f"tokenizer: {frame.tokenizer}: {folder} has no tokenizer")


def leaves(item: Input) -> list[Input]:
    """The checkpoints and adapters under an input, a checkpoint first."""
    if item.plan is not None:
        return [leaf for each in all_inputs(item.plan) for leaf in leaves(each)]
    return [*(leaves(item.on) if item.on is not None else ()), item]


def all_inputs(plan: Plan) -> list[Input]:
    """The inputs of a plan, and the models of its vocabulary."""
    more = plan.vocabulary.models if plan.vocabulary is not None else ()
    return list({item.sha256: item for item in (*more, *plan.inputs())}.values())
