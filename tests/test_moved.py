"""Run folders and inputs that are somewhere else than when the run began."""

import json
import shutil
from pathlib import Path

import pytest

import evomerge
from evomerge import errors
from evomerge.plan import Plan, relocated
from tests import command, families, ledgers


@pytest.fixture(scope="module")
def begun(family, tmp_path_factory):
    """A run that was made from a recipe with relative paths, in the folder of its inputs."""
    folder = tmp_path_factory.mktemp("begun")
    shutil.copytree(family, folder / "family")
    command.write(folder, families.recipe(Path("family"), budget={"candidates": 6}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        evomerge.search("recipe.yaml", "run")
    return folder


@pytest.fixture
def there(begun, tmp_path, monkeypatch):
    """Run and inputs in one folder, as the copy of a disk would have it; we stand elsewhere."""
    (tmp_path / "here").mkdir()
    shutil.copytree(begun, tmp_path / "there")
    monkeypatch.chdir(tmp_path / "here")
    shutil.copytree(begun / "run", "moved")
    return tmp_path / "there"


@pytest.mark.slow
def test_a_copied_run_does_all_that_it_did(begun, there, run):
    """Its inputs are where they were: every command works, and a resume ends as it would have."""
    before = (begun / "run" / "recipe.json").read_text()
    for asked in (
        ("front",), ("status",), ("rebuild", "best"),
        ("export", "best", "-o", "saved"), ("between", "base", "best"),
    ):  # fmt: skip
        code, _, err = run(asked[0], "moved", *asked[1:])
        assert code == 0, err
    same = evomerge.evaluate("saved", [begun / "family" / "one.jsonl"])["one"].mean
    assert evomerge.Run("moved").chosen.means("test")[0] == same
    assert json.loads(Path("saved/plan.json").read_text())["base"]["path"] == str(
        begun / "family" / "base"
    )
    code, _, err = run("search", "moved/recipe.json", "-o", "moved", "--candidates", 9)
    assert code == 0, err
    shutil.copytree(begun / "run", "other")
    code, _, err = run("search", there / "recipe.yaml", "-o", "other", "--candidates", 9)
    assert code == 0, err
    kinds = ("ask", "tell", "items", "calibrated")
    for one, other in zip(*[
        [e for e in ledgers.content(Path(name))["events"] if e[0] in kinds]
        for name in ("moved", "other")
    ], strict=True):  # fmt: skip
        assert one == other
    assert (begun / "run" / "recipe.json").read_text() == before


@pytest.mark.slow
def test_inputs_that_are_gone_are_named_until_a_recipe_finds_them(there, run, refused):
    """What needs no weights works without them; afterwards everything is as before."""
    shutil.move(there / "family", there / "new")
    plan = evomerge.Run("moved").plan().model_dump(mode="json")
    gone = {item["sha256"]: item["name"] for item in (plan["base"], *plan["experts"])}
    assert Plan.parse(relocated(plan, gone), "moved").key == evomerge.Run("moved").chosen.key
    recipe = families.recipe(there / "new", budget={"candidates": 6})
    Path("b").mkdir()
    path = command.write(Path("b"), recipe)
    assert run("search", path, "-o", "moved")[0] == 0, "the same inputs at another place"
    shutil.move(there / "new", there / "newer")
    for asked in ("front", "status", "report"):
        assert run(asked, "moved")[0] == 0
    says = [f"base: {there / 'new' / 'base'}: no such folder any more", "names its new place"]
    for asked in (("export", "moved", "best", "-o", "saved"), ("rebuild", "moved")):
        refused(*asked, code=errors.InputError.exit_code, says=says)
    says = str(there / "new" / "one.jsonl")
    refused("search", path, "-o", "moved", code=errors.InputError.exit_code, says=says)
    path = command.write(Path("b"), families.recipe(there / "newer", budget={"candidates": 6}))
    assert run("search", path, "-o", "moved")[0] == 0
    code, _, err = run("export", "moved", "best", "-o", "saved")
    assert code == 0, err
    sources = json.loads(Path("saved/plan.json").read_text())
    assert sources["base"]["path"] == str(there / "newer" / "base")
    shutil.copytree(there / "newer" / "right", there / "newer" / "left", dirs_exist_ok=True)
    says = [str(there / "newer" / "left"), "not the checkpoint that the plan was made from"]
    refused("export", "moved", "best", "-o", "again", code=3, says=says)
    assert not Path("again").exists()
