"""No file's content becomes code: nothing is unpickled, no code of a model folder is run."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from evomerge import api, errors, plugins

PACKAGE = Path(plugins.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE / "_data")

FORBIDDEN = {
    *("pickle", "cPickle", "_pickle", "pickletools", "cloudpickle", "dill", "joblib", "shelve"),
    *("marshal", "jsonpickle", "pandas.read_pickle", "torch.load", "torch.package", "numpy.load"),
    *("eval", "exec", "compile", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"),
}
LOADERS = {"_Loader"}
"""What yaml.load may be given: the limited one of files/plain.py, which is a SafeLoader."""


@pytest.mark.slow
def test_nothing_is_unpickled(family, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.security.unpickled", str(family), str(tmp_path / "run")],
        text=True, capture_output=True, timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "plan.json").is_file()


def faults(source):
    """What a module says that no module may say, with its line."""
    known = {"torch": "torch", "np": "numpy", "numpy": "numpy", "yaml": "yaml", "pd": "pandas"}
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            top, _, rest = called.partition(".")
            names = [f"{known[top]}.{rest}" if top in known else called]
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if called == "importlib.import_module" and isinstance(node.args[0], ast.Constant):
                names.append(node.args[0].value)
            if called == "yaml.load" and ast.unparse(node.args[1]) not in LOADERS:
                names = ["yaml.unsafe_load"]
            # type(model): of a class that is loaded already
            loads = rest.endswith("from_pretrained") and not called.startswith("type(")
            if loads and given.get("trust_remote_code") != "False":
                yield f"line {node.lineno}: {called} without trust_remote_code=False"
        for name in names:
            if name in FORBIDDEN or name.split(".")[0] in FORBIDDEN:
                yield f"line {node.lineno}: {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_can_run_what_it_reads(path):
    assert list(faults(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from joblib import load", "import dill as d", "from torch import load",
        "torch.load(f)", "np.load(f, allow_pickle=True)", "yaml.load(t, yaml.Loader)",
        "importlib.import_module('shelve')", "AutoTokenizer.from_pretrained(f)", "eval(text)",
        "AutoConfig.from_pretrained(f, trust_remote_code=option)", "yaml.full_load(f)",
    ],
)  # fmt: skip
def test_each_way_to_run_it_is_seen(source):
    assert len(list(faults(source))) >= 1


CODE = """
from pathlib import Path
Path({file!r}).write_text("code of the folder was run")
from transformers import LlamaConfig as Config, LlamaForCausalLM as Model
from transformers import PreTrainedTokenizerFast as Tokenizer
def generate(model, *arguments, **options):
    raise RuntimeError
"""


def change(file, **keys):
    data = json.loads(file.read_text())
    file.write_text(json.dumps({**data, **keys}))


def own_class(folder, prefix=""):
    """A model that only its own code defines."""
    auto = {"AutoConfig": f"{prefix}own.Config", "AutoModelForCausalLM": f"{prefix}own.Model"}
    change(folder / "config.json", model_type="own", architectures=["Own"], auto_map=auto)


def known_class(folder):
    """A model that transformers has, and that brings code all the same."""
    auto = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    change(folder / "config.json", auto_map=auto)


def own_tokenizer(folder):
    auto = {"AutoTokenizer": ["own.Tokenizer", "own.Tokenizer"]}
    change(folder / "tokenizer_config.json", tokenizer_class="Own", auto_map=auto)


def own_generation(folder):
    (folder / "custom_generate").mkdir()
    shutil.copy(folder / "own.py", folder / "custom_generate" / "generate.py")


def own_attention(folder):
    change(folder / "config.json", attn_implementation="org/kernel")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (own_class, "defined by code in its folder, which is never run"),
        (lambda folder: own_class(folder, "org/code--"), "code in its folder, which is never run"),
        (own_tokenizer, ""),
        (known_class, None),
        (own_generation, None),
        (own_attention, "'org/kernel', code from a hub, which is never run"),
    ],
)
def test_no_code_of_a_model_folder_is_run(family, tmp_path, monkeypatch, spoil, says):
    """Not even where someone, or a pipe, would say yes. With None the model is used without it."""
    asked = []
    monkeypatch.setattr("builtins.input", lambda *text: asked.append(text) or "y")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    folder, sentinel = tmp_path / "model", tmp_path / "sentinel"
    shutil.copytree(family / "base", folder)
    (folder / "own.py").write_text(CODE.format(file=str(sentinel)))
    spoil(folder)
    bank = [family / "one.jsonl"]
    if says is None:
        found = api.evaluate(folder, bank)["one"]
        assert found.mean == api.evaluate(family / "base", bank)["one"].mean
    else:
        with pytest.raises(errors.InputError) as caught:
            api.evaluate(folder, bank)
        assert str(folder) in str(caught.value) and says in str(caught.value)
        assert "trust_remote_code" not in str(caught.value)
    assert not sentinel.exists() and not asked
