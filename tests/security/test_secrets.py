"""Planted secrets reach nothing that a run writes or shows."""

import json
import shlex
import shutil
import sqlite3
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

import evomerge
from evomerge import api, errors
from evomerge.files import writer
from tests import command, families

TOKEN, KEY, PASSWORD = "canary-of-hf", "canary-of-wandb", "canary@in-url"
URL = f"https://me:{PASSWORD}@hub.example/org/model"
HERE = "canary-in-working-folder"
PLACE = "canary-of-the-models"
"""A folder's name that a run has to know to be resumed, and that a published model has not."""


@pytest.fixture
def planted(family, tmp_path, monkeypatch):
    """A recipe whose environment, models and working folder hold canaries; two objectives."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    place = tmp_path / PLACE
    shutil.copytree(family, place)
    for name in ("base", "left", "right"):
        for file, key in (("config.json", "_name_or_path"), ("tokenizer_config.json", None)):
            path = place / name / file
            keys = {key: URL} if key else {"name_or_path": URL, "tokenizer_file": f"/{PLACE}/x"}
            path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))
    (tmp_path / HERE).mkdir()
    monkeypatch.chdir(tmp_path / HERE)
    objectives = {"one": str(place / "one.jsonl"), "own": {"function": f"{__name__}:telling"}}
    return command.write(tmp_path, families.recipe(place, objectives=objectives, shortlist=2))


calls = []


def telling(model, tokenizer):
    """An objective that says too much when it fails, which it does after base and experts."""
    calls.append(model)
    if len(calls) % 4 == 0:
        raise RuntimeError(f"GET {URL}?x=1 with {TOKEN} and {KEY} \x1b]0;title\x07 was refused")
    return 0.5


def found(text: bytes | str, *canaries: str) -> list[str]:
    data = text.encode() if isinstance(text, str) else text
    return [canary for canary in canaries if canary.encode() in data]


@pytest.mark.slow
def test_no_secret_leaves_a_search(planted, tmp_path, run):
    calls.clear()
    folder = tmp_path / "run"
    said = "".join(map(str, run("search", planted, "-o", folder)))
    opened = evomerge.Run(folder)
    assert opened.failures() and all("was refused" in r for r in opened.failures().values())
    target = tmp_path / "merged"
    said += "".join(map(str, run("front", folder)))
    said += "".join(map(str, run("export", folder, "best", "-o", target)))
    said += opened.to_json() + opened._repr_html_() + repr(opened.failures())
    assert found(said, TOKEN, KEY, PASSWORD, HERE, "\x1b") == []
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as db:
        db.execute("PRAGMA wal_checkpoint").close()
    files = [path for place in (folder, target) for path in place.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"ledger.sqlite", "report.html", "recipe.json", "README.md", "plan.json"} <= names
    for path in files:
        assert found(path.read_bytes(), TOKEN, KEY, PASSWORD, HERE) == [], path.name
        if path.parent == target and path.name != "plan.json":
            assert found(path.read_bytes(), PLACE, str(tmp_path)) == [], path.name
    card = (target / "README.md").read_text()
    assert "base_model:\n- base\n- left\n- right\n" in card
    assert f"evomerge export {folder.name} best -o {target.name}" in card


def test_no_secret_stands_in_a_message(refused, planted, family, tmp_path, monkeypatch):
    path = command.write(tmp_path, families.recipe(family, base=URL))
    err = refused("plan", path, code=errors.INPUT, says="https:/***@hub.example/org/model")
    monkeypatch.setenv("HF_ENDPOINT", URL)
    path = command.write(tmp_path, families.recipe(family, base="lab/other"))
    err += refused("plan", path, code=errors.ENVIRONMENT, says="lab/other")
    err += refused("front", tmp_path / TOKEN, code=errors.INPUT, says="***: no run here")
    assert found(err, TOKEN, PASSWORD) == []


@given(
    before=st.text(max_size=20), after=st.text(max_size=20),
    secret=st.text("abcdefghijkl0123456789", min_size=16, max_size=30),
)  # fmt: skip
def test_the_value_of_a_secret_variable_is_in_no_message(before, after, secret):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD"):
            patch.setenv(name, secret)
            assert secret not in str(errors.MachineError(f"{before}{secret}{after}"))
        text = errors.public(f"{before} https://u:{secret}@h/x hf_{secret}{secret} {after}")
    assert secret not in text
    assert text == errors.public(text) and all(c.isprintable() or c in "\n\t" for c in text)


def test_words_that_are_no_secrets_stay(monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "tokenizers")
    monkeypatch.setenv("SHORT_KEY", "model")
    text = "hf_model: the model of org/name@main, tokenizers\n\tat https://hub/x, me@home"
    assert errors.public(text) == text


def test_a_merge_names_no_folder(family, tmp_path, monkeypatch):
    plan = api.plan_of(family / "base", [family / "left"], "linear")
    text = writer.card(
        "t", base=str(tmp_path / "my base"), experts=["~/models/code", "org/math"], plan=plan.key,
        command=f"evomerge merge '{tmp_path}/my plan.json' -o {tmp_path}/out",
    )  # fmt: skip
    assert str(tmp_path) not in text and "~" not in text
    assert "- my base\n- code\n- org/math\n" in text
    assert "\nevomerge merge 'my plan.json' -o out\n" in text


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("./../audit/rec.yaml", "rec.yaml"),
        ("../private", "private"),
        ("--out=/tmp/x/out", "--out=out"),
        ("code=/home/alice/secret/code", "code=code"),
        ("code=~/secret/a=b", "code=a=b"),
        ("/home/alice=/private/y", "alice=y"),
        ("./private/y/", "y"),
        ("alice/secret/code", "code"),
        (r"C:\Users\alice\code", "code"),
        (r"--out=C:\Users\alice\out", "--out=out"),
        ("org/name", "org/name"),
        ("code=org/name@refs/pr/1", "code=org/name@refs/pr/1"),
        ("zoo:tiny/sort", "zoo:tiny/sort"),
        ("density=0.5", "density=0.5"),
    ],
)
def test_of_paths_a_card_has_the_last_parts_alone(word, shown):
    text = writer.card("t", base=word, experts=[], plan="k", command=shlex.join(["merge", word]))
    assert f"\nmerge {shown}\n" in text
    if "=" not in word:
        assert f"\n- {shown}\n" in text
