"""Synthetic searches that look like merges, with fronts that are known.

Skill m of a merge with weights w (K experts, G groups of tensors) has an ability

    a_m(w) = top_m - slope_m * sum_g h_mg (w_g - o_mg)' C_mg (w_g - o_mg)

which is how a model's loss looks near its expert: quadratic, with a matrix C_mg (K, K) that holds
how much the skill feels each task vector and how they interfere. A question is answered if the
ability is above its difficulty, or by guessing; the share that is rises and saturates with the
ability. What a strategy is told comes from a fixed set of questions, with a part that differs
from candidate to candidate; what is reported is the share of all questions there could be.

Every skill is a monotone function of a convex quadratic form, so the front of a space of weights
is the set of minimisers of all weighted sums of these forms in the box: small quadratic programs,
one per group, solved here by coordinate descent for a lattice of weightings. With a method and a
density to choose, this is done for each method and 20 densities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from pymoo.util.ref_dirs import get_reference_directions
from scipy.special import ndtr

from evomerge.genome import Gene, Space
from evomerge.maths import pareto
from evomerge.plugins import REFERENCE_POINT

ITEMS = 200
"""Questions per skill that a candidate answers."""
CHANCE = 0.25
SPREAD, OWN = 1.0, 0.5
"""Spread of difficulties; that part of an ability which is each candidate's own on a question."""
METHODS = ("sum", "trim", "drop")
DENSITIES = np.linspace(0.05, 1.0, 20)
PARTS = {2: 100, 3: 16, 4: 12}
"""Fineness of the lattice of weightings, by objectives."""
SWEEPS = 120
"""Of coordinate descent; twice as many change no loss by more than 1e-6."""


@dataclass(frozen=True)
class Shape:
    """What a landscape is like; its numbers come from a seed."""

    name: str
    experts: int
    groups: int
    skills: int
    mixed: bool = False

    @property
    def genes(self) -> int:
        return self.experts * self.groups + 2 * self.mixed


SHAPES = (
    Shape("two skills, 4 genes", 2, 2, 2),
    Shape("two skills, 24 genes", 3, 8, 2),
    Shape("three skills, choices", 3, 3, 3, mixed=True),
    Shape("four skills, 16 genes", 4, 4, 4),
    Shape("four skills, 40 genes", 4, 10, 4),
)
FEW = tuple(Shape(f"{k} experts, a weight and a skill each", k, 1, k) for k in (2, 3, 4))


