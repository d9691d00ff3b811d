"""Replays of the choice of candidates from few answers, and how good it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import fitness_methods as methods
import numpy as np
import numpy.typing as npt
from fitness_data import SIGNALS, Population
from fitness_methods import Known
from scipy.special import expit

from evomerge.maths import irt, irt_checks, pareto

Array = npt.NDArray[np.float64]

TOP = 8
METRICS = (
    "error", "own error", "Spearman", "top 8", "regret", "Spearman (probability)",
    "regret of the mean",
)  # fmt: skip
RISING = {"Spearman", "top 8", "Spearman (probability)"}
ASKED = (10, 20, 30, 50, 100, 300)
REFERENCE = ("score", "random", "mean")
REFERENCE_ASKED = (5, 10, 20, 30, 50, 75, 100, 150, 300)


class Protocol(NamedTuple):
    """`held`: the share of a bank's questions that nobody may ask, and that are the truth."""

    name: str
    held: float


PROTOCOLS = (Protocol("same", 0.0), Protocol("held-out", 0.5))


class Case(NamedTuple):
    """One cell of the table."""

    protocol: str
    rows: int
    signal: str
    choice: str
    estimator: str
    n: int


@dataclass(frozen=True)
class Task:
    """A bank as a run knows it: in each signal what calibration tells, and the new answers."""

    known: dict[str, Known]
    new: dict[str, Array]
    shift: dict[str, float]
    """What the mean score of the calibration is above its mean in a signal."""


def tasks(population: Population, rows: int) -> list[Task]:
    """A task for each bank, calibrated on base, experts and first candidates: `rows` models."""
    if population.score[next(iter(population.score))].shape[0] < rows + population.last:
        raise SystemExit(f"{population.name}: fewer than {rows} models beside the last ones")
    banks = list(population.score)
    means = np.stack([population.score[bank][:rows].mean(axis=1) for bank in banks], axis=1)
    front = pareto.nondominated(-means)
    found = []
    for bank in banks:
        signals = _signals(population, bank, rows)
        known = {s: _known(a[:rows], population.ends, front, s) for s, a in signals.items()}
        level = signals["score"][:rows].mean()
        shift = {s: float(level - a[:rows].mean()) for s, a in signals.items()}
        new = {s: a[-population.last :] for s, a in signals.items()}
        found.append(Task(known, new, shift))
    return found


def _signals(population: Population, bank: str, rows: int) -> dict[str, Array]:
    """Answers in [0, 1]; a margin is put there by a logistic curve on its typical size."""
    margin = population.margin[bank]
    scale = np.median(np.abs(margin[:rows]))
    return {
        "score": population.score[bank],
        "probability": population.probability[bank],
        "margin": expit(margin / scale),
    }


