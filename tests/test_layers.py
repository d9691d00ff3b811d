"""Imports point down, plug-ins stand alone, files and functions are short."""

import ast
import functools
from pathlib import Path

import pytest

from evomerge import plugins

PACKAGE = Path(plugins.__file__).parent

# What is imported stands in a line above. Members of one line may import each other only inside
# a folder that is no plug-in folder, such as files/.
LAYERS = """
    errors heap options packages processor threads
    maths console
    files genome layers budget
    zoo modules ancestry
    stacks keywords
    plugins prompts
    evolution relay lineage trials weightings
    likelihood generation harness
    operators strategies scorers
    plan
    inputs arguments work
    passes
    materialize layout
    live products
    lowrank
    saving
    schema shelf blocks loading
    worker staging cluster
    executors answers pace
    estimation candidates
    constraints degenerate
    objectives checks desk fidelity
    recipe sanity
    confirm front changes
    session watch
    report forecast
    signals state
    recorded
    preferences seeds
    loop run interop similarity
    between
    tables calibration
    api
    preview progress status doctor rebuilding caching further
    shelves merging comparing calibrating choosing examining
    cli
    __main__
"""
ORDER = {name: i for i, line in enumerate(LAYERS.split("\n")) for name in line.split()}
LONGEST_FILE, LONGEST_FUNCTION = 300, 40

FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE / "_data")
NAMES = [str(path.relative_to(PACKAGE)) for path in FILES]


@functools.cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(node):
    """Dotted names below `evomerge` that are imported when code runs, at whatever depth."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from (a.name[9:] for a in node.names if a.name.startswith("evomerge."))
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"relative import in line {node.lineno}"
        if node.module == "evomerge":
            yield from (a.name for a in node.names if not a.name.startswith("__"))
        elif str(node.module).startswith("evomerge."):
            yield from (f"{node.module[9:]}.{a.name}" for a in node.names)
    for child in ast.iter_child_nodes(node):
        yield from imported(child)


def place(name):
    """(folder or module, what is inside it) of a dotted name."""
    top, _, inside = name.partition(".")
    return top, inside.split(".")[0]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "__init__.py"])
def test_imports_point_down(name):
    home = Path(name).with_suffix("").parts
    assert home[0] in ORDER, f"{home[0]} has no layer yet: give it a line in LAYERS"
    for target in imported(tree(PACKAGE / name)):
        top, inside = place(target)
        if top == home[0] and len(home) > 1:
            assert top not in plugins.FOLDERS.values(), f"{name} imports its sibling {inside}"
            continue
        assert ORDER[top] < ORDER[home[0]], f"{name} imports {target}, which is not below it"


def test_maths_imports_nothing_of_ours():
    for path in (PACKAGE / "maths").glob("*.py"):
        assert all(place(name)[0] == "maths" for name in imported(tree(path))), path.name


def compared(node):
    """Strings that a comparison, a membership test or a match statement looks for."""
    parts = []
    if isinstance(node, ast.Compare):
        parts = [node.left, *node.comparators]
    if isinstance(node, ast.MatchValue):
        parts = [node.value]
    for part in parts:
        for constant in ast.walk(part):
            if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                yield constant.value


@functools.cache
def plug_ins():
    return [(folder, n) for kind, folder in plugins.FOLDERS.items() for n in plugins.known(kind)]


@pytest.mark.parametrize("name", NAMES)
def test_no_plug_in_is_told_by_its_name(name):
    others = {n for folder, n in plug_ins() if Path(name).parts != (folder, f"{n}.py")}
    for node in ast.walk(tree(PACKAGE / name)):
        found = others.intersection(compared(node))
        assert not found, f"{name}:{node.lineno} compares with the plug-in's name {found}"


@pytest.mark.parametrize("name", NAMES)
def test_files_and_functions_are_short(name):
    path = PACKAGE / name
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_FILE, f"{name} has {lines} lines"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{name}:{node.lineno} {node.name}: {length} lines"