class Landscape:
    """One landscape: M skills of points (N, D), true and as asked."""

    def __init__(self, shape: Shape, seed: int) -> None:
        self.shape = shape
        k, g, m = shape.experts, shape.groups, shape.skills
        draw = np.random.default_rng([seed, k, g, m])
        self._seed = seed
        self.space = space_of(shape)
        vectors = draw.standard_normal((m, g, k, 2 * k)) / np.sqrt(2 * k)
        vectors += 0.3 * draw.standard_normal((m, g, 1, 2 * k)) / np.sqrt(2 * k)
        felt = draw.uniform(0.3, 0.9, (m, g, k))
        for skill in range(m):
            felt[skill, :, skill % k] = 1.0
        vectors *= felt[..., None]
        share = draw.dirichlet(np.full(g, 2.0), m)
        self._forms = np.einsum("mgkr,mglr,mg->mgkl", vectors, vectors, share)
        self._forms += 1e-3 * share[..., None, None] * np.eye(k)
        self._best = draw.uniform(-0.1, 0.25, (m, g, k))
        for skill in range(m):
            self._best[skill, :, skill % k] = draw.uniform(0.7, 1.1, g)
        base = self._quadratic(np.zeros((1, g, k)), None)[0]
        self._top = draw.uniform(0.8, 1.6, m)
        self._slope = (self._top - draw.uniform(-0.8, 0.0, m)) / base
        self._difficulty = SPREAD * draw.standard_normal((m, ITEMS))
        ends = np.vstack([np.zeros((1, g, k)), np.eye(k)[:, None, :].repeat(g, axis=1)])
        scores = self._scores(ends, None)
        self._zero = scores.max(axis=0)
        self._unit = np.maximum(self._zero - scores[0], 0.05)

    def true(self, points: np.ndarray) -> np.ndarray:
        """Losses (N, M) of points (N, D) over all questions there could be."""
        weights, method = self._read(points)
        return (self._zero - self._scores(weights, method)) / self._unit

    def answers(self, points: np.ndarray) -> np.ndarray:
        """Right or wrong (N, M, ITEMS), by knowing or by guessing."""
        ability = self._ability(*self._read(points))
        right = np.empty((len(points), *self._difficulty.shape), dtype=bool)
        for i, point in enumerate(points):
            key = np.frombuffer(np.ascontiguousarray(point).tobytes(), dtype=np.uint32)
            draw = np.random.default_rng([self._seed, *key])
            own = OWN * draw.standard_normal(self._difficulty.shape)
            known = ability[i][:, None] + own > self._difficulty
            right[i] = known | (draw.random(known.shape) < CHANCE)
        return right

    def asked(self, answers: np.ndarray) -> np.ndarray:
        """Losses (N, M) by answers (N, M, ITEMS)."""
        return (self._zero - answers.mean(axis=2)) / self._unit

    @cached_property
    def front(self) -> np.ndarray:
        """True losses (F, M) of the nondominated points."""
        rows = get_reference_directions(
            "das-dennis", self.shape.skills, n_partitions=PARTS[self.shape.skills]
        )
        methods = [("sum", 1.0)]
        if self.shape.mixed:
            methods += [(name, d) for name in METHODS[1:] for d in DENSITIES]
        found = np.vstack([self._optima(rows, method) for method in methods])
        return found[pareto.nondominated(found)]

    @cached_property
    def volume(self) -> float:
        return pareto.hypervolume(self.front, REFERENCE_POINT)

    @cached_property
    def least_mean(self) -> float:
        """The lowest mean loss that there is on the front."""
        return float(self.front.mean(axis=1).min())

    def _optima(self, rows: np.ndarray, method: tuple[str, float]) -> np.ndarray:
        """Losses (J, M) of the minimisers of sum_m rows[j, m] * form_m in the box."""
        own, other, ridge, _ = effects(method)
        scale = self._felt(own, other)
        scaled = self._forms * (scale[:, None, :, None] * scale[:, None, None, :])
        matrix = np.einsum("jm,mgkl->jgkl", rows, scaled)
        wanted = self._best / scale[:, None, :]
        linear = np.einsum("jm,mgkl,mgl->jgk", rows, scaled, wanted)
        matrix = matrix + ridge / self.shape.groups * np.eye(self.shape.experts)
        weights = np.full(linear.shape, 0.5)
        for _ in range(SWEEPS):
            for k in range(self.shape.experts):
                rest = np.einsum("jgl,jgl->jg", matrix[:, :, k], weights)
                rest -= matrix[:, :, k, k] * weights[:, :, k]
                weights[:, :, k] = np.clip((linear[:, :, k] - rest) / matrix[:, :, k, k], 0, 1)
        return (self._zero - self._scores(weights, [method] * len(weights))) / self._unit

    def _felt(self, own: float, other: float) -> np.ndarray:
        """How much of each expert (M, K) a method leaves: of a skill's own, and of others."""
        scale = np.full((self.shape.skills, self.shape.experts), other)
        for skill in range(self.shape.skills):
            scale[skill, skill % self.shape.experts] = own
        return scale

    def _quadratic(
        self, weights: np.ndarray, methods: Sequence[tuple[str, float]] | None
    ) -> np.ndarray:
        """The forms (N, M) at weights (N, G, K)."""
        scale = np.ones((len(weights), self.shape.skills, self.shape.experts))
        extra = np.zeros(len(weights))
        for i, method in enumerate(methods or ()):
            own, other, ridge, constant = effects(method)
            scale[i] = self._felt(own, other)
            extra[i] = ridge / self.shape.groups * (weights[i] ** 2).sum() + constant
        apart = weights[:, None] * scale[:, :, None] - self._best
        return np.einsum("nmgk,mgkl,nmgl->nm", apart, self._forms, apart) + extra[:, None]

    def _ability(
        self, weights: np.ndarray, methods: Sequence[tuple[str, float]] | None
    ) -> np.ndarray:
        return self._top - self._slope * self._quadratic(weights, methods)

    def _scores(
        self, weights: np.ndarray, methods: Sequence[tuple[str, float]] | None
    ) -> np.ndarray:
        known = ndtr(self._ability(weights, methods) / np.hypot(SPREAD, OWN))
        return CHANCE + (1 - CHANCE) * known

    def _read(self, points: np.ndarray) -> tuple[np.ndarray, list[tuple[str, float]] | None]:
        """Weights (N, G, K), and methods with densities where there are any."""
        values = [self.space.decode(point) for point in points]
        keys = [gene.key for gene in self.space.genes if gene.name == "weight"]
        weights = np.array([[found[key] for key in keys] for found in values])
        shaped = weights.reshape(len(points), self.shape.groups, self.shape.experts)
        if not self.shape.mixed:
            return shaped, None
        return shaped, [(found["method"], found.get("density", 1.0)) for found in values]


def effects(method: tuple[str, float]) -> tuple[float, float, float, float]:
    """What a method at a density does: own expert, others, a ridge on weights, a constant.

    Trimming weakens what interferes more than what is wanted, until too little is left; dropping
    at random adds noise that grows with the weights.
    """
    name, density = method
    if name == "trim":
        return 1 - 0.3 * (1 - density) ** 2, 0.4 + 0.6 * density, 0.0, 0.25 * (1 - density) ** 4
    if name == "drop":
        return 1.0, 1.0, 0.02 * (1 / density - 1), 0.0
    return 1.0, 1.0, 0.0, 0.0


def space_of(shape: Shape) -> Space:
    weights = [
        Gene(
            "weight", 0, 1, round(256 / shape.experts) / 256, 1 / 256, seeds=(0.3,),
            expert=f"e{k}", group=str(g),
        )
        for g in range(shape.groups)
        for k in range(shape.experts)
    ]  # fmt: skip
    if not shape.mixed:
        return Space(weights)
    density = Gene(
        "density", 1 / 256, 1, 1.0, 1 / 256, when=("method", ("trim", "drop")), seeds=(0.2,)
    )
    return Space([Gene("method", choices=METHODS, default="sum"), density, *weights])
