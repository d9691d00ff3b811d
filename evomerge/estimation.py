"""How the answers to some items become scores on all of them; refitted as answers come in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from evomerge import errors, plugins
from evomerge.answers import Answers, Place, Scores
from evomerge.maths import estimates, irt, irt_checks
from evomerge.maths.estimates import Estimate
from evomerge.schema import Fidelity

FEWEST_WHOLE, FEWEST_ITEMS = 8, 10
"""Models that answered all items, and items, below which no fit can be checked."""

NO_SKILL = "what is scored is no skill, so that there is no ability to fit"


def is_skill(scorer: str) -> bool:
    """Whether a score is an ability of the model; how short its texts are, say, is none."""
    return bool(getattr(plugins.load("scorer", scorer), "SKILL", True))


@dataclass(frozen=True)
class View:
    """How the answers to one bank of I items are read; what a `calibrated` event holds of it.

    `estimator` is what is used, `fallback` why it is not what the recipe wants. `item_means` (I,)
    are those of the models that answered everything; slopes and intercepts (I,) are empty where
    nothing was fitted. `held_out` are errors on models held out, empty where not checked.
    """

    estimator: str
    item_means: list[float]
    slopes: list[float]
    intercepts: list[float]
    prior: tuple[float, float] = (0.0, 1.0)
    dispersion: float = 1.0
    misfit: float = 0.0
    model: str = ""
    rows: int = 0
    whole: int = 0
    held_out: Mapping[str, float] | None = None
    fallback: str = ""

    @property
    def items(self) -> irt.Items:
        return irt.Items(np.array(self.slopes), np.array(self.intercepts))

    @property
    def strata(self) -> estimates.Ints:
        return estimates.strata(np.array(self.item_means))

    @property
    def trusted(self) -> bool:
        """Whether item response theory was fitted and found good enough to choose items by."""
        return bool(self.slopes) and not self.fallback

    def of(self, answers: Scores) -> Estimate:
        """The score on all items from answers (I,), nan where there is none."""
        if self.estimator == "p_irt":
            prior = irt.Prior(*self.prior)
            return estimates.p_irt(answers, self.items, prior, self.dispersion, self.misfit)
        if self.estimator == "equated":
            prior, means = irt.Prior(*self.prior), np.array(self.item_means)
            return estimates.equated(answers, self.items, prior, means, self.misfit)
        return estimates.stratified(answers, self.strata)

    def ability(self, answers: Scores) -> float:
        """Of a model with answers (I,)."""
        prior = irt.Prior(*self.prior)
        return float(irt.ability(self.items, answers[None], prior, self.dispersion)[0][0])


class Estimation:
    """Reads answers by the fidelity's estimator; base and experts (`ends`) answered every item."""

    def __init__(
        self, fidelity: Fidelity, answers: Answers, signals: Mapping[str, str], ends: Sequence[str]
    ) -> None:
        self.fidelity, self.answers = fidelity, answers
        self.signals, self.ends = dict(signals), list(ends)
        self.views: dict[str, View] = {}

    @property
    def paired(self) -> bool:
        """Whether scores are means of the items that were asked, the same for all models."""
        return self.fidelity.reads == "mean"

    def of(self, key: str, places: Sequence[Place]) -> tuple[list[Estimate], int]:
        """Estimates (M,) of a plan's scores, and the number of answers behind them.

        The mean is that of the answers to `places`; other estimators read all `search` answers.
        """
        found = [self.one(key, objective, places) for objective in self.signals]
        return [estimate for estimate, _ in found], sum(seen for _, seen in found)

    def one(self, key: str, objective: str, places: Sequence[Place]) -> tuple[Estimate, int]:
        """The same for one objective."""
        signal = self.signals[objective]
        if self.paired:
            scores = self.answers.column(key, objective, places, signal)
            mean, error = float(scores.mean()), estimates.standard_error(scores)
            return Estimate(mean, error), len(scores)
        row = self.answers.row(key, objective, signal)
        return self.views[objective].of(row), int(np.isfinite(row).sum())

    def ability(self, key: str, objective: str) -> float:
        row = self.answers.row(key, objective, self.signals[objective])
        return self.views[objective].ability(row)

    def refitted(self, keys: Sequence[str]) -> dict[str, Any]:
        """Views by objective as JSON, from base, experts and the plans `keys`."""
        found = {}
        for objective, signal in self.signals.items():
            rows = dict.fromkeys([*self.ends, *keys])
            table = np.stack([self.answers.row(key, objective, signal) for key in rows])
            skill = is_skill(self.answers.setup.banks[objective].scorer)
            found[objective] = asdict(self._view(table, self.views.get(objective), skill))
        return found

    def use(self, views: Mapping[str, Any], where: str) -> None:
        """Read by recorded views from now on; InputError for those of other items."""
        for objective in self.signals:
            there = len(self.answers.setup.banks[objective].split("search"))
            view = View(**views[objective])
            if len(view.item_means) != there or len(view.slopes) not in (0, there):
                raise errors.InputError(
                    f"{where}: the calibration of '{objective}' is of {len(view.item_means)} "
                    f"items, the bank has {there} in search: it is one of other items"
                )
            self.views[objective] = view

    def _view(self, table: Scores, before: View | None, skill: bool = True) -> View:
        whole = table[np.isfinite(table).all(axis=1)]
        means = _short(whole.mean(axis=0))
        plain = View("stratified", means, [], [], rows=len(table), whole=len(whole))
        if not self.fidelity.modelled or len(means) == 1:  # of a function, say: nothing to model
            return plain
        if not skill:
            return replace(plain, fallback=NO_SKILL)
        fit = irt.fit(table)
        same = before is not None and before.whole == len(whole)
        checked = before.held_out if before is not None and same else self._held_out(whole)
        fallback = _fallback(whole, checked)
        prior = irt.endpoint_prior(fit.abilities[: len(self.ends)])
        return View(
            "stratified" if fallback else self.fidelity.reads, means,
            _short(fit.items.slopes), _short(fit.items.intercepts),
            prior=(prior.mean, prior.sd), dispersion=fit.dispersion,
            misfit=(checked or {}).get("misfit", 0.0), model=fit.model, rows=len(table),
            whole=len(whole), held_out=checked, fallback=fallback,
        )  # fmt: skip

    def _held_out(self, whole: Scores) -> dict[str, float] | None:
        """Errors of the means of held-out models' other answers, as many shown as are asked; and
        `misfit`, that of item response theory with half of the items shown (Polo et al. 2024)."""
        n, size = whole.shape
        if n < FEWEST_WHOLE or size < FEWEST_ITEMS:
            return None
        shown = min(self.fidelity.items or size, size // 2)
        found = irt_checks.held_out(whole, seen=shown)
        half = irt_checks.held_out(whole, seen=size // 2)
        kept = {name: found.errors[name] for name in ("irt", "stratified")}
        return {**kept, "shown": float(found.seen), "misfit": half.errors["irt"]}


def fell_back(views: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """For people, of views of banks as a refit records them: those that strata stand in for."""
    return [
        f"'{name}': {view['fallback']}: strata are used instead"
        for name, view in views.items()
        if view["fallback"]
    ]


def _fallback(whole: Scores, checked: Mapping[str, float] | None) -> str:
    """Why item response theory is not used; empty where it is."""
    if checked is None:
        n, size = whole.shape
        return (
            f"{n} models answered all of {size} items, and {FEWEST_WHOLE} models and "
            f"{FEWEST_ITEMS} items are needed to check item response theory"
        )
    if checked["irt"] > checked["stratified"]:
        return (
            "item response theory predicts held-out models worse than the stratified mean "
            f"(error {checked['irt']:.4f} against {checked['stratified']:.4f} from "
            f"{checked['shown']:.0f} items)"
        )
    return ""


def _short(values: npt.NDArray[np.float64]) -> list[float]:
    """Six digits, so that what is recorded is what is used, and short."""
    return [float(f"{value:.6g}") for value in values]
