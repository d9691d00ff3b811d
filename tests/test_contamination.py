"""A public test set that candidates are selected on: refused, or said wherever results stand."""

import json
import shutil

import pytest
import yaml

import evomerge
from evomerge import errors
from tests import command, families


def marked(family, folder, splits):
    """A recipe whose first bank is from a benchmark, with these splits its public test set."""
    folder.mkdir(exist_ok=True)
    shutil.copy(family / "one.jsonl", folder)
    keys = {"name": "one", "version": 1, "scorer": "choice", "source": "one.jsonl"}
    keys["benchmark"] = {"name": "Words|1", "public_test": splits}
    (folder / "one.yaml").write_text(yaml.safe_dump(keys))
    objectives = {"mine": str(folder / "one.yaml"), "two": str(family / "two.jsonl")}
    return families.recipe(family, objectives=objectives, budget={"candidates": 6}, shortlist=2)


@pytest.mark.parametrize("splits", [["search"], ["validation"], ["test", "validation", "search"]])
def test_it_is_refused_before_any_model_is_opened(refused, family, tmp_path, splits):
    recipe = marked(family, tmp_path, splits) | {"base": str(tmp_path / "nowhere")}
    file = command.write(tmp_path, recipe)
    says = ["recipe.yaml: objectives.mine: bank 'one'", "public test set of Words|1",
            ", ".join(s for s in ("search", "validation") if s in splits),
            "allow_contamination: true"]  # fmt: skip
    for name in ("search", "plan"):
        refused(name, file, code=errors.USAGE, says=says)
    file = command.write(tmp_path, recipe | {"allow_contamination": True})
    refused("plan", file, code=errors.INPUT, says="nowhere")


@pytest.mark.parametrize("splits", [[], ["test"]])
def test_a_test_split_that_is_public_is_only_reported(run, family, tmp_path, splits):
    file = command.write(tmp_path, marked(family, tmp_path, splits))
    code, out, err = run("plan", file, "--json")
    assert code == 0, err
    assert json.loads(out)["notes"] == []


@pytest.mark.slow
def test_what_is_allowed_is_said_in_the_search_the_report_and_the_card(run, family, tmp_path):
    recipe = marked(family, tmp_path, ["search", "test"])
    file = command.write(tmp_path, recipe | {"allow_contamination": True})
    folder = tmp_path / "run"
    code, _, err = run("search", file, "-o", folder)
    line = "'mine': models are selected on the public test set of Words|1 (search)"
    assert code == 0 and line in err.replace("\n", " ").split("search items")[0]
    code, out, _ = run("front", folder, "--json")
    (said,) = json.loads(out)["contamination"]
    assert said.startswith(line)
    code, out, _ = run("front", folder)
    assert line in " ".join(out.split())
    found = evomerge.Run(folder)
    page = found.report().read_text(encoding="utf-8")
    assert "models are selected on the public test set of Words|1 (search)" in page
    card = (found.save("best", tmp_path / "best") / "README.md").read_text(encoding="utf-8")
    assert "public test set of Words\\|1 \\(search\\)" in card


@pytest.mark.slow
def test_a_label_taken_off_later_does_not_clean_a_run(family, tmp_path):
    recipe = marked(family, tmp_path, ["search"]) | {"allow_contamination": True}
    first = evomerge.search(recipe, tmp_path / "run").contamination
    later = marked(family, tmp_path, []) | {"budget": {"candidates": 7}}
    assert evomerge.search(later, tmp_path / "run").contamination == first
    clean = evomerge.search(later, tmp_path / "clean")
    assert clean.contamination == [] and "**Note:**" not in clean.save(
        "base", tmp_path / "base"
    ).joinpath("README.md").read_text(encoding="utf-8")
