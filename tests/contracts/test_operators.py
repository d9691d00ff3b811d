"""What every file of operators/ promises, on tensors of odd sizes."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge import plugins
from evomerge.layers import Place
from evomerge.maths.counter_rng import Noise

OPERATORS = plugins.known("operator")
SHAPES = [(), (1,), (2,), (7,), (1, 1), (3, 1), (1, 5), (5, 7), (2, 3, 5)]


def genes_of(name, k, **chosen):
    """Gene values as `merge` receives them: defaults, but for those that are chosen."""
    found = {}
    for gene in plugins.load("operator", name).GENES:
        value = chosen.get(gene.name, gene.default)
        if gene.per_expert:
            value = torch.as_tensor(value, dtype=torch.float32).expand(k).clone()
        found[gene.name] = value
    return found


def place_of(shape, role="mlp", depth=1):
    return Place("w", tuple(shape), role, depth, layers=4)


def merge(name, base, experts, seed=0, experts_names=None, place=None, **chosen):
    """One whole tensor through prepare, measure and merge, as materialize calls them."""
    module = plugins.load("operator", name)
    k, shape = len(experts), base.shape
    genes, place = genes_of(name, k, **chosen), place or place_of(shape)
    scope = module.scope(genes, place)
    if scope == "tile" or not shape:
        base, experts = base.reshape(-1), experts.reshape(k, -1)
    elif scope == "row":
        base, experts = base.view(-1, shape[-1]), experts.view(k, -1, shape[-1])
    stats, sums = {}, {}
    needed = not hasattr(module, "prepares") or module.prepares(genes, place)
    if hasattr(module, "prepare") and needed:
        stats = None
        for _ in range(getattr(module, "PASSES", 1)):
            found = module.prepare(base, experts, stats, place)
            stats = module.finish(found, stats) if hasattr(module, "finish") else found
    if hasattr(module, "derive") and needed:
        stats = {**stats, **module.derive(base, experts, place)}
    if hasattr(module, "measure") and module.measures(genes):
        sums = module.measure(base, experts, stats=stats, place=place, **genes)
    rng = Noise(seed, "w", experts_names or [f"e{i}" for i in range(k)])
    return module.merge(base, experts, stats=stats, sums=sums, rng=rng, place=place, **genes).view(
        shape
    )


def tensors(shape, k, seed=0, scale=0.1):
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator)
    return base, base + scale * torch.randn((k, *shape), generator=generator)


def settings_of(name):
    """Defaults, and each choice of each choice gene in turn."""
    found = [{}]
    for gene in plugins.load("operator", name).GENES:
        found += [{gene.name: choice} for choice in gene.choices[1:]]
    return found


def merges(name, k):
    fewest, most = getattr(plugins.load("operator", name), "EXPERTS", (1, k))
    return fewest <= k <= most


def few(name, k):
    """`k` experts, or as many as the operator merges at most."""
    return min(k, getattr(plugins.load("operator", name), "EXPERTS", (1, k))[1])


CASES = [(name, chosen) for name in OPERATORS for chosen in settings_of(name)]
OF_TASK_VECTORS = [case for case in CASES if case[1] != {"normalize": "no"}]
"""A sum of raw weights (linear without normalisation) is not about task vectors."""
SCALING = [case for case in OF_TASK_VECTORS if case[1] != {"compat": "mergekit"}]
"""mergekit has absolute thresholds, such as a smallest length."""


@pytest.mark.parametrize("name, chosen", CASES)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_shape_dtype_finite_and_inputs_untouched(name, chosen, k):
    for shape in SHAPES if merges(name, k) else ():
        base, experts = tensors(shape, k)
        before = base.clone(), experts.clone()
        merged = merge(name, base, experts, **chosen)
        assert merged.shape == base.shape and merged.dtype == torch.float32
        assert merged.isfinite().all(), shape
        assert torch.equal(base, before[0]) and torch.equal(experts, before[1])


@pytest.mark.parametrize("name, chosen", OF_TASK_VECTORS)
def test_experts_equal_to_the_base_give_the_base(name, chosen):
    for shape in SHAPES:
        base, _ = tensors(shape, 3)
        same = base.expand(few(name, 3), *shape).clone()
        assert torch.equal(merge(name, base, same, **chosen), base), shape


@pytest.mark.parametrize("name, chosen", CASES)
@settings(max_examples=6)
@given(order=st.permutations([0, 1, 2]), seed=st.integers(0, 50))
def test_the_order_of_experts_does_not_matter(name, chosen, order, seed):
    k = few(name, 3)
    order = [i for i in order if i < k]
    base, experts = tensors((4, 3), k, seed)
    weight = torch.tensor([0.7, -0.4, 1.1][:k])
    genes = [gene.name for gene in plugins.load("operator", name).GENES if gene.per_expert]
    names = ["a", "b", "c"][:k]
    one = merge(name, base, experts, experts_names=names, **dict.fromkeys(genes, weight), **chosen)
    two = merge(
        name, base, experts[order], experts_names=[names[i] for i in order],
        **dict.fromkeys(genes, weight[order]), **chosen,
    )  # fmt: skip
    assert torch.allclose(one, two, atol=1e-6)


@pytest.mark.parametrize("name, chosen", SCALING)
@pytest.mark.parametrize("scale", [1e-3, 0.25, 3.0, 1e3])
def test_task_vectors_scale(name, chosen, scale):
    """merge(base, base + s t) - base = s (merge(base, base + t) - base)."""
    task_vectors = tensors((5, 7), few(name, 3))[1]
    base = torch.zeros(5, 7)
    one = merge(name, base, task_vectors, **chosen)
    two = merge(name, base, task_vectors * scale, **chosen)
    assert torch.allclose(two, one * scale, rtol=1e-4, atol=1e-6 * scale)


@pytest.mark.parametrize("name", OPERATORS)
def test_corners_of_the_ranges(name):
    module = plugins.load("operator", name)
    base, experts = tensors((3, 5), 2)
    for gene in module.GENES:
        for value in () if gene.choices else (gene.decode(0.0), gene.decode(1.0)):
            assert merge(name, base, experts, **{gene.name: value}).isfinite().all()


@pytest.mark.parametrize("name", OPERATORS)
def test_genes_are_declared_soundly(name):
    module = plugins.load("operator", name)
    assert isinstance(module.VERSION, int) and module.__doc__
    for gene in module.GENES:
        gene.check(gene.default, gene.key)
        assert (
            gene.decode(gene.encode(gene.default)) == pytest.approx(gene.default) or gene.choices
        )
        for value in gene.seeds:
            gene.check(value, gene.key)
        assert dataclasses.replace(gene, group="1").key != gene.key


# Closed forms and special cases


def test_linear_is_the_mean_and_keeps_the_sign_of_weights():
    base, experts = tensors((3, 4), 4)
    assert torch.allclose(merge("linear", base, experts), experts.mean(0), atol=1e-6)
    away = merge("linear", base, experts[:2], weight=[1.0, -0.5])
    expected = base + (experts[0] - base - 0.5 * (experts[1] - base)) / 1.5
    assert torch.allclose(away, expected, atol=1e-6)
    assert torch.equal(merge("linear", base, experts, weight=0.0), base)
    raw = merge("linear", base, experts, weight=0.5, normalize="no")
    assert torch.allclose(raw, 0.5 * experts.sum(0), atol=1e-6)


def test_task_arithmetic_is_the_weighted_sum():
    base, experts = tensors((3, 4), 2)
    found = merge("task_arithmetic", base, experts, weight=[1.0, -1.0])
    assert torch.allclose(found, base + experts[0] - experts[1], atol=1e-6)
    assert torch.allclose(merge("task_arithmetic", base, experts[:1], weight=1.0), experts[0])


def test_ties_with_one_expert_and_all_entries_is_task_arithmetic():
    base, experts = tensors((6, 5), 1)
    found = merge("ties", base, experts, density=1.0, scale=0.7)
    expected = merge("task_arithmetic", base, experts, weight=0.7)
    assert torch.allclose(found, expected, atol=1e-6)


def test_ties_by_hand():
    """Trim to half, elect by mass, mean of those that agree."""
    base = torch.zeros(4)
    experts = torch.tensor([[4.0, -3.0, 1.0, 0.5], [-2.0, -5.0, 0.1, 3.0]])
    found = merge("ties", base, experts, density=0.5)
    assert found.tolist() == [4.0, -4.0, 0.0, 3.0]
    summed = merge("ties", base, experts, density=0.5, reducer="sum")
    assert summed.tolist() == [4.0, -8.0, 0.0, 3.0]
    largest = merge("ties", base, experts, density=0.5, reducer="max")
    assert largest.tolist() == [4.0, -5.0, 0.0, 3.0]


def test_ties_keeps_the_sign_of_a_negative_weight():
    """Dividing by the sum of weights instead of |weights| would turn -0.4 into +0.4."""
    found = merge(
        "ties", torch.zeros(1), torch.tensor([[0.0], [0.4]]), density=1.0, weight=[1, -0.5]
    )
    assert found.item() == pytest.approx(-0.4)


def test_ties_where_experts_balance():
    base, experts = torch.zeros(3), torch.tensor([[1.0, 2.0, 3.0], [-1.0, 2.0, 3.0]])
    assert merge("ties", base, experts, density=1.0).tolist() == [0.0, 2.0, 3.0]
    elected = merge("ties", base, experts, density=1.0, balanced="majority")
    assert elected.tolist() == [1.0, 2.0, 3.0]
    negative = merge("ties", base, -experts, density=1.0, balanced="majority")
    assert negative.tolist() == [-1.0, -2.0, -3.0]


def test_dare_keeps_the_share_and_is_unbiased():
    base, experts = torch.zeros(200, 100), torch.ones(1, 200, 100)
    density = 64 / 256
    found = merge("dare", base, experts, weight=1.0, density=density)
    assert set(found.unique().tolist()) == {0.0, 4.0}
    n, share = found.numel(), float((found > 0).float().mean())
    assert abs(share - density) < 4 * (density * (1 - density) / n) ** 0.5
    seeds = torch.stack(
        [merge("dare", base, experts, s, weight=1.0, density=density) for s in range(64)]
    )
    assert seeds.mean() == pytest.approx(1.0, abs=4 * (3 / seeds.numel()) ** 0.5)
    assert seeds.var(0).mean() == pytest.approx(3.0, rel=0.05)


def test_dare_at_density_one_is_task_arithmetic():
    base, experts = tensors((5, 5), 3)
    found = merge("dare", base, experts, density=1.0, weight=0.4)
    assert torch.allclose(found, merge("task_arithmetic", base, experts, weight=0.4))
