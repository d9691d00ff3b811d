"""What models, banks and recipes say is text wherever it is shown: no HTML, no terminal markup."""

import json
import re

import pytest

import evomerge
from evomerge import errors
from evomerge.console import Screen
from tests import command, families
from tests.test_report import Reader

TAG = '<script>alert("x")</script><img src=x onerror=alert(1)>'
MARKS = "[bold]loud[/bold] [link=https://x]go[/link] [/red] :smile:"
ESCAPES = "\x1b]0;title\x07\x1b[31m\x9b2J\u202e"


@pytest.fixture(scope="module")
def hostile(family, tmp_path_factory):
    """A recipe and a folder with a bank in which every text is an attack."""
    place = tmp_path_factory.mktemp("hostile")
    items = families.questions("hostile", 20)
    for i, item in enumerate(items):
        item["id"] = f"{i} {TAG} {MARKS}"
        item["prompt"] += f"{TAG} {MARKS}"
    (place / "b.jsonl").write_text("".join(f"{json.dumps(item)}\n" for item in items))
    (place / "b.yaml").write_text(
        json.dumps({"name": "b", "version": 1, "scorer": "choice", "source": "b.jsonl"})
    )
    recipe = families.recipe(
        family, name="n", description=f"{TAG} {MARKS}", budget={"candidates": 12}, shortlist=2,
        objectives={f"{TAG} {MARKS}": str(place / "b.yaml")},
    )  # fmt: skip
    return command.write(place, recipe)


@pytest.fixture(scope="module")
def confirmed(hostile, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "run"
    evomerge.search(hostile, folder)
    return folder


@pytest.mark.slow
def test_a_terminal_shows_it_literally(run, hostile, confirmed):
    """Marks that would end a style would otherwise end the program."""
    for words in (
        ["search", hostile, "-o", confirmed], ["front", confirmed], ["plan", hostile],
        ["calibrate", confirmed], ["bank", "check", hostile.parent / "b.jsonl"],
        ["evaluate", confirmed, "--front", "-b", hostile.parent / "b.jsonl"],
    ):  # fmt: skip
        code, out, err = run(*words)
        assert code == errors.DONE, err
        assert "\x1b" not in out + err
    code, out, _ = run("front", confirmed)
    flat = re.sub(r"[\s│┃]", "", out)
    assert "[bold]" in flat and "[/red]" in flat and ":smile:" in flat


def test_controls_of_a_terminal_are_spelled_out(capsys):
    screen = Screen(force_terminal=True, color_system=None, width=200)
    screen.print(f"{ESCAPES} {MARKS}")
    shown = capsys.readouterr().out
    assert shown == r"\x1b]0;title\x07\x1b[31m\x9b2J\u202e " + f"{MARKS}\n"
    assert str(errors.InputError(ESCAPES)).isprintable()


def test_a_page_holds_it_as_text(confirmed):
    opened = evomerge.Run(confirmed)
    (name,) = opened.objectives
    pages = {"report": opened.report().read_text(encoding="utf-8")}
    pages["notebook"] = opened._repr_html_()
    for what, text in pages.items():
        tags = Reader(text).tags
        assert not [given for tag, given in tags if tag == "img" or "onerror" in given], what
        assert name in Reader(text).text, what
        assert "alert(" not in "".join(Reader(text).scripts[:-1]).split("plotly")[0], what
    card = (opened.save("best", confirmed / "best") / "README.md").read_text()
    assert "<" not in card.split("---\n", 2)[2]
