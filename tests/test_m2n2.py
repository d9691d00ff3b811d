"""M2N2: lineages collapse exactly, items are shared, and merges are bred in a fixed order."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import evomerge
from evomerge import errors
from evomerge.files.checkpoint import Checkpoint
from evomerge.genome import Gene, Space, alone
from evomerge.live import save
from evomerge.materialize import Workshop
from evomerge.maths import niches
from evomerge.plugins import Observation
from evomerge.recipe import resolve
from evomerge.strategies import m2n2
from tests import families
from tests.landscapes import make, numeric, seen


def gram(vectors, groups):
    """Inner products (G K, G K) of what genes (group by group, expert by expert) multiply."""
    experts, segments = len(vectors), max(groups) + 1
    found = np.zeros((segments, experts, segments, experts))
    for g in range(segments):
        here = vectors[:, groups == g]
        found[g, :, g, :] = here @ here.T
    return found.reshape(segments * experts, segments * experts)


def cosine(a, b):
    return a @ b / np.sqrt((a @ a) * (b @ b))


def slerped(a, b, t):
    """Weights (n,) at t (n,) of the way from a to b, by the angle of the whole vectors."""
    angle = np.arccos(np.clip(cosine(a, b), -1, 1))
    if np.sin(angle) < 1e-6:
        return (1 - t) * a + t * b
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


@given(st.integers(0, 2**20), st.sampled_from([1, 2, 3, 7]), st.sampled_from([1, 2, 5]))
def test_a_lineage_of_merges_is_coefficients_of_the_experts(seed, experts, segments):
    """Thirty merges of weights, one after another, and the same merges of coefficients."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((experts, 11 * segments)) * rng.uniform(0.1, 3, (experts, 1))
    groups = np.arange(11 * segments) % segments
    products, genes = gram(vectors, groups), np.repeat(np.arange(segments), experts)
    for known in (products, None):
        weights = list(rng.standard_normal((4, segments, experts)))
        models = [np.einsum("nk,kn->n", w[groups], vectors) for w in weights]
        for _ in range(30):
            a, b = rng.choice(4, 2, replace=False)
            split, w = rng.integers(segments), rng.random()
            if known is not None and cosine(models[a], models[b]) < -0.99:
                continue  # a merge of opposites magnifies what was rounded before
            t = np.where(np.arange(segments) < split, w, 1 - w)
            pair = (weights[a].ravel(), weights[b].ravel())
            weights[a] = m2n2.crossed(*pair, t[genes], known).reshape(segments, experts)
            far = t[groups]
            linear = (1 - far) * models[a] + far * models[b]
            models[a] = linear if known is None else slerped(models[a], models[b], far)
        for merged, model in zip(weights, models, strict=True):
            built = np.einsum("nk,kn->n", merged[groups], vectors)
            assert np.abs(built - model).max() <= 1e-9 * np.abs(model).max()


def test_a_child_is_the_merge_of_the_files_of_its_parents(family, tmp_path):
    """What is built from a child's genes equals the merge of its parents' built weights."""
    objectives = {name: str(family / f"{name}.jsonl") for name in ("one", "two")}
    models = {"base": str(family / "base")}
    experts = {name: str(family / name) for name in ("left", "right")}
    recipe = {**families.RECIPE, **models, "experts": experts, "objectives": objectives}
    problem = resolve({**recipe, "space": {"blocks": 2, "genes": {"weight": [-1, 1.5]}}})
    space = problem.space

    def weights(values):
        plan = problem.plan(space.encode(dict(zip(keys, values.tolist(), strict=True))))
        folder = save(plan, Workshop(problem.inputs.files), tmp_path / plan.key[:8])
        made = Checkpoint.open(folder)
        return {n: made.read_flat(n, 0, i.numel).double() for n, i in made.tensors.items()}

    keys = [gene.key for gene in space.genes]
    rng = np.random.default_rng(1)
    a, b = rng.uniform(0.1, 0.9, (2, len(space))).round(6)
    t = np.where(m2n2.segments(space) < 1, 0.3, 0.7)
    child = weights(m2n2.crossed(a, b, t, space.products).round(6))
    parents = [weights(a), weights(b)]
    base = {n: problem.base.read_flat(n, 0, i.numel) for n, i in problem.base.tensors.items()}
    first, second = ({n: p[n] - base[n].double() for n in base} for p in parents)
    far = {gene.group: part for gene, part in zip(space.genes, t, strict=True)}
    groups = problem.template.layers.groups(base)
    whole = [torch.cat([p[n] for n in base]).numpy() for p in (first, second)]
    parts = np.concatenate([np.full(base[n].numel(), far[groups[n]]) for n in base])
    expected = slerped(*whole, parts)
    got = torch.cat([child[n] - base[n].double() for n in base]).numpy()
    assert np.abs(got - expected).max() < 1e-5
    narrowed = space.narrowed(keys[0], high=1.2)
    assert np.array_equal(narrowed.products, space.products)


