"""Banks whose rows the package `datasets` reads: folders, saved ones, and a hub's cache."""

import json
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

import evomerge
from evomerge import errors, shelf
from evomerge.files import bank as banks
from evomerge.files import dataset
from tests import command, families

pytestmark = pytest.mark.skipif(find_spec("datasets") is None, reason="datasets not installed")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
COLUMNS = {"question": "asked", "choices": "options.text", "answer": "right"}
SPLITS = {"search": "train", "validation": "validation", "test": "test"}


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    """The package warns as it is imported; what it prepares is kept by this module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import datasets

        kept = datasets.config.HF_DATASETS_CACHE
        datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
        yield datasets.config.HF_DATASETS_CACHE
        datasets.config.HF_DATASETS_CACHE = kept


def questions():
    return families.questions("sets", 12)


def tables():
    """The questions as the package has them, with columns of other names, one inside another."""
    import datasets

    found = {}
    for ours, split in SPLITS.items():
        found[split] = datasets.Dataset.from_list(
            [
                {"asked": q["prompt"], "right": q["answer"], "note": None,
                 "options": {"text": q["choices"], "label": list("abcd")}}
                for q in questions() if q["split"] == ours
            ]
        )  # fmt: skip
    return datasets.DatasetDict(found)


def sheet(folder, **source):
    keys = {"name": "own", "version": 1, "scorer": "choice"}
    given = {"split": SPLITS, "columns": COLUMNS, **source}
    keys["source"] = {key: value for key, value in given.items() if value is not None}
    (folder / "own.yaml").write_text(yaml.safe_dump(keys))
    return folder / "own.yaml"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same rows as Parquet files, JSON lines, saved to disk, and one split saved."""
    folder = tmp_path_factory.mktemp("sets")
    (folder / "parquet").mkdir()
    (folder / "lines").mkdir()
    for split, table in tables().items():
        table.to_parquet(folder / "parquet" / f"{split}.parquet")
        rows = "".join(f"{json.dumps(row)}\n" for row in table.to_list())
        (folder / "lines" / f"{split}.jsonl").write_text(rows)
    tables().save_to_disk(folder / "saved")
    tables()["train"].save_to_disk(folder / "one")
    rows = "".join(f"{json.dumps(question)}\n" for question in questions())
    (folder / "plain.jsonl").write_text(rows)
    return folder


def plain(folder):
    keys = {"name": "own", "version": 1, "scorer": "choice", "source": "plain.jsonl"}
    (folder / "plain.yaml").write_text(yaml.safe_dump(keys))
    return shelf.load(folder / "plain.yaml")


@pytest.mark.parametrize("name", ["parquet", "lines", "saved"])
def test_a_data_set_is_the_bank_that_its_rows_are(folders, name):
    found = shelf.load(sheet(folders, datasets=name))
    assert found.sha256 == plain(folders).sha256 and len(found.items) == 36
    start, digest = found.origin.split(" sha256 ")
    assert start == f"{name} train validation test" and len(digest) == 64
    moved = shelf.load(sheet(folders, datasets=str(folders / name)))
    assert moved.sha256 == found.sha256 and moved.origin.endswith(digest)
    assert found.benchmark is None


@pytest.mark.parametrize("name", ["one", "saved", "parquet"])
def test_one_split_is_divided_by_its_items(folders, name):
    found = shelf.load(sheet(folders, datasets=name, split="train"))
    (folders / "train.jsonl").write_text(
        "".join(
            json.dumps({k: q[k] for k in ("prompt", "choices", "answer")}) + "\n"
            for q in questions()
            if q["split"] == "search"
        )
    )
    assert set(found.items) == set(shelf.load(folders / "train.jsonl").items)
    part = shelf.load(sheet(folders, datasets="parquet", split="train[:5]"))
    assert [item.id for item in part.items] == [item.id for item in found.items][:5]


@pytest.fixture(scope="module")
def cached(folders, _cache):
    """What an earlier time with a network leaves: the rows in the cache, under name and commit."""
    import datasets

    builder = datasets.load_dataset_builder(str(folders / "parquet"))
    builder.download_and_prepare()
    made = Path(builder.cache_dir)
    place = _cache / "lab___sets" / "default" / "0.0.0" / COMMIT
    shutil.copytree(made, place)
    for file in [*place.glob("*.arrow"), place / "dataset_info.json"]:
        file.rename(file.with_name(file.name.replace("parquet-", "sets-")))
    text = (place / "dataset_info.json").read_text()
    info = {**json.loads(text), "dataset_name": "sets", "builder_name": "parquet"}
    (place / "dataset_info.json").write_text(json.dumps(info))
    return "lab/sets"


