"""benchmarks/fitness.py: estimators in their limits, choices of questions, metrics."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import spearmanr

from evomerge.maths import irt

FOLDER = Path(__file__).parents[1] / "benchmarks"


def load(name: str) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(FOLDER)])
        return importlib.import_module(name)


data, methods, replays = (load(f"fitness_{name}") for name in ("data", "methods", "replay"))


def drawn(models: int, items: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    p = expit(rng.normal(size=(models, 1)) * rng.uniform(0.5, 2, items) + rng.normal(size=items))
    return (rng.random(p.shape) < p).astype(float)


@pytest.fixture(scope="module")
def known() -> Any:
    rows = drawn(37, 23, 0)
    fit = irt.fit(rows)
    prior = irt.endpoint_prior(fit.abilities[:3])
    covariance = methods.shrunk_covariance(rows)
    return methods.Known(rows, fit.items, 1.0, prior, fit.abilities[:5], 0.02, covariance)


def test_every_estimator_is_the_mean_once_everything_is_asked(known: Any) -> None:
    new = drawn(11, 23, 1)
    order = np.random.default_rng(2).permutation(23)
    chosen = (order, np.full(23, 1 / 23))
    for name, guess in methods.estimates(known, new[:, order], chosen).items():
        np.testing.assert_allclose(guess, new.mean(axis=1), atol=1e-9, err_msg=name)


def test_free_weights_of_endpoints_are_the_most_likely_ability(known: Any) -> None:
    """The peer's way, weights of three endpoints from 1/3 on, against what stands for it."""
    new = drawn(13, 23, 3)
    items = np.arange(0, 23, 2)
    seen = new[:, items]
    inside = seen.mean(axis=1)
    seen = seen[(inside > 0) & (inside < 1)]
    ends = np.array([-0.7, 0.4, 1.1])
    a, b = known.items.slopes[items], known.items.intercepts[items]

    def loss(weights: np.ndarray, y: np.ndarray) -> float:
        z = a * (weights @ ends) + b
        return float(np.logaddexp(0, z).sum() - y @ z)

    fitted = [minimize(loss, np.full(3, 1 / 3), (y,), method="BFGS").x @ ends for y in seen]
    expected = methods.completed(known, np.array(fitted), seen.mean(axis=1), items)
    chosen = (items, np.full(len(items), 1 / len(items)))
    found = methods.peers(known, seen, chosen)
    np.testing.assert_allclose(found["mp-IRT"], expected, atol=2e-3)
    np.testing.assert_allclose(found["gmp-IRT"], (seen.mean(axis=1) + found["mp-IRT"]) / 2)


@pytest.mark.parametrize(
    ("misfit", "n", "share"),
    [(0.0, 20, 0.0), (0.1, 10**9, 1.0), (None, 20, 0.5)],
    ids=["no misfit: all model", "many answers: all mean", "misfit as large as the noise"],
)
def test_the_share_of_the_mean_in_gp_irt(
    known: Any, misfit: float | None, n: int, share: float
) -> None:
    noise = known.rows.var(axis=1).mean() / (4 * n)
    changed = dataclasses.replace(known, misfit=np.sqrt(noise) if misfit is None else misfit)
    assert methods.gp_share(changed, n) == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize("choice", methods.CHOICES)
@pytest.mark.parametrize("n", [1, 2, 13, 23])
def test_questions_are_chosen_once_and_weigh_one(known: Any, choice: str, n: int) -> None:
    items, weights = methods.CHOICES[choice](known, n, np.random.default_rng(n))
    assert len(set(items.tolist())) == len(items) <= n
    assert weights.sum() == pytest.approx(1)
    assert choice == "anchors" or len(items) == n