def test_segments_follow_the_depth_and_genes_without_weights_are_merged_linearly():
    groups = ("head", "10/mlp", "2/other", "2/mlp", "embedding")
    genes = [Gene("weight", expert="a", group=group) for group in groups]
    assert m2n2.segments(Space(genes)).tolist() == [4, 3, 2, 1, 0]
    a, b, products = np.array([1.0, 0.0, 0.2]), np.array([0.0, 1.0, 0.8]), np.diag([1.0, 1, 0])
    child = m2n2.crossed(a, b, np.full(3, 0.5), products)
    assert child == pytest.approx([np.sqrt(0.5), np.sqrt(0.5), 0.5])


def test_items_are_shared_among_those_who_solve_them():
    answers = [{"x": 1.0, "y": 1.0}, {"x": 1.0, "y": 0.0}, {"x": 1.0, "y": 0.0}]
    shared = np.array([[1 / 3, 1], [1 / 3, 0], [1 / 3, 0]]) / 2
    assert niches.shares(answers, 1.0) == pytest.approx(shared)
    assert niches.shares(answers, 0.0) == pytest.approx(np.array([[1, 1], [1, 0], [1, 0]]) / 2)
    # the sum over members of what one item gives is its capacity of 1, if anybody solves it
    soft = [{"x": 0.2, "y": 0.0}, {"x": 0.6, "y": 0.0}]
    assert (2 * niches.shares(soft, 1.0)).sum(axis=0) == pytest.approx([1, 0])
    odd = niches.shares([{"x": 1.0}, {"y": 1.0}, {}], 1.0)
    none = np.nan
    assert odd == pytest.approx(
        np.array([[1 / 3, none], [none, 1 / 3], [none, none]]), nan_ok=True
    )


def test_a_mate_is_strong_where_the_first_is_weak():
    solved = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]], dtype=float)
    rng = np.random.default_rng(0)
    pairs = {niches.mates(solved, rng) for _ in range(300)}
    assert pairs == {(0, 2), (1, 2), (2, 0), (2, 1)}
    assert {niches.mates(np.zeros((3, 2)), rng)[0] for _ in range(100)} == {0, 1, 2}
    # what the first has not been asked says nothing of who is strong where it is weak
    other = np.array([[1, np.nan, 0.0], [np.nan, 5.0, np.nan], [np.nan, np.nan, 1.0]])
    assert {b for a, b in (niches.mates(other, rng) for _ in range(300)) if a == 0} == {2}


def tell(strategy, answers, lacks=()):
    """Tell the next proposals these answers, one by one."""
    for row, lack in itertools.zip_longest(answers, lacks, fillvalue=0.0):
        (proposal,) = strategy.ask(1)
        losses = (1 - float(np.mean(list(row.values()))),)
        told = Observation(
            proposal.id, proposal.point, losses, answers={"o0": row}, lacks=lack, keeps=lack == 0
        )
        strategy.tell([told])


