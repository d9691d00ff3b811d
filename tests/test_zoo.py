from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from evomerge import zoo
from evomerge.errors import MachineError, RecipeError
from evomerge.zoo import cache, facts, progress, texts, tiny

ROOT = Path(__file__).parents[1]
DOMAINS = ["code", "docs", "unicode", "facts"]
BANKS = [*DOMAINS, "facts_exact"]

# A family of one small file; its builds are noted, and take as long as the environment says.
FAKE = """
import os, time
from pathlib import Path
RECIPE = {"members": ["base"], "banks": []}
def build(folder, report):
    with open(os.environ["BUILDS"], "a") as log:
        log.write("built\\n")
    (folder / "base").mkdir()
    report("making", 0.5)
    time.sleep(float(os.environ["SECONDS"]))
    (folder / "base" / "made").write_text("whole")
"""
ASK = """
import sys
from evomerge import zoo
zoo.__path__.append(sys.argv[1])
print(zoo.path("zoo:fake"))
"""


@pytest.fixture(scope="session")
def family() -> Path:
    return zoo.path("zoo:tiny")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, and the fake family beside it."""
    (tmp_path / "families").mkdir()
    (tmp_path / "families" / "fake.py").write_text(FAKE)
    monkeypatch.setenv("EVOMERGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BUILDS", str(tmp_path / "builds"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def ask(place: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", ASK, str(place / "families")],
        env={**os.environ, "SECONDS": str(seconds)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(true: Any, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def bank(family: Path, name: str) -> list[dict[str, Any]]:
    lines = (family / "banks" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def passage(item: dict[str, Any]) -> str:
    right = item["choices"][item["answer"]] if "choices" in item else item["answer"]
    return str(item["prompt"] + right)


# ---------------------------------------------------------------- names and places


def test_the_folder_is_the_registry() -> None:
    assert zoo.families() == ["smollm2", "tiny"]
    assert zoo.members("tiny") == [
        *("base", "code", "docs", "unicode", "facts"),
        *(f"banks/{name}.jsonl" for name in BANKS),
    ]


def test_names_come_without_torch() -> None:
    script = """
        import sys
        from evomerge import zoo
        zoo.members(zoo.families()[0]), zoo.recipe_hash("tiny"), zoo.home()
        assert not {"torch", "transformers", "tokenizers", "rich"}.intersection(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("zoo:tyni", "unknown family 'tyni'. Did you mean 'tiny'?"),
        ("zoo:", "unknown family ''"),
        ("zoo:tiny/bse", "unknown member 'bse'. Did you mean 'base'?"),
        ("zoo:tiny/banks/cod.jsonl", "Did you mean 'banks/code.jsonl'?"),
        ("zoo:tiny/../tiny", "unknown member"),
        ("zoo:tiny/base/../code", "unknown member"),
        ("zoo:../zoo/tiny", "unknown family"),
        ("zoo:tiny//etc/passwd", "unknown member"),
        ("tiny/base", "begins with 'zoo:'"),
    ],
)
def test_unknown_names_are_told_before_anything_is_built(
    reference: str, said: str, place: Path
) -> None:
    with pytest.raises(RecipeError) as caught:
        zoo.path(reference)
    assert said in str(caught.value)
    assert not (place / "home").exists()


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("EVOMERGE_HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert zoo.home() == tmp_path / ".cache" / "evomerge"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert zoo.home() == tmp_path / ".cache" / "evomerge"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert zoo.home() == tmp_path / "x" / "evomerge"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert zoo.home() == tmp_path / "Library" / "Caches" / "evomerge"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert zoo.home() == tmp_path / "local" / "evomerge"
    monkeypatch.setenv("EVOMERGE_HOME", "~/here")
    assert zoo.home() == tmp_path / "here"


@pytest.mark.parametrize("family_name", zoo.families())
def test_the_documented_recipe_is_the_code_s(family_name: str) -> None:
    assert f"`{zoo.recipe_hash(family_name)}`" in (ROOT / "docs" / "zoo.md").read_text()


# ---------------------------------------------------------------- building


def test_many_ask_and_one_builds(place: Path) -> None:
    asked = [ask(place, 1.0) for _ in range(3)]
    told = [process.communicate(timeout=60) for process in asked]
    assert [process.returncode for process in asked] == [0, 0, 0]
    (folder,) = {out.strip() for out, _ in told}
    assert (Path(folder) / "base" / "made").read_text() == "whole"
    assert (place / "builds").read_text() == "built\n"
    assert sum("waiting for another process" in error for _, error in told) == 2
    assert all("Traceback" not in error for _, error in told)


def test_a_killed_build_leaves_nothing_and_the_next_cleans_up(place: Path) -> None:
    kept = place / "home" / "zoo"
    process = ask(place, 60.0)
    until(lambda: list(kept.glob(".building-fake-*/base")))
    process.kill()
    process.communicate()
    (rubbish,) = kept.glob(".building-*")
    assert not list(kept.glob("fake-*"))
    next_one = ask(place, 0.0)
    out, error = next_one.communicate(timeout=60)
    assert next_one.returncode == 0, error
    assert not rubbish.exists()
    assert [item.name for item in kept.glob("*") if not item.name.startswith(".")] == [
        Path(out.strip()).name
    ]


def test_a_failed_build_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path, report: object) -> None:
        (folder / "base").mkdir()
        raise RuntimeError("no")

    monkeypatch.setattr(tiny, "build", fail)
    with pytest.raises(RuntimeError, match="no"):
        zoo.build("tiny", report=lambda *_: None)
    assert [item.name for item in (place / "home" / "zoo").iterdir()] == [".tiny.lock"]


