"""Each operator against its definition, written out plainly, and against others it contains."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge import errors, plugins
from evomerge.api import plan_of
from evomerge.materialize import TILE, Merged, Workshop
from evomerge.maths import combine
from evomerge.recipe import resolve
from tests import families
from tests.contracts.test_operators import merge, place_of, tensors
from tests.test_awkward import whole


def close(found, expected, size=1e-5):
    """The difference is below `size` of the largest number expected."""
    return float((found - expected).abs().max()) <= size * float(expected.abs().max())


# Spheres


@pytest.mark.parametrize("of", ["weights", "task_vectors"])
@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_slerp_is_the_great_circle(of, t):
    base, experts = tensors((4, 5), 2, scale=0.8)
    ends = experts if of == "weights" else experts - base
    angle = torch.arccos((ends[0] * ends[1]).sum() / ends[0].norm() / ends[1].norm())
    expected = (torch.sin((1 - t) * angle) * ends[0] + torch.sin(t * angle) * ends[1]) / (
        torch.sin(angle)
    )
    found = merge("slerp", base, experts, t=t, of=of)
    assert close(found - (base if of == "task_vectors" else 0), expected)


def test_slerp_of_parallel_and_of_zero_vectors_is_straight():
    base = torch.ones(6)
    for experts in (torch.stack([base, 3 * base]), torch.stack([base, 0 * base])):
        found = merge("slerp", base, experts, t=0.25)
        assert close(found, 0.75 * experts[0] + 0.25 * experts[1])


def test_karcher_of_two_of_one_length_is_slerp():
    base, experts = tensors((3, 5), 2)
    task_vectors = experts - base
    experts = base + task_vectors / task_vectors.flatten(1).norm(dim=1).view(2, 1, 1)
    found = merge("karcher", base, experts, weight=[0.6, 0.2], of="task_vectors")
    assert close(found - base, merge("slerp", base, experts, t=0.25, of="task_vectors") - base)


def test_karcher_is_where_the_pulls_cancel_at_the_mean_length():
    base, experts = tensors((37,), 4, scale=1.0)
    weight = torch.tensor([0.9, 0.4, 0.1, 0.6])
    found = (merge("karcher", base, experts, weight=weight, of="task_vectors") - base).double()
    task_vectors = (experts - base).double()
    lengths = task_vectors.norm(dim=1)
    share = weight.double() / weight.sum()
    assert float(found.norm()) == pytest.approx(float(share @ lengths), rel=1e-5)
    mean, units = found / found.norm(), task_vectors / lengths[:, None]
    angles = torch.arccos(units @ mean)
    logs = (angles / torch.sin(angles))[:, None] * (units - (units @ mean)[:, None] * mean)
    assert float((share @ logs).norm()) < 1e-6


def test_karcher_leaves_out_the_direction_of_zero_vectors():
    base, experts = tensors((11,), 2)
    one = torch.stack([experts[0], base])
    found = merge("karcher", base, one, of="task_vectors")
    assert close(found - base, 0.5 * (experts[0] - base), 1e-4)


moves = st.tuples(st.floats(0.0, 1.0, width=32), st.floats(-1.0, 1.0, width=32))


@settings(max_examples=150, deadline=None)
@given(st.lists(moves, min_size=2, max_size=6))
def test_karcher_of_single_entries_is_their_mean_size_either_way(pairs):
    weight, moved = (torch.tensor(column) for column in zip(*pairs, strict=True))
    base = torch.tensor([1.6335455179214478])
    experts = base + moved[:, None]
    moved = (experts - base).view(-1).double()
    found = float(merge("karcher", base, experts, weight=weight, of="task_vectors") - base)
    share = weight.double() / weight.double().sum() if weight.any() else weight.double()
    assert abs(found) == pytest.approx(float(share @ moved.abs()), rel=1e-3, abs=1e-6)
    pull = float(share @ moved.sign())
    assert abs(pull) < 1e-3 or found * pull >= 0.0


@pytest.mark.parametrize("apart", [0.0, 1e-7, 1e-5, 1e-3, 1e-1])
def test_karcher_of_opposed_directions_keeps_the_mean_length(apart):
    base, experts = tensors((64,), 4)
    along, across = experts[0] - base, apart * (experts[1:] - base)
    experts = base + torch.stack([along, -1.3 * along, 0.7 * along]) + across
    weight = torch.tensor([0.85, 0.3, 0.55])
    found = merge("karcher", base, experts, weight=weight, of="task_vectors") - base
    lengths = (experts - base).norm(dim=1)
    assert float(found.norm()) == pytest.approx(float(weight @ lengths / weight.sum()), rel=1e-3)


@pytest.mark.parametrize("of", ["weights", "task_vectors"])
@pytest.mark.parametrize("operator", ["slerp", "karcher"])
def test_a_norm_that_scales_by_one_plus_its_weight_turns_as_what_it_scales_by(operator, of):
    base, experts = tensors((37,), 2, scale=0.8)
    place = dataclasses.replace(place_of(base.shape), offset=True)
    found = merge(operator, base, experts, place=place, of=of)
    assert close(found + 1, merge(operator, base + 1, experts + 1, of=of))
    as_there = merge(operator, base, experts, place=place, of=of, compat="mergekit")
    assert torch.equal(as_there, merge(operator, base, experts, of=of, compat="mergekit"))


@pytest.mark.parametrize("k", [2, 3, 5])
def test_model_stock_is_the_formula(k):
    base, experts = tensors((6, 7), k)
    task_vectors = (experts - base + 0.05).flatten(1)
    cosines = [
        torch.cosine_similarity(task_vectors[i], task_vectors[j], dim=0)
        for i in range(k)
        for j in range(i)
    ]
    cosine = torch.stack(cosines).mean()
    t = max(0.0, float(k * cosine / (1 + (k - 1) * cosine)))
    found = merge("model_stock", base, base + task_vectors.view(k, 6, 7))
    assert close(found - base, t * task_vectors.mean(0).view(6, 7), 1e-4)


def test_model_stock_at_the_ends_and_by_row():
    base, experts = tensors((3, 5), 2)
    task_vector = experts[0] - base
    alike = torch.stack([experts[0], base + 0.5 * task_vector])
    assert close(merge("model_stock", base, alike) - base, 0.75 * task_vector)
    opposed = torch.stack([experts[0], base - task_vector])
    assert torch.equal(merge("model_stock", base, opposed), base)
    rows = [merge("model_stock", base[i], experts[:, i]) for i in range(3)]
    assert torch.allclose(
        merge("model_stock", base, experts, filter_wise="yes"), torch.stack(rows)
    )


def test_inner_products_in_blocks_are_inner_products():
    base, experts = tensors((3, 10007), 2)
    vectors = torch.cat([base[None], experts - base]).double()
    assert torch.allclose(
        combine.gram(base, experts), torch.einsum("irn,jrn->rij", vectors, vectors)
    )


# Entries


def test_consensus_counts_who_needs_a_coordinate():
    base, experts = tensors((5, 9), 3)
    weighted = (experts - base) * 0.5
    found = {n: merge("consensus", base, experts, weight=0.5, tall=0.7, agree=n) for n in range(5)}
    assert torch.equal(found[0], merge("task_arithmetic", base, experts, weight=0.5))
    assert torch.equal(found[4], base)
    total = weighted.sum(0)
    needed_by = (weighted.abs() > 0.7 * (total - weighted).abs()).sum(0)
    assert set(needed_by.flatten().tolist()) >= {1, 2}
    for n in (1, 2, 3):
        assert torch.allclose(found[n], base + total * (needed_by >= n), atol=1e-6)


def test_sce_by_its_definition():
    base, experts = tensors((7, 11), 3)
    experts[:, 0, :3] = base[0, :3]  # entries in which nobody differs are not selected
    task_vectors, density = (experts - base).double(), 64 / 256
    variance = task_vectors.var(0, unbiased=False)
    k = int(density * int((variance > 0).sum()) + 0.5)
    selected = variance >= variance.flatten().topk(k).values[-1]
    energy = (task_vectors * selected).square().flatten(1).sum(1)
    part = (energy / energy.sum()).view(3, 1, 1)
    agrees = task_vectors.sign() == torch.where(task_vectors.sum(0) >= 0, 1, -1)
    divisor = (part * agrees).sum(0)
    expected = (part * agrees * task_vectors).sum(0) / divisor.where(divisor > 0, 1)
    assert close(merge("sce", base, experts, density=density) - base, expected)
    plain = merge("sce", base, experts, density=density, erase="no")
    assert close(plain - base, (part * task_vectors).sum(0))


def test_sce_of_all_entries_without_erasing_is_varm():
    base, experts = tensors((4, 6), 3)
    task_vectors = experts - base
    share = task_vectors.square().flatten(1).mean(1)
    expected = (task_vectors * (share / share.sum()).view(3, 1, 1)).sum(0)
    assert close(merge("sce", base, experts, density=1.0, erase="no") - base, expected)


@pytest.mark.parametrize("ratio", [13 / 256, 0.25])
def test_pcb_by_its_definition(ratio):
    base, experts = tensors((40, 50), 3, scale=0.01)
    task_vectors, weight = experts - base, torch.tensor([1.2, 0.5, -0.3]).view(3, 1, 1)
    d = base.numel()
    ordered = task_vectors.abs().flatten(1).sort(dim=1, descending=True).values
    kept = max(1, round(d / 10000))
    high, low = ordered[:, kept - 1].view(3, 1, 1), ordered[:, round(d * 0.9999) - 1].view(3, 1, 1)
    magnitude = task_vectors.abs().clamp(min=low, max=high)
    within = torch.exp(3 * ((magnitude - low) / (high - low)) ** 2)
    scaled = task_vectors / task_vectors.double().square().mean().sqrt().float()
    score = within * torch.tanh(scaled * scaled.sum(0))
    ranked = score.flatten(1).sort(dim=1, descending=True).values
    least = ranked[:, round(ratio * d) - 1].view(3, 1, 1)
    share = (score.clamp(min=least) - least) / (ranked[:, :1].view(3, 1, 1) - least)
    clipped = magnitude * task_vectors.sign()
    expected = (weight * share * clipped).sum(0) / share.sum(0).clamp(min=1e-12)
    found = merge("pcb", base, experts, weight=weight.flatten(), ratio=ratio)
    assert close(found - base, expected, 1e-4)


def test_breadcrumbs_of_everything_is_task_arithmetic():
    base, experts = tensors((5, 6), 2)
    found = merge("breadcrumbs", base, experts, density=1.0, gamma=0.0, weight=0.4)
    assert torch.equal(found, merge("task_arithmetic", base, experts, weight=0.4))


@pytest.mark.parametrize("scope", ["row", "tensor"])
def test_breadcrumbs_leaves_out_the_largest_and_the_small(scope):
    base, gamma, density = torch.zeros(3, 40), 0.05, 64 / 256
    experts = tensors((3, 40), 2)[1]
    pools = experts if scope == "row" else experts.view(2, 1, -1)
    n = pools.shape[-1]
    order = pools.abs().argsort(dim=-1, descending=True)
    chosen = order[..., int(gamma * n) : int(gamma * n) + int(density * n)]
    mask = torch.zeros_like(pools).scatter_(-1, chosen, 1.0)
    expected = (pools * mask).view(2, 3, 40).sum(0)
    found = merge(
        "breadcrumbs", base, experts, density=density, gamma=gamma, weight=1.0,
        threshold_scope=scope,
    )  # fmt: skip
    assert torch.allclose(found, expected)


def test_prune_of_everything_is_task_arithmetic():
    base, experts = tensors((5, 6), 2)
    genes = {"weight": [0.4, 0.7]}
    found = merge("prune", base, experts, density=1.0, **genes)
    assert torch.equal(found, merge("task_arithmetic", base, experts, **genes))


def test_prune_merges_what_is_left_and_prunes_the_union():
    base = torch.zeros(6)
    experts = torch.tensor([[9.0, 8, 7, 1, 2, 0], [-8.0, 3, 2, 6, 7, 0]])
    genes = {"density": 0.5, "weight": [0.5, 0.25]}
    # half of each: 9 8 7 . . . and -8 . . 6 7 .
    summed = [2.5, 4.0, 3.5, 0.0, 0.0, 0.0]
    assert merge("prune", base, experts, **genes).tolist() == summed
    # an entry of one alone gets both weights: 6, 5.25, 4.5, 5.25; of both, 2.5
    filled = [0.0, 6.0, 5.25, 0.0, 5.25, 0.0]
    assert merge("prune", base, experts, fill="attract", **genes).tolist() == filled


@pytest.mark.parametrize("fill", ["none", "attract"])
@pytest.mark.parametrize("density", [1 / 256, 0.25, 0.75])
def test_prune_is_as_sparse_as_it_says(density, fill):
    base, experts = torch.zeros(13, 37), tensors((13, 37), 3)[1]
    genes = {"density": density, "fill": fill, "weight": [0.2, 0.9, 0.5]}
    found = merge("prune", base, experts, **genes)
    assert int(found.count_nonzero()) == max(1, int(density * 13 * 37 + 0.5))
    rows = merge("prune", base, experts, threshold_scope="row", **genes)
    assert set(rows.count_nonzero(dim=1).tolist()) == {max(1, int(density * 37 + 0.5))}
    for i in range(13):
        alone = merge("prune", base[i], experts[:, i], **genes)
        assert torch.equal(rows[i], alone)


def test_della_without_a_window_is_dare():
    base, experts = tensors((5, 6), 2)
    genes = {"density": 0.25, "weight": 0.7}
    found = merge("della", base, experts, epsilon=0.0, elect="none", scale=1.0, **genes)
    assert torch.allclose(found, merge("dare", base, experts, **genes))
    one = merge("della", base[:, :1], experts[:, :, :1], elect="none", scale=1.0, **genes)
    assert torch.allclose(one, merge("dare", base[:, :1], experts[:, :, :1], **genes))


def test_della_keeps_by_rank_and_is_unbiased():
    base, n = torch.zeros(4000, 9), 9
    row = torch.tensor([0.5, -0.1, 0.9, 0.3, -0.7, 0.2, 0.4, -0.8, 0.6])
    experts = row.expand(1, 4000, n)
    found = merge(
        "della", base, experts, density=0.5, epsilon=0.25, elect="none", scale=1.0, weight=1.0
    )
    chance = 0.25 + 0.5 * row.abs().argsort().argsort() / (n - 1)
    spread = (chance * (1 - chance) / 4000).sqrt()
    assert ((found != 0).float().mean(0) - chance).abs().le(4 * spread).all()
    assert torch.allclose(found[found != 0], (row / chance).expand_as(found)[found != 0])
    error = (found.mean(0) - row).abs()
    assert error.le(4 * row.abs() * ((1 - chance) / chance / 4000).sqrt()).all()


def test_layer_swap_takes_whole_layers():
    base, experts = tensors((3, 4), 2)
    genes = {"outer": [1.0, 0.0], "inner": [0.0, 1.0]}
    genes |= {"bottom": 2 / 8, "top": 1 / 8, "seam": 1 / 8}
    outer, inner, half = experts[0], experts[1], experts.mean(0)
    expected = [outer, outer, half, inner, inner, inner, half, outer]
    for depth, tensor in enumerate(expected):
        place = place_of((3, 4), "mlp", depth)
        place = type(place)(place.name, place.shape, place.role, depth, layers=8)
        found = merge("layer_swap", base, experts, place=place, **genes)
        assert torch.allclose(found, tensor, atol=1e-6), depth
    outside = place_of((3, 4), "embedding", None)
    assert torch.allclose(merge("layer_swap", base, experts, place=outside, **genes), outer)


# How many experts


def test_a_number_of_experts_that_an_operator_does_not_merge(family):
    with pytest.raises(errors.RecipeError, match=r"'slerp' merges 2 experts, got 1\. .* ties"):
        plan_of(family / "base", {"left": family / "left"}, "slerp")
    with pytest.raises(errors.RecipeError, match="'model_stock' merges 2 or more experts, got 1"):
        plan_of(family / "base", {"left": family / "left"}, "model_stock")
    recipe = families.recipe(family, operator="slerp", experts={"only": "missing/folder"})
    with pytest.raises(errors.RecipeError, match="'slerp' merges 2 experts"):
        resolve(recipe)  # before the folder is looked for
    assert plan_of(family / "base", [family / "left"], "tsv").groups["1"].operator == "tsv"


@pytest.mark.parametrize("name", plugins.known("operator"))
def test_the_same_bits_in_any_tiles(family, name):
    """Through prepare and merge, with the statistics and rows of real checkpoints."""
    plan = plan_of(family / "base", [family / "left", family / "right"], name)
    untiled = whole(plan, 10**9)
    for tile in (509, 4096):
        tiled = whole(plan, tile)
        assert all(torch.equal(tiled[tensor], untiled[tensor]) for tensor in untiled)


@pytest.mark.parametrize("kept", [0, 5000, 2**30])
def test_what_a_workshop_keeps_changes_no_bit(family, kept):
    """Ranks of DELLA: none, some and all of them; for one candidate after another."""
    experts = [family / "left", family / "right"]
    plans = [plan_of(family / "base", experts, "della", epsilon=e) for e in (0.1, 0.2, 0.1)]
    workshop = dataclasses.replace(Workshop.of(plans[0]), kept=kept)
    for plan in plans:
        merged, expected = Merged(plan, workshop), whole(plan, TILE)
        assert all(torch.equal(merged.read(name), expected[name]) for name in expected)
    held = sum(ranks["ranks"].nbytes for ranks in workshop._derived.values())
    entries = sum(info.numel for info in merged.tensors.values())
    assert held <= kept and (held == entries * 2 * 2) == (kept == 2**30)
