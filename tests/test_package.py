"""The package as it is installed: metadata, what an import costs, and the wheel on its own."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import evomerge
from evomerge import zoo
from evomerge.zoo.tiny import tokenizer
from tests import families

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "ray", "transformers", "pymoo", "cma", "optuna")


def test_metadata_is_in_setup_cfg_alone():
    """With a [project] table, setuptools would ignore what setup.cfg says."""
    assert "[project" not in (ROOT / "pyproject.toml").read_text()
    assert importlib.metadata.version("evomerge") == evomerge.__version__
    assert f"[{evomerge.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_an_import_loads_nothing_heavy():
    code = f"import evomerge, sys; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_exact():
    assert sorted(evomerge.__all__) == sorted(evomerge._HOMES)
    for name in evomerge.__all__:
        assert getattr(evomerge, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        evomerge.nothing  # noqa: B018


def test_what_is_installed_is_pinned():
    """Every direct dependency has a tested version in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonical(line.split("==")[0]) for line in lines if "==" in line}
    wanted = importlib.metadata.requires("evomerge")
    for requirement in wanted:
        name = requirement.split(";")[0].strip().rstrip("0123456789.<>=!~ ")
        assert canonical(name) in pinned, requirement


def canonical(name):
    return name.strip().lower().replace("_", "-")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: an old build/ folder would be packed as well."""
    source = tmp_path_factory.mktemp("source")
    for name in ("evomerge", "recipes", "fitness"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    for name in ("setup.cfg", "pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    [built] = (source / "dist").glob("*.whl")
    return built


def test_the_wheel_has_all_that_belongs_to_it(wheel):
    packed = zipfile.ZipFile(wheel)
    names = set(packed.namelist())
    for folder in ("recipes", "fitness"):
        for file in (ROOT / folder).glob("*.yaml"):
            assert packed.read(f"evomerge/_data/{folder}/{file.name}") == file.read_bytes()
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "evomerge").rglob("*.py")}
    assert modules | {"evomerge/py.typed"} <= names
    assert {name.split("/")[0] for name in names} == {
        "evomerge", f"evomerge-{evomerge.__version__}.dist-info"
    }  # fmt: skip
    licence = f"evomerge-{evomerge.__version__}.dist-info/licenses/LICENSE"
    assert b"Apache License" in packed.read(licence)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An empty folder in which only the wheel's evomerge can be imported, and its environment."""
    site, empty = (tmp_path_factory.mktemp(name) for name in ("site", "empty"))
    options = ["--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True)
    return empty, {**os.environ, "PYTHONPATH": str(site)}


def evo(installed, *arguments, code=None, **environment):
    """The output of the command line, or of `code`, of the installed wheel."""
    cwd, inherited = installed
    command = ["-c", code] if code else ["-m", "evomerge", *arguments]
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env={**inherited, **environment, "COLUMNS": "200"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def stand_in(home):
    """A family in the place of zoo:tiny: a random model of four layers, and others near it."""
    folder = home / "zoo" / f"tiny-{zoo.recipe_hash('tiny')[:12]}"
    config = LlamaConfig(
        vocab_size=260, hidden_size=8, intermediate_size=8, num_hidden_layers=4,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for member in zoo.members("tiny"):
        if not member.startswith("banks/"):
            model.save_pretrained(folder / member)
            for weights in model.state_dict().values():
                weights.add_(torch.randn_like(weights), alpha=0.002)
            tokenizer().save_pretrained(folder / member)
            continue
        (folder / "banks").mkdir(exist_ok=True)
        lines = (json.dumps(item) for item in families.questions(member, 30))
        (folder / member).write_text("\n".join(lines))


@pytest.mark.slow
def test_the_wheel_runs_by_itself(installed, tmp_path):
    """Recipes and banks are found in an empty folder, and a recipe is checked whole."""
    where = evo(installed, code="import evomerge; print(evomerge.__file__)").strip()
    assert where.startswith(installed[1]["PYTHONPATH"])
    stand_in(tmp_path)
    shown = evo(installed, "plan", "quickstart", EVOMERGE_HOME=str(tmp_path))
    for word in ("task_arithmetic", "seeded", "code, docs, unicode, facts"):
        assert word in shown


@pytest.mark.slow
def test_the_quickstart_runs_from_the_wheel(installed, tmp_path):
    """A few candidates of the shipped recipe, with its executor; then the same command again."""
    stand_in(tmp_path)
    arguments = ("search", "quickstart", "--candidates", "4", "-o", "run")
    first = evo(installed, *arguments, EVOMERGE_HOME=str(tmp_path))
    assert "chosen point against" in first
    assert evo(installed, *arguments, EVOMERGE_HOME=str(tmp_path)) == first
    assert (installed[0] / "run" / "report.html").stat().st_size > 0
