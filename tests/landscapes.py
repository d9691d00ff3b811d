"""Spaces, losses and a barrier search, on which the tests run every strategy."""

import json

import numpy as np

from evomerge import plugins
from evomerge.genome import Gene, Space
from evomerge.plugins import Observation

NAMES = plugins.known("strategy")
NESTED = ("seeded", {"inner": {"name": "nsga2", "population": 8}})
POPULATION = {"population": 8}
QUICK = {
    "cma_es": {"population": 5},
    "gp": {"startup": 6},
    "map": {"generations": 4, **POPULATION},
    "nsga2": POPULATION,
    "nsga3": POPULATION,
    "sae": POPULATION,
    "smsemoa": POPULATION,
    "tpe": {"startup": 6},
}
"""Options by which a strategy learns sooner than by default."""
STEADY = {"name": "smsemoa", **POPULATION, "steady": True}
CASES = [
    *((name, QUICK.get(name, {})) for name in NAMES),
    NESTED,
    ("nsga2", {**POPULATION, "steady": True}),
    ("staged", {"first": {"name": "sobol"}, "candidates": 12, "then": STEADY}),
    ("restart", {"inner": {"name": "nsga3", **POPULATION}, "patience": 20, "tolerance": 0.2}),
]
IDS = [
    f"{name}-{i - len(NAMES)}" if i >= len(NAMES) else name for i, (name, _) in enumerate(CASES)
]
ENDS = {"greedy_soup"}
"""Those that have a last proposal."""
MODELS = {"gp", "tpe"}
"""Those that model what has been told anew for each proposal."""
QUICK_IDS = set(NAMES) - MODELS - {"auto"}
"""Each strategy by itself, but for those that take long and what is one of the others anyway; all
else is `slow`."""


def numeric(dimension):
    return Space(
        [
            Gene("weight", 0, 1, 0.25, 1 / 256, expert=f"e{d % 2}", group=str(d // 2))
            for d in range(dimension)
        ]
    )


def mixed():
    return Space(
        [
            Gene("method", choices=("linear", "ties", "slerp"), default="linear"),
            Gene("weight", 0, 1, 0.5, 1 / 256, expert="a"),
            Gene("weight", 0, 1, 0.5, 1 / 256, expert="b"),
            Gene("density", 0, 1, 1.0, 1 / 256, when=("method", ("ties",)), seeds=(0.2,)),
            Gene("lift", -1, 1, 0.0),
        ]
    )


def few(name, number):
    """A third of a number of proposals or turns for a strategy that takes long for each."""
    return number // 3 if name in MODELS else number


def make(name, options, space, objectives=2, seed=0):
    names = [f"o{m}" for m in range(objectives)]
    plugins.check_strategy(name, options, space, names, "strategy")
    return plugins.load("strategy", name).Strategy(space, names, seed=seed, **options)


def able(name, options, space, objectives=2):
    """What a strategy's needs say."""
    names = [f"o{m}" for m in range(objectives)]
    return plugins.refusal(plugins.strategy_needs(name, options), space.genes, names) is None


def spaces_for(name, options):
    """One with numbers alone and one with choices, unless it does not tell them apart."""
    spaces = (mixed(),) if name in {"tpe", "sobol"} else (numeric(3), mixed())
    return [space for space in spaces if able(name, options, space)]


def losses_at(point, objectives=2):
    """Spheres, each around its own corner of the cube."""
    centres = np.linspace(0.3, 0.7, objectives) if objectives > 1 else [0.6]
    return tuple(float(np.mean((np.array(point) - c) ** 2)) for c in centres)


def observed(id, point, losses):
    """With an item for each gene and objective, whose mean is the loss of `losses_at`."""
    if losses is None:
        return Observation(id, point, None)
    count = len(losses)
    centres = np.linspace(0.3, 0.7, count) if count > 1 else [0.6]
    answers = {
        f"o{m}": {str(d): 1 - (unit - centre) ** 2 for d, unit in enumerate(point)}
        for m, centre in enumerate(centres)
    }
    return Observation(id, point, losses, answers=answers)


def seen(proposal, objectives=2, fails=lambda id: False):
    losses = None if fails(proposal.id) else losses_at(proposal.point, objectives)
    return observed(proposal.id, proposal.point, losses)


def search(strategy, budget, chunk=8, objectives=2, fails=lambda id: False):
    """Barrier mode: ask, tell all in order, ask again. The first `budget` observations.

    Fewer, if the strategy has no more to propose.
    """
    told = []
    while len(told) < budget:
        proposals = strategy.ask(chunk)
        assert len(proposals) <= chunk
        if not proposals:
            break
        told += [seen(p, objectives, fails) for p in proposals]
        strategy.tell(told[-len(proposals) :])
    return told[:budget]


def points(observations):
    return [(o.id, o.point) for o in observations]


def through_json(observation):
    text = json.dumps([observation.id, observation.point, observation.losses])
    id, point, losses = json.loads(text)
    return observed(id, tuple(point), None if losses is None else tuple(losses))
