"""Genes and spaces: decode and encode are inverse, and equal models are equal points."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge import api, errors
from evomerge.genome import Gene, Space
from evomerge.recipe import resolve
from tests import families

UNIT = st.floats(0, 1)


@st.composite
def numbers(draw, name="weight"):
    low = draw(st.floats(-4, 4))
    width = draw(st.sampled_from([0.0, 1e-7, 0.1, 1.0, 3.7]))
    step = draw(st.sampled_from([0.0, 1 / 256, 0.1, 1.0]))
    if step:  # a range that the recipe's author has narrowed need not begin on the grid
        width = max(width, step)
    return Gene(name, low, low + width, low, step)


@st.composite
def choices(draw, name="method"):
    count = draw(st.integers(1, 4))
    names = tuple("abcd"[:count])
    return Gene(name, choices=names, default=draw(st.sampled_from(names)))


@st.composite
def spaces(draw):
    """Numbers, choices, and a chain of conditions: n depends on m, m on l."""
    first = Gene("l", choices=("x", "y"), default="x")
    second = Gene("m", choices=("p", "q"), default="q", when=("l", ("x",)))
    third = Gene("n", 0, 1, 0.5, 1 / 256, when=("m", ("p",)))
    free = [draw(numbers(f"w{k}")) for k in range(draw(st.integers(0, 3)))]
    return Space(draw(st.permutations([first, second, third, *free, draw(choices())])))


@given(st.one_of(numbers(), choices()), UNIT)
@settings(max_examples=300, deadline=None)
def test_a_decoded_value_survives_the_round_trip(gene, unit):
    value = gene.decode(unit)
    back = gene.encode(value)
    assert 0 <= back <= 1
    assert json.dumps(gene.decode(back)) == json.dumps(value)
    gene.check(value, "here")
    if gene.step:
        assert math.isclose(value / gene.step, round(value / gene.step), abs_tol=1e-9)


@given(spaces(), st.data())
@settings(max_examples=150, deadline=None)
def test_canonical_is_idempotent_and_keeps_the_model(space, data):
    point = data.draw(st.lists(UNIT, min_size=len(space), max_size=len(space)))
    once = space.canonical(point)
    assert space.decode(once) == space.decode(point)
    assert np.array_equal(space.canonical(once), once)
    assert np.array_equal(space.encode(json.loads(json.dumps(space.decode(point)))), once)


def test_cells_of_a_grid_have_equal_shares():
    gene = Gene("density", 0, 1, 1, 1 / 256)
    assert gene.cells == 257
    values = [gene.decode(u) for u in np.linspace(0, 1, 257 * 8, endpoint=False)]
    assert {values.count(v) for v in set(values)} == {8}
    assert gene.decode(0.0) == 0.0 and gene.decode(1.0) == 1.0


def test_the_ends_of_a_range_are_kept_where_rounding_would_leave_it():
    gene = Gene("weight", 0.1234564, 0.9, 0.5)
    assert gene.decode(0.0) == 0.1234564
    assert gene.encode(gene.decode(0.0)) == 0.0
    assert json.dumps(Gene("weight", -1, 1).decode(0.5 - 1e-9)) == "0.0"
    assert Gene("rank", 1, 8, 4, 1).decode(0.0) == 1.0
    assert isinstance(Gene("rank", 1, 8, 4, 1).decode(0.0), float)


def test_a_value_in_range_but_off_the_grid_goes_to_the_nearest_cell():
    gene = Gene("weight", 0.06, 0.14, 0.1, 0.1)
    assert gene.cells == 1
    assert gene.decode(gene.encode(0.14)) == gene.decode(gene.encode(0.06)) == 0.1


def test_a_gene_acts_only_while_the_one_it_depends_on_acts():
    space = Space(
        [
            Gene("n", 0, 1, 0.5, when=("m", ("p",))),
            Gene("m", choices=("p", "q"), default="q", when=("l", ("x",))),
            Gene("l", choices=("x", "y"), default="x"),
        ]
    )
    assert set(space.decode([0.2, 0.0, 0.0])) == {"n", "m", "l"}
    assert set(space.decode([0.2, 0.9, 0.0])) == {"m", "l"}
    assert set(space.decode([0.2, 0.0, 0.9])) == {"l"}


def test_keys_name_operator_expert_and_group():
    gene = Gene("weight", operator="ties", expert="code", group="2/mlp")
    assert gene.key == "ties.weight[code]@2/mlp"


def test_narrowing_moves_a_default_that_is_left_outside():
    space = Space([Gene("weight", 0, 1, 0.3), Gene("method", choices=("a", "b"), default="a")])
    assert space.narrowed("weight", low=0.5).genes[0].default == 0.5
    assert space.narrowed("weight", low=0.2).genes[0].default == 0.3
    assert space.narrowed("weight", low=0.2, default=0.7).genes[0].default == 0.7
    assert space.narrowed("method", choices=("b",)).genes[1].default == "b"


@pytest.mark.parametrize("turned", [False, True])
def test_of_overrides_of_a_gene_that_which_says_most_holds_in_any_order(family, turned):
    def laid_out(**genes):
        given = dict(reversed(genes.items())) if turned else genes
        problem = resolve(families.recipe(family, space={"blocks": 1, "genes": given}))
        ranges = {gene.key: (gene.low, gene.high) for gene in problem.space.genes}
        return ranges, {k: v for k, v in problem.fixed.items() if k.startswith("weight[")}

    left, right = {"weight[left]": 0.8}, {"weight[right]": [0, 1.2]}
    ranges, fixed = laid_out(weight=[0, 0.6], **left, **right)
    assert set(fixed) == {"weight[left]@1", "weight[left]@embedding"}
    assert set(fixed.values()) == {0.8}, "its own range is the operator's"
    assert set(ranges.values()) == {(0, 1.2)} and len(ranges) == 2
    ranges, fixed = laid_out(**{"weight": 0.3, **right, "weight[right]@1": [0.1, 0.2]})
    assert ranges == {"weight[right]@1": (0.1, 0.2), "weight[right]@embedding": (0, 1.2)}
    assert set(fixed) == {"weight[left]@1", "weight[left]@embedding"}


def test_a_recipe_at_its_defaults_stays_within_its_space(family, tmp_path):
    space = {"blocks": 1, "genes": {"weight": [0.2, 0.8], "density": 0.5, "reducer": ["sum"]}}
    path = tmp_path / "r.json"
    path.write_text(json.dumps(families.recipe(family, operator="ties", space=space)))
    for step in api.plan_of_recipe(str(path), {}).groups.values():
        assert step.genes["weight"] == {"left": 0.8, "right": 0.8}
        assert (step.genes["density"], step.genes["reducer"]) == (0.5, "sum")
    given = api.plan_of_recipe(str(path), {"weight": 0.3})
    assert all(set(s.genes["weight"].values()) == {0.3} for s in given.groups.values())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Gene("w", 1.0, 0.0),
        lambda: Gene("w", 0.0, math.inf),
        lambda: Gene("w", 0.1, 0.1, 0.1, 1 / 256),
        lambda: Space([Gene("w"), Gene("w")]),
        lambda: Space([Gene("w", when=("missing", ("a",)))]),
        lambda: Space([Gene("w", when=("w", ("a",)))]),
        lambda: Space([Gene("w")]).encode({"v": 1.0}),
        lambda: Space([Gene("w")]).encode({"w": 1.5}),
        lambda: Space([Gene("w")]).encode({"w": True}),
        lambda: Space([Gene("w")]).narrowed("v", low=0.5),
        lambda: Space([Gene("m", choices=("a",), default="a")]).encode({"m": "b"}),
    ],
)
def test_what_is_no_gene_or_value_is_refused(make):
    with pytest.raises(errors.RecipeError):
        make()


def test_a_point_of_another_shape_is_refused():
    space = Space([Gene("w")])
    for point in ([0.1, 0.2], [math.nan], [[0.1]]):
        with pytest.raises(ValueError, match="finite"):
            space.decode(point)
