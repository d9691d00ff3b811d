"""mergekit-evolve's YAML as a recipe."""

import pytest

from evomerge import errors, recipe
from evomerge.interop import evolve, methods
from tests.merges import absolute

GENOME = {"models": ["left", "right"], "merge_method": "ties", "base_model": "base"}
SEARCH = {"genome": GENOME, "tasks": ["arc_easy", {"name": "gsm8k_train", "weight": 2,
          "metric": "exact_match,strict-match"}], "limit": 40}  # fmt: skip


def searched(family, tmp_path, **changes):
    """The recipe of a search, with its questions written."""
    data = {**SEARCH, "genome": {**GENOME, **changes}}
    imported = evolve.recipe_of(absolute(data, family), "evolve.yaml", "mine", family)
    path = tmp_path / "mine.yaml"
    path.write_text(imported.text)
    for name in ("arc_easy", "gsm8k_train"):
        (tmp_path / f"{name}.jsonl").write_text((family / "one.jsonl").read_text())
    return recipe.resolve(path), imported.notes


def test_a_search_becomes_a_recipe(family, tmp_path):
    problem, notes = searched(family, tmp_path, layer_granularity=1, filters=["mlp"])
    assert problem.recipe.operators == ["ties"] and problem.objectives == [
        "arc_easy",
        "gsm8k_train",
    ]
    assert problem.recipe.space.blocks == 2 and problem.recipe.space.roles == ("mlp",)
    assert problem.recipe.fidelity.items == 40
    assert problem.recipe.strategy.options["inner"]["weights"] == [[1.0, 2.0]]
    names = {gene.name for gene in problem.space.genes}
    assert names == {"weight", "density"}
    assert {gene.low for gene in problem.space.genes if gene.name == "weight"} == {0.0}
    assert problem.fixed["compat"] == "mergekit" and problem.fixed["reducer"] == "mean"
    said = " ".join(notes)
    for part in ("gsm8k_train' (exact_match,strict-match)", "--max-fevals", "apply_chat_template"):
        assert part in said


@pytest.mark.parametrize(
    "source, tokenizer, noted",
    [("union", "union", False), ("right", "expert:right", False), ("base", "base", False),
     (None, "base", False), ("elsewhere", "base", True)],
)  # fmt: skip
def test_a_search_keeps_its_tokenizer(family, tmp_path, source, tokenizer, noted):
    problem, notes = searched(family, tmp_path, tokenizer_source=source)
    assert problem.recipe.tokenizer == tokenizer
    assert any("tokenizer_source" in note for note in notes) == noted


@pytest.mark.parametrize("method", methods.EVOLVED)
def test_every_evolved_method_becomes_a_recipe(family, tmp_path, method):
    problem, _ = searched(family, tmp_path, merge_method=method, allow_negative_weights=True)
    names = {gene.name for gene in problem.space.genes}
    assert names <= {"weight", "density", "t"} and names
    lows = {gene.low for gene in problem.space.genes if gene.name == "weight"}
    assert all(low < 0 for low in lows)


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"layer_granularity": 3}, "expected a divisor of the model's 2 layers, got 3"),
        ({"filters": ["q_proj"]}, "unknown filter 'q_proj'"),
        ({"merge_method": "della"}, "genome: unknown merge_method 'della'"),
        ({"base_model": None}, "base_model is missing"),
        ({"merge_method": "task_arithmetic", "normalize": True}, "genome.normalize"),
        ({"smoooth": True}, "Did you mean 'smooth'"),
    ],
)
def test_what_a_search_can_not_have_is_refused(family, tmp_path, changes, says):
    with pytest.raises(errors.RecipeError) as caught:
        searched(family, tmp_path, **changes)
    assert says in str(caught.value)


def test_a_task_whose_score_shall_be_low_is_refused(family):
    data = absolute({**SEARCH, "tasks": [{"name": "wiki", "weight": -1}]}, family)
    with pytest.raises(errors.RecipeError, match=r"tasks\[0\].weight: -1 asks for a low score"):
        evolve.recipe_of(data, "evolve.yaml", "mine", family)