@pytest.mark.slow
def test_a_name_on_a_hub_without_a_network(folders, cached, family, tmp_path, run, refused):
    """Out of the cache; its test set is a public one; the run remembers the commit."""
    path = sheet(tmp_path, datasets=cached)
    found = shelf.load(path)
    assert found.sha256 == plain(folders).sha256
    assert found.origin.startswith(f"lab/sets@{COMMIT} train validation test sha256 ")
    assert found.benchmark.public_test == ["test"] and not found.benchmark.contamination()
    objectives = {"own": str(path), "two": str(family / "two.jsonl")}
    changes = {"objectives": objectives, "budget": {"candidates": 6}}
    recipe = command.write(tmp_path, families.recipe(family, **changes))
    code, out, _ = run("plan", recipe, "--json")
    assert code == 0 and json.loads(out)["data sets"] == {"own": found.origin}
    assert evomerge.search(str(recipe), tmp_path / "run").is_confirmed
    recorded = evomerge.Run(tmp_path / "run")._ledger.meta("banks")["own"]
    assert recorded["origin"] == found.origin
    path = sheet(tmp_path, datasets=cached, split={"search": "test", "validation": "train"})
    assert shelf.load(path).benchmark.public_test == ["search"]
    path = sheet(tmp_path, datasets=cached, split="test")
    says = ["public test set of lab/sets (search, validation)", "allow_contamination"]
    refused("plan", recipe, code=errors.USAGE, says=says)


@pytest.mark.parametrize(
    ("split", "public"),
    [
        ("train + test[:2]", ["search", "validation", "test"]),
        ("all", ["search", "validation", "test"]),
        ({"search": "train+test", "test": "validation"}, ["search"]),
        ({"search": "train[:4]", "validation": "train[4:]", "test": "validation"}, []),
    ],
)
def test_a_public_test_set_within_a_split(cached, tmp_path, split, public):
    assert (
        banks.sheet(sheet(tmp_path, datasets=cached, split=split)).benchmark.public_test == public
    )


@pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval not installed")
def test_a_task_of_ones_own_on_a_public_data_set(cached, folders, tmp_path):
    """Whoever wrote its YAML; and not where it is on files of one's own."""
    task = {
        "task": "mine", "dataset_path": cached, "test_split": "test", "doc_to_text": "{{asked}}",
        "doc_to_choice": "{{options.text}}", "doc_to_target": "right",
        "output_type": "multiple_choice",
    }  # fmt: skip
    keys = {"name": "own", "version": 1, "scorer": {"name": "lm_eval", "task": "mine.yaml"}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(keys))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(task))
    found = shelf.load(tmp_path / "own.yaml").benchmark
    assert found.name == cached and found.public_test == ["search", "validation", "test"]
    files = {"data_files": {"test": str(folders / "lines" / "test.jsonl")}}
    own = {**task, "dataset_path": "json", "dataset_kwargs": files}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(own))
    assert shelf.load(tmp_path / "own.yaml").benchmark is None


@pytest.mark.parametrize(
    ("source", "code", "says"),
    [
        ({"datasets": "lab/absent"}, 3, ["lab/absent train", "neither in the cache"]),
        ({"datasets": "parquet", "split": "dev"}, 3, ["parquet dev", "can not be loaded"]),
        ({"datasets": "saved", "split": "dev"}, 3, ["unknown split 'dev'", "validation"]),
        ({"datasets": "one", "split": "train", "columns": {"prompt": "askd"}}, 3,
         "Did you mean 'asked'?"),
        ({"datasets": "parquet", "columns": None}, 3, "has the columns asked, right, note"),
        ({"datasets": "parquet", "columns": {**COLUMNS, "choices": "options.texts"}}, 3,
         "'options.texts' is not there"),
        ({"datasets": "parquet", "columns": {"prompt": "asked", "answer": "options"}}, 3,
         ["parquet train: row 0", "answer"]),
        ({"datasets": "parquet", "columns": {"promt": "asked"}}, 3, "promt"),
        ({"datasets": "parquet", "split": {"search": "train", "test": "train"}}, 3,
         "another split for each"),
        ({"datasets": "parquet", "splt": "train"}, 2, "Did you mean 'split'?"),
        ({"datasets": "written"}, 3, "is stored as text, expected one of parquet"),
    ],
)  # fmt: skip
def test_what_can_not_be_read(folders, refused, family, source, code, says):
    (folders / "written").mkdir(exist_ok=True)
    for split in SPLITS.values():
        (folders / "written" / f"{split}.txt").write_text("one\ntwo\n")
    path = sheet(folders, **source)
    says = [str(path), *([says] if isinstance(says, str) else says)]
    refused("bank", "check", path, "--base", family / "base", code=code, says=says)


def test_no_code_of_a_data_set_is_run(folders, tmp_path):
    """Neither a script of the folder's name nor pickles: both are refused."""
    shutil.copytree(folders / "parquet", tmp_path / "sets")
    sentinel = tmp_path / "ran"
    script = f"open({str(sentinel)!r}, 'w').write('x')\nraise SystemExit\n"
    (tmp_path / "sets" / "sets.py").write_text(script)
    (tmp_path / "pickles").mkdir()
    command_of = f"cos\nsystem\n(S'touch {sentinel}'\ntR."
    (tmp_path / "pickles" / "train.pkl").write_bytes(command_of.encode())
    for name in ("sets", "pickles"):
        with pytest.raises(errors.InputError, match="can not be loaded"):
            shelf.load(sheet(tmp_path, datasets=name, split="train"))
    assert not sentinel.exists()


def test_without_the_package_its_extra_is_named(folders, refused, family, monkeypatch):
    monkeypatch.setattr(dataset, "find_spec", lambda name: None)
    path = sheet(folders, datasets="parquet")
    says = "pip install 'evomerge[datasets]'"
    refused("bank", "check", path, "--base", family / "base", code=4, says=says)