def test_a_specialist_stays_where_its_mean_is_the_worst():
    common = {**dict.fromkeys("abc", 1.0), "rare": 0.0}
    special = {**dict.fromkeys("abc", 0.0), "rare": 1.0}
    rows = [common, special, common, {**common, "c": 0.0}]
    for alpha, left in ((1.0, [0, 1, 2]), (0.0, [0, 2, 3])):
        strategy = make("m2n2", {"archive": 3, "alpha": alpha, "ahead": 1}, numeric(2), 1)
        tell(strategy, rows)
        strategy.ask(1)
        assert strategy.archive == left


@pytest.mark.parametrize(
    ("lacks", "left"),
    [
        ((0, 0.1, 0.2, 0.1, 0), [0, 1, 4]),  # of two that lack the same, who solves less leaves
        ((0, 0.1, 0, 0, 0), [0, 2, 3]),
        ((0.3, 0.2, 0.3, 0.1, 0.2), [1, 3, 4]),
        ((0, 0, 0, 0, 0), [0, 1, 2]),
    ],
)
def test_who_lacks_what_has_to_be_kept_leaves_first(lacks, left):
    """However much it solves; where all lack something, who lacks most."""
    rows = [{str(i): float(i < right) for i in range(6)} for right in (5, 6, 4, 3, 2)]
    strategy = make("m2n2", {"archive": 3, "alpha": 0.0, "ahead": 1}, numeric(2), 1)
    tell(strategy, rows, lacks)
    strategy.ask(1)
    assert strategy.archive == left


def test_it_begins_with_the_experts_and_waits_no_longer_than_it_must():
    space = numeric(4)
    parents = [tuple(space.canonical(space.encode(v)).tolist()) for v in ({}, *alone(space))]
    for ahead in (1, 5):
        strategy = make("m2n2", {"ahead": ahead}, space)
        first = strategy.ask(50)
        assert [p.point for p in first] == parents
        strategy.tell([seen(p) for p in first])
        assert len(strategy.ask(50)) == ahead
        assert strategy.ask(1) == []


def test_noise_leaves_the_hull_of_the_parents():
    """Of every parent, the weights of a group sum to .5 or 1; of what lies between, to no less."""
    space = numeric(4)
    for mutation, out in ((0.0, False), (0.2, True)):
        strategy = make("m2n2", {"mutation": mutation, "merge": "linear"}, space)
        bred = []
        for _ in range(6):
            proposals = strategy.ask(8)
            bred += [list(space.decode(p.point).values()) for p in proposals]
            strategy.tell([seen(p) for p in proposals])
        sums = np.reshape(bred, (-1, 2, 2)).sum(axis=2)
        assert len(sums) > 30 and ((sums < 0.49) | (sums > 1.01)).any() == out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"archive": 1}, "strategy.m2n2.archive: got 1"),
        ({"ahead": 0}, "strategy.m2n2.ahead: got 0"),
        ({"alpha": -1.0}, "strategy.m2n2.alpha"),
        ({"merge": "slerp"}, "strategy.m2n2.merge: got 'slerp'"),
        ({"mutate": 0.1}, "unknown option 'mutate'. Did you mean 'mutation'"),
    ],
)
def test_wrong_options_are_named(options, says):
    with pytest.raises(errors.RecipeError) as refusal:
        make("m2n2", options, numeric(2))
    assert says in str(refusal.value)


@pytest.mark.slow
def test_a_search_that_is_extended_is_the_one_that_was_not_interrupted(family, tmp_path):
    objectives = {name: str(family / f"{name}.jsonl") for name in ("one", "two")}
    experts = {name: str(family / name) for name in ("left", "right")}
    recipe = {**families.RECIPE, "base": str(family / "base"), "experts": experts}
    recipe |= {"objectives": objectives, "strategy": {"name": "m2n2", "archive": 4, "ahead": 3}}
    for budget in (11, 24):
        extended = evomerge.search(recipe, tmp_path / "a", budget={"candidates": budget})
    whole = evomerge.search(recipe, tmp_path / "b", budget={"candidates": 24})
    assert len(whole.asked()) == 24
    assert extended.asked() == whole.asked()
