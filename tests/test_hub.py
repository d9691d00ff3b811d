"""Models by name and revision, from a local cache in the hub's layout; there is no network."""

import shutil

import huggingface_hub
import pytest
import yaml

import evomerge
from evomerge import api, errors, saving
from tests import command, families

OLD, NEW = "1" * 40, "2" * 40


@pytest.fixture
def cache(family, tmp_path, monkeypatch):
    """A cache with two commits of lab/base, the first of which is `main`; one of each expert."""
    place = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(place))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name, commits in (("base", (OLD, NEW)), ("left", (OLD,)), ("right", (OLD,))):
        for commit in commits:
            source = family / ("left" if commit == NEW else name)
            model = place / f"models--lab--{name}"
            # as the hub lays it out: names under snapshots are links to blobs
            snapshot = model / "snapshots" / commit
            shutil.copytree(source, model / "blobs" / commit)
            snapshot.mkdir(parents=True)
            for file in (model / "blobs" / commit).iterdir():
                (snapshot / file.name).symlink_to(f"../../blobs/{commit}/{file.name}")
        point(place, name, OLD)
    return place


def point(place, name, commit, revision="main"):
    (place / f"models--lab--{name}" / "refs").mkdir(exist_ok=True)
    (place / f"models--lab--{name}" / "refs" / revision).write_text(commit)


def recipe(family, **changes):
    experts = {"left": "lab/left", "right": f"lab/right@{OLD}"}
    return families.recipe(
        family, base="lab/base@main", experts=experts, budget={"candidates": 6}, **changes
    )


@pytest.mark.slow
def test_names_are_resolved_to_commits_and_recorded(cache, family, tmp_path):
    run = evomerge.search(recipe(family), tmp_path / "run")
    plan = run.plan("best")
    assert plan.base.origin == f"lab/base@{OLD}"
    assert [item.origin for item in plan.experts] == [f"lab/left@{OLD}", f"lab/right@{OLD}"]
    assert run.recipe["base"] == f"lab/base@{OLD}"
    card = (run.save("best", tmp_path / "best") / "README.md").read_text()
    assert f"lab/base@{OLD}" in card
    local = {name: family / name for name in ("left", "right")}
    twin = api.plan_of(family / "base", local, "linear")
    named = {name: f"lab/{name}" for name in local}
    assert api.plan_of("lab/base", named, "linear").key == twin.key  # content names a plan


def test_the_card_s_metadata_have_names_that_a_hub_knows(cache, family, tmp_path):
    plan = api.plan_of("lab/base", {"a": "lab/left", "b": f"lab/right@{OLD}"}, "linear")
    text = (saving.write(plan, tmp_path / "me@home") / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == ["lab/base", "lab/left", "lab/right"]
    assert f"fine-tuned from lab/base@{OLD}" in body  # which one it was
    again = api.plan_of(tmp_path / "me@home", {"a": "lab/left"}, "linear")
    text = (saving.write(again, tmp_path / "again") / "README.md").read_text()
    assert yaml.safe_load(text.split("---\n")[1])["base_model"] == ["me@home", "lab/left"]


@pytest.mark.slow
def test_a_branch_that_moves_does_not_move_a_run(cache, family, tmp_path):
    first = evomerge.search(recipe(family), tmp_path / "run")
    point(cache, "base", NEW)
    again = evomerge.search(recipe(family) | {"budget": {"candidates": 8}}, tmp_path / "run")
    assert again.plan("base").base.origin == f"lab/base@{OLD}"
    assert again.plan("base").key == first.plan("base").key
    elsewhere = evomerge.search(recipe(family), tmp_path / "other")
    assert elsewhere.plan("base").base.origin == f"lab/base@{NEW}"


@pytest.mark.parametrize("revision", ["", "@main", "@v2", f"@{NEW}"])
def test_what_is_not_in_the_cache_says_what_to_do(cache, family, refused, tmp_path, revision):
    path = command.write(tmp_path, recipe(family) | {"base": f"lab/other{revision}"})
    wanted = revision.removeprefix("@") or "main"
    says = [f"lab/other{revision}: no such folder", "can not be reached", "unset HF_HUB_OFFLINE",
            f"hf download lab/other --revision {wanted} --local-dir FOLDER"]  # fmt: skip
    refused("plan", path, code=errors.ENVIRONMENT, says=says)


def test_a_folder_comes_before_a_name(cache, family, tmp_path, monkeypatch):
    shutil.copytree(family / "left", tmp_path / "lab" / "left")
    monkeypatch.chdir(tmp_path)
    plan = api.plan_of("lab/base", {"left": "lab/left"}, "linear")
    assert plan.base.origin and not plan.experts[0].origin


def test_an_incomplete_snapshot_is_named(cache, refused, family, tmp_path):
    (cache / "models--lab--base" / "snapshots" / OLD / "model.safetensors").unlink()
    path = command.write(tmp_path, recipe(family))
    refused("plan", path, code=errors.INPUT, says="has no weights, expected model.safetensors")