def _known(rows: Array, ends: int, front: npt.NDArray[np.bool_], signal: str) -> Known:
    fit = irt.fit(rows)
    misfit = np.nan
    if signal == REFERENCE[0]:  # half of the questions shown, as Polo et al. (2024) do
        misfit = irt_checks.held_out(rows, seen=rows.shape[1] // 2).errors["irt"]
    return Known(
        rows, fit.items, fit.dispersion, irt.endpoint_prior(fit.abilities[:ends]),
        fit.abilities[front], misfit, methods.shrunk_covariance(rows),
    )  # fmt: skip


def replay(
    ready: Sequence[Task], protocol: Protocol, rows: int, seed: int
) -> Iterator[tuple[Case, Array]]:
    """Metrics (METRICS,) of every case, on one draw of questions."""
    rng = np.random.default_rng(seed)
    pools, held = zip(*(_split(task, protocol, rng) for task in ready), strict=True)
    # Candidates get better along a run: those that look alike must not keep its order
    order = rng.permutation(len(ready[0].new["score"]))
    truth = _means(ready, "score", held, order)
    soft = _means(ready, "probability", held, order)
    for signal in SIGNALS:
        own = _means(ready, signal, held, order)
        known = [t.known[signal].of(pool) for t, pool in zip(ready, pools, strict=True)]
        new = [t.new[signal][order][:, pool] for t, pool in zip(ready, pools, strict=True)]
        shift = np.array([[t.shift[signal]] for t in ready])
        for choice, n, wanted in _asked(signal, len(pools[0])):
            guesses: dict[str, list[Array]] = {}
            for k, answers in zip(known, new, strict=True):
                chosen = methods.CHOICES[choice](k, n, rng)
                for name, guess in methods.estimates(k, answers[:, chosen[0]], chosen).items():
                    guesses.setdefault(name, []).append(guess)
            for name in wanted or guesses:
                case = Case(protocol.name, rows, signal, choice, name, n)
                # Rounded, so that equal counts of right answers are equal whatever was summed
                guess = np.round(guesses[name], 12)
                yield case, metrics(guess, shift, truth, own, soft)


def _split(task: Task, protocol: Protocol, rng: np.random.Generator) -> tuple[Array, Array]:
    """Questions that may be asked, and those that are the truth."""
    size = task.new["score"].shape[1]
    if not protocol.held:
        return np.arange(size), np.arange(size)
    shuffled = rng.permutation(size)
    cut = round(size * protocol.held)
    return shuffled[cut:], shuffled[:cut]


def _means(ready: Sequence[Task], signal: str, items: Sequence[Array], order: Array) -> Array:
    """(banks, models)"""
    pairs = zip(ready, items, strict=True)
    means = [task.new[signal][order][:, i].mean(axis=1) for task, i in pairs]
    return np.round(means, 12)


def _asked(signal: str, size: int) -> Iterator[tuple[str, int, tuple[str, ...]]]:
    """(choice, n, estimators or all)"""
    for choice in methods.CHOICES:
        yield from ((choice, n, ()) for n in ASKED if n <= size)
    if signal == REFERENCE[0]:
        further = set(REFERENCE_ASKED) - set(ASKED)
        yield from ((REFERENCE[1], n, REFERENCE[2:]) for n in sorted(further) if n <= size)


def metrics(guess: Array, shift: Array, truth: Array, own: Array, soft: Array) -> Array:
    """Means over banks of METRICS; all arrays are (banks, models)."""
    whole, best = truth.mean(axis=0), guess.argmax(axis=1)
    return np.array([
        np.abs(guess + shift - truth).mean(),
        np.abs(guess - own).mean(),
        spearman(guess, truth).mean(),
        agreement(guess, truth).mean(),
        (truth.max(axis=1) - truth[np.arange(len(truth)), best]).mean(),
        spearman(guess, soft).mean(),
        whole.max() - whole[guess.mean(axis=0).argmax()],
    ])  # fmt: skip


def spearman(guess: Array, truth: Array) -> Array:
    """Rank correlation of each row (B,); 0 where nothing is told apart."""
    a, b = (_ranks(v) for v in (guess, truth))
    a, b = (v - v.mean(axis=1, keepdims=True) for v in (a, b))
    scale = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.divide((a * b).sum(axis=1), scale, out=np.zeros(len(a)), where=scale > 0)


def _ranks(values: Array) -> Array:
    """Ranks within each row, equal values sharing theirs."""
    one, other = values[:, :, None], values[:, None]
    return np.asarray((one > other).sum(axis=2) + (one == other).sum(axis=2) / 2)


def agreement(guess: Array, truth: Array) -> Array:
    """Share (B,) of the eight best by the guess that are no worse than the eighth in truth."""
    chosen = np.argsort(-guess, axis=1, kind="stable")[:, :TOP]
    eighth = np.sort(truth, axis=1)[:, -TOP, None]
    return np.asarray((np.take_along_axis(truth, chosen, axis=1) >= eighth).mean(axis=1))


def equivalent(curve: Array, asked: Sequence[int], value: float) -> float:
    """How many random questions reach a value, on a curve that rises with their number.

    Linear in the logarithm of the number, on the running maximum of the curve; the least and the
    largest number stand for everything beyond them.
    """
    rising = np.maximum.accumulate(curve)
    if value > rising[-1]:
        return float(asked[-1])
    first = np.append(True, np.diff(rising) > 0)
    return float(np.exp(np.interp(value, rising[first], np.log(np.asarray(asked)[first]))))


def resampled(shape: tuple[int, int], draws: int, seed: int = 0) -> Array:
    """Weights (draws, populations * repeats) of a bootstrap of populations, then repeats."""
    populations, repeats = shape
    rng = np.random.default_rng(seed)
    weights = np.zeros((draws, populations, repeats))
    for d in range(draws):
        for p in rng.integers(populations, size=populations):
            np.add.at(weights[d, p], rng.integers(repeats, size=repeats), 1.0)
    return weights.reshape(draws, -1) / (populations * repeats)