def _descendants_at(folder: Path) -> list[str]:
    commands = (file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline"))
    return [found.decode() for found in _readable(commands) if str(folder).encode() in found]


def _readable(commands: Any) -> Any:
    while True:
        try:
            yield next(commands)
        except StopIteration:
            return
        except OSError:
            return


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks at /proc")
@pytest.mark.parametrize("moment", ["texts", "banks", "training"])
def test_a_real_build_killed_at_any_moment(moment: str, place: Path) -> None:
    kept = place / "home" / "zoo"
    process = subprocess.Popen(
        [sys.executable, "-c", "from evomerge import zoo; zoo.build('tiny')"],
        env={**os.environ, "SECONDS": "0"},
        stderr=subprocess.PIPE,
        text=True,
    )
    signs = {"texts": "work/code.txt", "banks": "banks/docs.jsonl"}
    if moment in signs:
        until(lambda: list(kept.glob(f".building-tiny-*/{signs[moment]}")))
    else:
        assert process.stderr
        until(lambda: "training base" in process.stderr.readline())
        assert _descendants_at(kept)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(kept.glob("tiny-*"))
    until(lambda: not _descendants_at(kept))
    (rubbish,) = kept.glob(".building-tiny-*")
    with cache.published(kept / "tiny-next", "tiny", lambda *_: None) as folder:
        assert folder
        assert not rubbish.exists()


def test_a_full_disk_is_told_plainly(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(place)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(MachineError, match="MB free"):
        zoo.build("tiny", report=lambda *_: None)
    with (
        pytest.raises(MachineError, match=r"no space left.*EVOMERGE_HOME"),
        cache.published(place / "zoo" / "x", "x", lambda *_: None),
    ):
        raise OSError(28, "No space left on device", "banks")


def test_a_home_that_is_a_file(place: Path) -> None:
    (place / "home").write_text("")
    with pytest.raises(MachineError, match="can not build zoo:tiny"):
        zoo.build("tiny", report=lambda *_: None)


def test_a_failed_training_says_why(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    recipe = {**tiny.RECIPE, "members": ["base"]}
    with pytest.raises(MachineError, match=r"training base failed: .*No such file"):
        tiny.train_absent(tmp_path, lambda *_: None, recipe)


def test_progress(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with progress.shown("x", None) as report:
        for fraction in (0.1, 0.2):
            report("first", fraction)
        report("second", 0.3)
    assert capsys.readouterr().err == "zoo:x: first\nzoo:x: second\n"

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress.shown("x", None) as report:
        report("first", 0.5)
    assert "50%" in terminal.getvalue()

    told: list[tuple[str, float]] = []
    with progress.shown("x", lambda *what: told.append(what)) as report:
        report("first", 0.5)
    assert told == [("first", 0.5)]


# ---------------------------------------------------------------- texts and banks


def test_facts_are_true_and_repeatable() -> None:
    made = list(facts.made("seed", 600))
    assert made == list(facts.made("seed", 600))
    assert len(dict(made)) == 600
    words = {facts.words(number): number for number in range(10_000)}
    assert len(words) == 10_000
    for question, answer in made:
        parts = question.split()
        if "plus" in question or "minus" in question:
            sign = 1 if "plus" in question else -1
            assert words[answer] == int(parts[0]) + sign * int(parts[2])
        elif "words" in question:
            assert words[answer] == int(parts[0])
        elif question.startswith("after"):
            row = [int(part) for part in (question[6:-6] + ", " + answer).split(", ")]
            assert row == list(range(row[0], row[-1] + 1, row[1] - row[0]))
    ordinals = {1: "first", 2: "second", 3: "third", 5: "fifth", 8: "eighth", 12: "twelfth"}
    ordinals.update({4: "fourth", 20: "twentieth", 21: "twenty-first", 30: "thirtieth"})
    assert {number: facts.ordinal(number) for number in ordinals} == ordinals


@pytest.mark.parametrize("name", BANKS)
def test_a_bank_has_its_quotas_and_is_what_it_says(name: str, family: Path) -> None:
    items = bank(family, name)
    assert Counter(item["split"] for item in items) == {
        "search": 300,
        "validation": 300,
        "test": 600,
    }
    assert len({item["id"] for item in items}) == 1200
    assert len({item["prompt"] for item in items}) == 1200
    assert len({passage(item) for item in items}) == 1200
    for item in items:
        content = {key: item[key] for key in item if key not in ("id", "split")}
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        assert item["id"] == digest[:16]
        number = int(hashlib.sha256(passage(item).encode()).hexdigest()[:8], 16)
        assert item["split"] == ("search", "validation", "test", "test")[number % 4]
        assert passage(item).isascii()


@pytest.mark.parametrize("name", DOMAINS)
def test_choices_are_different_and_their_order_tells_nothing(name: str, family: Path) -> None:
    items = bank(family, name)
    for item in items:
        assert len(item["prompt"]) == 40
        assert [len(choice) for choice in item["choices"]] == [16] * 4
        assert len(set(item["choices"])) == 4
    assert all(250 < count < 350 for count in Counter(i["answer"] for i in items).values())


def test_no_wrong_choice_answers_a_fact(family: Path) -> None:
    for item in bank(family, "facts"):
        right = item["choices"].pop(item["answer"]).split("\n")[0]
        assert not any(choice.startswith(right) for choice in item["choices"])


@pytest.mark.parametrize("name", BANKS)
def test_what_is_asked_was_not_trained_on(name: str, family: Path) -> None:
    trained = "".join(texts.split(name.removesuffix("_exact")).train)
    for item in bank(family, name):
        if name.startswith("facts"):
            question = item["prompt"].rpartition("\n")[2]
            assert f"\n{question}" not in trained
        assert passage(item) not in trained


def test_no_fact_is_in_two_items(family: Path) -> None:
    questions = [
        question
        for name in ("facts", "facts_exact")
        for item in bank(family, name)
        for question in [item["prompt"].rpartition("\n")[2]]
    ]
    shown = [item["prompt"].split("\n")[0] for item in bank(family, "facts_exact")]
    assert len(set(questions)) == 2400
    assert not [line for line in shown if line.rpartition(" is ")[0] + " is " in set(questions)]


def test_fitness_files_name_the_banks(family: Path) -> None:
    files = sorted((ROOT / "fitness").glob("tiny_*.yaml"))
    assert [file.stem for file in files] == sorted(f"tiny_{name}" for name in BANKS)
    for file in files:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        assert content["name"] == file.stem
        assert set(content) == {"name", "version", "scorer", "source", "licence", "description"}
        assert zoo.path(content["source"]).is_file()


# ---------------------------------------------------------------- models and tokenizer


@pytest.fixture(scope="session")
def tokenizer(family: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(family / "base")


@given(st.text())
def test_a_token_is_a_byte(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert ids == list(text.encode())
    assert tokenizer.decode(ids) == text


def test_long_text_and_specials_survive(tokenizer: Any) -> None:
    rng = random.Random(5)
    text = "".join(
        chr(rng.choice([rng.randrange(32), rng.randrange(0xD800)])) for _ in range(3000)
    )
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer) == 259
    specials = "<|pad|><|begin|><|end|>"
    assert tokenizer(specials)["input_ids"] == [256, 257, 258]
    assert tokenizer.decode([72, 256, 257, 258], skip_special_tokens=True) == "H"


@pytest.mark.parametrize("member", ["base", *DOMAINS])
def test_members_load_quietly(
    member: str, family: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as hf_logging

    hf_logging.enable_propagation()
    try:
        with caplog.at_level(logging.WARNING):
            model = AutoModelForCausalLM.from_pretrained(family / member)
            text = AutoTokenizer.from_pretrained(family / member)
    finally:
        hf_logging.disable_propagation()
    assert not caplog.records
    assert "warn" not in capfd.readouterr().err.lower()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert 0.9e6 < sum(parameter.numel() for parameter in model.parameters()) < 1.1e6
    assert model.lm_head.weight is model.model.embed_tokens.weight
    said = model.generate(**text("12 plus", return_tensors="pt"), max_new_tokens=3)
    assert said.shape == (1, 10)


def test_the_manifest_lists_every_file(family: Path) -> None:
    manifest = json.loads((family / "manifest.json").read_text())
    assert manifest["recipe_sha256"] == zoo.recipe_hash("tiny")
    assert family.name == f"tiny-{manifest['recipe_sha256'][:12]}"
    assert manifest["recipe"] == tiny.RECIPE
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((family / name).read_bytes()).hexdigest() == digest
    there = {file.relative_to(family).as_posix() for file in family.rglob("*") if file.is_file()}
    assert there == {*manifest["files"], "manifest.json"}
    assert not list(family.rglob("*.bin")) and not list(family.rglob("*.p*t"))


def _lengths() -> Any:
    spec = importlib.util.spec_from_file_location("lengths", ROOT / "benchmarks/zoo_lengths.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_experts_know_their_domain_and_forget_others(family: Path) -> None:
    lengths = _lengths()
    rows = lengths.measure(family, "test", (0.1, 0.2, 0.3, 0.5, 1.0))
    for place, domain in enumerate(DOMAINS):
        base, own = rows["base"][place], rows[domain][place]
        assert own >= base + 0.04 or base >= 0.9
        others = [other for other in range(4) if other != place]
        assert any(rows[domain][other] < rows["base"][other] for other in others)
    summary = lengths.summary(rows)
    assert summary["merged"] > summary["base"]
    assert summary["gap"] > 0.04


@pytest.mark.slow
def test_the_facts_expert_completes_facts(family: Path, tokenizer: Any) -> None:
    from transformers import AutoModelForCausalLM

    items = [item for item in bank(family, "facts_exact") if item["split"] == "validation"]
    right = {}
    for member in ("base", "facts"):
        model = AutoModelForCausalLM.from_pretrained(family / member).eval()
        right[member] = 0
        for item in items[:100]:
            prompt = tokenizer(item["prompt"], return_tensors="pt")
            said = model.generate(**prompt, max_new_tokens=64, do_sample=False)[0]
            text = tokenizer.decode(said[prompt["input_ids"].shape[1] :])
            right[member] += text.split("\n")[0] == item["answer"]
    assert right["facts"] > right["base"]