def test_the_first_question_leaves_the_least_variance_of_the_mean(known: Any) -> None:
    c, size = known.covariance, len(known.covariance)
    left = [c.mean() - (c[i].mean() ** 2) / c[i, i] for i in range(size)]
    assert known.greedy[0] == np.argmin(left)
    first = known.greedy[0]
    pairs = [[first, i] for i in range(size) if i != first]
    explained = [c[p].mean(axis=1) @ np.linalg.solve(c[np.ix_(p, p)], c[p].mean(axis=1))
                 for p in pairs]  # fmt: skip
    assert known.greedy[1] == pairs[int(np.argmax(explained))][1]


def test_shrinking_keeps_the_whole_variance_and_gives_up_on_noise() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(500, 7))
    shrunk = methods.shrunk_covariance(noise)
    assert np.trace(shrunk) == pytest.approx(noise.var(axis=0).sum())
    off = shrunk - np.diag(np.diag(shrunk))
    assert np.abs(off).max() < 0.5 * np.abs(np.cov(noise.T) - np.diag(noise.var(axis=0))).max()
    common = noise[:, :1] + 0.01 * noise
    np.testing.assert_allclose(
        methods.shrunk_covariance(common), np.cov(common.T, bias=True), rtol=0.02
    )


def test_equivalent_questions() -> None:
    asked, curve = (5, 10, 20, 40, 80), np.array([0.1, 0.2, 0.4, 0.4, 0.8])
    for n, value in ((5, 0.1), (10, 0.2), (20, 0.4), (80, 0.8)):
        assert replays.equivalent(curve, asked, value) == pytest.approx(n)
    assert replays.equivalent(curve, asked, 0.3) == pytest.approx(np.sqrt(200))
    assert replays.equivalent(curve, asked, -1) == pytest.approx(5)
    assert replays.equivalent(curve, asked, 2) == pytest.approx(80)
    dipped = np.array([0.1, 0.2, 0.4, 0.3, 0.8])
    assert replays.equivalent(dipped, asked, 0.4) == pytest.approx(20)
    flat = np.array([0.1, 0.2, 0.8, 0.7, 0.8])  # what 20 reach, and what none does
    assert replays.equivalent(flat, asked, 0.8) == pytest.approx(20)
    assert replays.equivalent(flat, asked, 0.9) == pytest.approx(80)
    assert replays.equivalent(-np.array([0.5, 0.4, 0.3, 0.2, 0.1]), asked, -0.3) == pytest.approx(
        20
    )


def test_metrics_of_ties_and_of_nothing_told_apart() -> None:
    rng = np.random.default_rng(1)
    guess, truth = rng.integers(0, 5, (3, 17)) / 4, rng.integers(0, 6, (3, 17)) / 5
    expected = [spearmanr(g, t).statistic for g, t in zip(guess, truth, strict=True)]
    np.testing.assert_allclose(replays.spearman(guess, truth), expected, atol=1e-12)
    assert replays.spearman(np.zeros((1, 9)), truth[:1, :9]) == 0
    # Nine are as good as the eighth: any of them agrees
    tied = np.array([[3.0, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1]])
    assert replays.agreement(np.arange(11.0)[None], tied) == 6 / 8
    assert replays.agreement(tied, tied) == 1


def test_the_stored_answers_are_what_they_claim() -> None:
    populations = data.load(FOLDER / "data" / "fitness.npz")
    assert {p.kind for p in populations} == {"narrow", "wide"}
    for p in populations:
        for bank, score in p.score.items():
            assert score.shape == (100, 200), (p.name, bank)
            margin = p.margin[bank]
            clear = margin != 0
            assert ((margin > 0) == (score > 0.5))[clear].all()
            # A right answer among four is the most probable one
            assert (p.probability[bank][score > 0.5] > 0.2).all()


def test_a_turned_population_ranks_other_models() -> None:
    one = next(p for p in data.load(FOLDER / "data" / "fitness.npz") if p.kind == "wide")
    bank = next(iter(one.score))
    again = one.turned()
    np.testing.assert_array_equal(again.margin[bank][-40:], one.margin[bank][5:45])
    np.testing.assert_array_equal(again.margin[bank][:5], one.margin[bank][:5])
    np.testing.assert_array_equal(again.margin[bank][5:60], one.margin[bank][45:])
