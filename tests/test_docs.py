"""The documents say what the code does: commands, modules, links and examples."""

import ast
import re
import textwrap
from pathlib import Path

import pytest
import typer
import yaml

from evomerge import cli, errors, plugins, recipe
from evomerge.files import items

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
README = (ROOT / "README.md").read_text()


def commands(command, name=""):
    """(name, command) of every command below one."""
    for child, below in getattr(command, "commands", {}).items():
        full = f"{name} {child}".strip()
        if hasattr(below, "commands"):
            yield from commands(below, full)
        else:
            yield full, below


ALL = dict(commands(typer.main.get_command(cli.app)))


@pytest.mark.parametrize("name", ALL)
def test_every_command_is_explained(name):
    text = "".join(page.read_text() for page in PAGES)
    assert f"evomerge {name}" in text, f"no page shows `evomerge {name}`"
    assert ALL[name].help
    for parameter in ALL[name].params:
        if parameter.name != "help":
            assert getattr(parameter, "help", None) or parameter.name == "run", parameter.name


def test_every_decision_is_linked_and_has_its_three_parts():
    design = (ROOT / "docs" / "design.md").read_text()
    for page in sorted((ROOT / "docs" / "adr").glob("*.md")):
        assert f"(adr/{page.name})" in design
        text = page.read_text()
        assert text.startswith(f"# {int(page.name[:4])}. ")
        for part in ("**Context.**", "**Decision.**", "**Consequence.**"):
            assert part in text, f"{page.name} lacks {part}"


def test_every_operator_has_its_row_of_evidence():
    text = (ROOT / "docs" / "results.md").read_text()
    section = text.split("## Operators\n")[1].split("\n## ")[0]
    rows = {row[0]: row[1] for row in re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section, re.M)}
    assert set(rows) == set(plugins.known("operator"))
    assert not [name for name, evidence in rows.items() if evidence.strip() == "none"]


def test_every_strategy_has_its_rows_of_evidence_and_its_options():
    text = (ROOT / "docs" / "results.md").read_text()
    section = text.split("## Strategies\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|.*(?:\d ± \d|\d ms)", section, re.M)
    assert set(rows) == set(plugins.known("strategy"))
    assert all(rows.count(name) >= 2 for name in set(rows))
    table = (ROOT / "docs" / "design.md").read_text().split("## Strategies\n")[1].split("\n## ")[0]
    for name in plugins.known("strategy"):
        (row,) = re.findall(rf"^\| `{name}` \|.*$", table, re.M)
        with pytest.raises(errors.RecipeError) as caught:
            plugins.check_options("strategy", name, {"?": 0}, "here")
        for option in str(caught.value).split("Known: ")[1].split(", "):
            assert option == "none" or f"`{option}`" in row, (name, option)


@pytest.mark.parametrize("name", plugins.known("scorer"))
def test_every_option_of_a_scorer_is_explained(name):
    section = (ROOT / "docs" / "design.md").read_text().split("## Scorers")[1].split("\n## ")[0]
    assert f"\n| `{name}` |" in section
    with pytest.raises(errors.RecipeError) as caught:
        plugins.check_options("scorer", name, {"?": 0}, "here")
    for option in str(caught.value).split("Known: ")[1].split(", "):
        assert option == "none" or f"`{option}`" in section, option


def blocks(language):
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", README, re.M | re.S)
    assert found, f"README has no {language} block"
    return [textwrap.dedent(block) for _, block in found]


def test_the_examples_of_the_readme_are_sound(tmp_path):
    for block in blocks("python"):
        ast.parse(block)
    for block in blocks("yaml"):
        recipe.read(yaml.safe_load(block))
    for block in blocks("json"):
        (tmp_path / "items.jsonl").write_text(block)
        assert items.read_file(tmp_path / "items.jsonl")


def test_the_readme_tells_the_exit_codes():
    codes = [error.exit_code for error in errors.EvomergeError.__subclasses__()]
    for code in {0, *codes} - {errors.EvomergeError.exit_code}:
        assert f" `{code}` " in README, f"exit code {code} is not in the README"


def test_each_promise_names_tests_that_are_there():
    text = (ROOT / "docs" / "promises.md").read_text()
    rows = [line for line in text.splitlines() if re.match(r"\| (?!promise|-)", line)]
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", row)
        assert named, f"a promise without a test: {row[:60]}"
        for file, name in named:
            tree = ast.parse((ROOT / "tests" / file).read_text())
            assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"<!--.*?-->", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_tree_names_every_file():
    """The design's tree has each module at the top, in files/, and each plug-in by name."""
    tree = (ROOT / "docs" / "design.md").read_text().split("```")[1]
    words = set(re.findall(r"[\w.]+", tree))
    package = ROOT / "evomerge"
    named = [p.name for p in [*package.glob("*.py"), *(package / "files").glob("[!_]*.py")]]
    folders = [package / name for name in ("maths", "zoo", "report", *plugins.FOLDERS.values())]
    named += [p.stem for folder in folders for p in folder.glob("[!_]*.py")]
    assert sorted(set(named) - words) == []


def test_the_changelog_lists_every_plug_in():
    text = (ROOT / "CHANGELOG.md").read_text()
    missing = [n for kind in plugins.FOLDERS for n in plugins.known(kind) if f"`{n}`" not in text]
    assert missing == []
