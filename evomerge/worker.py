"""One job: materialize a plan in the live model, answer blocks of items."""

from __future__ import annotations

import math
import platform
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, Literal

import torch

from evomerge import errors, generation, inputs, keywords, modules, plugins, prompts
from evomerge.blocks import Place, block
from evomerge.files.bank import Bank
from evomerge.files.items import Item
from evomerge.files.ledger import Answer
from evomerge.live import Live
from evomerge.loading import image_processor, load
from evomerge.materialize import Workshop
from evomerge.plan import Input, Plan, Vocabulary
from evomerge.threads import one_thread

SPECIAL, TEMPLATE = 64, 1024
"""Most tokens that are expected beside an item's own: those of a tokenizer, of a chat template."""


@dataclass(frozen=True)
class Setup:
    """What a worker needs once: model folders by sha256, banks by objective, how to score.

    `base` is the sha256 of the checkpoint whose class and config the live model has.
    """

    base: str
    folders: Mapping[str, str]
    banks: Mapping[str, Bank]
    dtype: str = "float32"
    device: str = "cpu"
    batch: int = 25
    vocabulary: Vocabulary | None = None


@dataclass(frozen=True)
class Job:
    """One plan and the blocks it is to answer.

    `fresh`: a worker that has done nothing else is to do it. `halved`: blocks are scored in two
    halves, to need less memory.
    """

    plan: Mapping[str, Any]
    key: str
    blocks: tuple[Place, ...]
    number: int = 0
    fresh: bool = False
    halved: bool = False


Cause = Literal["", "memory", "died", "lost", "evicted", "slow"]


@dataclass(frozen=True)
class Result:
    """Answers of a job, or why there are none.

    `spent`: seconds of the build (under "") and of each objective. `cause`: what kind of failure,
    where it is not the candidate's own: it ran out of memory, its worker died, its node was lost,
    its worker was ended because the machine ran out of memory, it took too long.
    """

    key: str
    answers: tuple[Answer, ...] = ()
    failed: str | None = None
    number: int = 0
    spent: Mapping[str, float] = field(default_factory=dict)
    cause: Cause = ""
    trace: str = ""
    host: str = field(default_factory=platform.node)
    slot: int = 0


class Worker:
    """A live model that is rebuilt for each plan and answers items; one torch thread."""

    def __init__(self, setup: Setup, slot: int = 0) -> None:
        self.setup = setup
        self.slot = slot
        self.device = torch.device(setup.device)
        opened = inputs.Opened({sha: inputs.opened(f) for sha, f in setup.folders.items()})
        base = opened[setup.base]
        frame = opened.frame(setup.vocabulary) if setup.vocabulary is not None else None
        with one_thread():
            form = inputs.form(base.folder, frame)
            self.model, self.tokenizer = load(form, setup.dtype, self.device)
        sees = self.tokenizer is None or self.model.main_input_name == "pixel_values"
        self.reader = image_processor(base.folder) if sees else self.tokenizer
        for bank in setup.banks.values():
            scorer = plugins.load("scorer", bank.scorer)
            named = f"the scorer '{bank.scorer}' of the bank '{bank.name}'"
            if self.tokenizer is None and getattr(scorer, "NEEDS_TOKENIZER", True):
                raise errors.InputError(f"{base.folder}: has no tokenizer, which {named} needs")
            if getattr(scorer, "NEEDS_CAUSAL", False):
                modules.check_causal(self.model, f"{base.folder}: {named}")
            self._try(scorer, bank, str(base.folder))
        counted = any(plugins.is_structural(bank.scorer) for bank in setup.banks.values())
        workshop = Workshop(opened, self.device)
        first = Input(name="base", sha256=setup.base)
        reference = workshop.source(first, setup.vocabulary) if counted else None
        self.live = Live(modules.writable(self.model), workshop, reference)
        self._batches: dict[Place, Any] = {}

    def _try(self, scorer: Any, bank: Bank, folder: str) -> None:
        """InputError where an item can not be prepared, such as for a missing template.

        Those that are tried are the first one, and all that may be too long.
        """
        where = f"{folder}: bank '{bank.name}'"
        try:
            with errors.at(where):
                tried = [bank.items[0], *_doubtful(scorer, bank, self.reader)]
                for i in range(0, len(tried), self.setup.batch):
                    part = tried[i : i + self.setup.batch]
                    scorer.prepare(self.reader, part, **bank.options)
        except errors.EvomergeError:
            raise
        except Exception as error:  # the user's own scorer, or a tokenizer of any kind
            reason = f"{type(error).__name__}: {error}"
            text = f"the scorer '{bank.scorer}' can not prepare an item: {reason}"
            raise errors.InputError(f"{where}: {text}") from error

    def run(self, job: Job) -> Result:
        """Build the plan and answer; whatever goes wrong fails this candidate alone."""
        answers: list[Answer] = []
        spent: dict[str, float] = {}
        where = ""
        result = Result(job.key, number=job.number, spent=spent, slot=self.slot)
        try:
            with one_thread(), _timed(spent, ""):
                self.live.build(Plan.parse(job.plan, "plan"))
            for place in job.blocks:
                where = f"objective '{place[0]}': "
                with one_thread(), _timed(spent, place[0]):
                    answers += self._answer(place, halved=job.halved)
        except errors.EvaluationError as error:
            return replace(result, failed=str(error))
        except (Exception, SystemExit) as error:  # it may fail in any way; the run goes on
            failed = errors.public(f"{where}{type(error).__name__}: {error}")
            cause: Cause = "memory" if _is_memory(error) else ""
            trace = "".join([*traceback.format_tb(error.__traceback__)[-8:], failed])
            return replace(result, failed=failed, cause=cause, trace=trace)
        return replace(result, answers=tuple(answers))

    def _answer(self, place: Place, *, halved: bool) -> Iterator[Answer]:
        objective, split, number = place
        bank = self.setup.banks[objective]
        scorer = plugins.load("scorer", bank.scorer)
        items = block(bank, split, number, self.setup.batch)
        seen = self.live.totals if plugins.is_structural(bank.scorer) else self.model
        if halved:
            half = -(-len(items) // 2)
            parts = [part for part in (items[:half], items[half:]) if part]
            batches = [scorer.prepare(self.reader, part, **bank.options) for part in parts]
        else:
            if place not in self._batches:
                self._batches[place] = scorer.prepare(self.reader, items, **bank.options)
            parts, batches = [items], [self._batches[place]]
        for part, batch in zip(parts, batches, strict=True):
            yield from _answers(objective, split, part, scorer.score(seen, batch))


def _doubtful(scorer: Any, bank: Bank, reader: Any) -> list[Item]:
    """Items that may be too long, or whose answers may, by bytes: a token has at least one.

    To make tokens of every item would take seconds for each thousand.
    """
    room = getattr(reader, "model_max_length", math.inf)
    room -= TEMPLATE if bank.options.get("chat") else SPECIAL
    if not keywords.takes(scorer.prepare, "max_new_tokens"):
        return [item for item in bank.items[1:] if prompts.n_bytes(item) > room]
    made = bank.options.get("max_new_tokens", generation.DEFAULTS["max_new_tokens"])
    return [
        item
        for item in bank.items[1:]
        if prompts.n_bytes(item) > room - made
        or any(len(a.encode()) > made for a in item.accepted)
    ]


def _answers(objective: str, split: str, items: Sequence[Item], found: Any) -> Iterator[Answer]:
    """What a scorer found, as answers; EvaluationError for what is none."""
    where = f"objective '{objective}'"
    for signal, values in {"score": (), **found}.items():
        if len(values) != len(items):
            raise errors.EvaluationError(
                f"{where}: expected {len(items)} numbers as '{signal}', got {len(values)}"
            )
    for i, item in enumerate(items):
        signals = {name: float(values[i]) for name, values in found.items()}
        odd = [name for name, value in signals.items() if not math.isfinite(value)]
        if odd or not 0 <= signals["score"] <= 1:
            name = (odd or ["score"])[0]
            expected = "a finite number" if odd else "a number in [0, 1]"
            raise errors.EvaluationError(
                f"{where}: item '{item.id}': expected {expected} as '{name}', got {signals[name]}"
            )
        yield Answer(objective, item.id, split, signals.pop("score"), signals)


def _is_memory(error: BaseException) -> bool:
    """Whether memory ran out; torch says so in words where it is the processor's."""
    named = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return named or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


@contextmanager
def _timed(spent: dict[str, float], name: str) -> Iterator[None]:
    begun = perf_counter()
    try:
        yield
    finally:
        spent[name] = spent.get(name, 0.0) + perf_counter() - begun
