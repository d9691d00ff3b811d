"""What a person sees of points and fronts, in a notebook and on a terminal of any width."""

from types import SimpleNamespace

import numpy as np
import pytest

import evomerge
from evomerge import errors, front, tables
from evomerge.console import Screen
from evomerge.maths import intervals
from evomerge.recipe import resolve
from evomerge.report import labels, marks, page, plots, remarks
from evomerge.schema import Recipe
from tests import families


def point(label, *scores, chosen=False):
    """Scores on `test`, an array an objective."""
    return front.Point(label, f"plan of {label}", {"test": [np.array(s) for s in scores]}, chosen)


def test_what_was_not_scored_is_a_dash_in_a_notebook():
    points = [point("c1", [0.0, 1.0], [1.0, 1.0], chosen=True), point("TIES", [], [])]
    shown = front.Front(points, ["one", "two"], front.Tested(points))
    assert "nan" not in repr(shown) + shown._repr_html_()
    assert repr(shown).splitlines()[2].split() == ["TIES", "-", "-", "-"]
    assert "<th>nondominated</th>" in shown._repr_html_()
    afterwards = front.Front(points, ["one", "two"], front.Tested([]))._repr_html_()
    assert "nondominated" not in afterwards and afterwards.count("<td>") == 6


def test_a_point_shows_itself_in_a_line_and_is_found_again():
    one, again = (point("c1", [0.0, 1.0], [], chosen=True) for _ in range(2))
    assert repr(one) == "Point('c1', test=[0.500, -], chosen)"
    assert one == again and one in [point("c2", [1.0, 0.0]), again] and len({one, again}) == 1
    assert one != point("c2", [0.0, 1.0], [], chosen=True)


def test_p_values_are_plain_numbers():
    drawn = intervals.resample([[[0.0, 1.0, 1.0], [1.0, 1.0, 1.0]]], seed=0)
    assert [type(value) for value in drawn.difference(0, 1)] == 4 * [float]


def test_a_mean_is_of_the_items_that_count():
    one = front.Point("c1", "key", {"test": [np.zeros(20), np.zeros(1)]}, weights=[1.0, 0.0])
    assert one.counted("test") == "20 items"
    assert point("c1", [0.0]).counted("test", "test ") == "1 test item"


def test_labels_of_points_on_one_spot_stand_around_it():
    spots = [(0.5, 0.5), (0.5, 0.5), (0.5, 0.5), (0.2, 0.5)]
    sides = labels.place(spots, ["c1", "base", "TIES", "c2"], ((0, 1), (0, 1)), (800, 400))
    assert len(set(sides[:3])) == 3 and all(sides)


@pytest.mark.parametrize("width", [50, 60, 80, 200])
def test_no_number_is_broken_on_a_narrow_terminal(width, capsys):
    names = [f"objective {i}" for i in range(9)]
    points = [
        point(label, *([0.0] * i + [1.0] * (10 - i) for i in range(9)))
        for label in ("c1", "task arithmetic 0.3")
    ]
    shown = front.Front(points, names, front.Tested(points))
    tables.rows(Screen(width=width), "front", shown)
    said = capsys.readouterr().out
    for i in range(9):
        assert said.count(f" {1 - i / 10:.3f} ") >= 2
    assert said.count("mean") == said.count("nondom.") == 1
    assert all(len(line) <= width for line in said.splitlines())


def drawn(objectives):
    """The plot of a front whose objectives and points have long names."""
    long = "the_name_of_a_thing_with_many_words_in_it"
    many = [[0.0, 1.0]] * objectives
    ours = [point("c1", *many, chosen=True)]
    theirs = [point(f"{long}_{i}", *([0.0] * i + [1.0] * (9 - i) for _ in many)) for i in (1, 2)]
    run = SimpleNamespace(
        objectives=[f"{long}_{long}_{i}" for i in range(objectives)], front=ours, knee=ours[0],
        chosen=ours[0], baselines=theirs, kind=lambda p: "chosen" if p.chosen else "textbook",
    )  # fmt: skip
    return plots.front(run)


def test_long_names_stay_inside_the_plot():
    (menu,) = drawn(4).layout.updatemenus
    for button in menu.buttons:
        assert len(button.label) * labels.LETTER < marks.WIDTH
    for column, named in enumerate(drawn(4).layout.annotations):
        half = len(named.text) * labels.LETTER / (marks.WIDTH / 5) / 2
        assert column - 0.5 <= named.x - half and named.x + half <= column + 0.5
    axis = drawn(1).layout.yaxis
    assert len(set(axis.tickvals)) == 3 and set(axis.tickvals) == set(axis.categoryarray)
    assert all(len(text) * labels.LETTER <= 180 for text in axis.ticktext)
    assert len(drawn(1).layout.xaxis.title.text) * labels.LETTER < marks.WIDTH


def test_baselines_that_failed_are_named_with_the_reason():
    lost = [point(label, []) for label in ("expert left", "TIES")]
    keys = {f"c{i}": f"plan {i}" for i in range(7)}
    run = SimpleNamespace(
        failures=lambda: dict.fromkeys([*keys.values(), *(p.key for p in lost)], "boom [/b]"),
        asked=lambda: keys, baselines=[point("base", [1.0]), *lost], comparisons=list,
        odd=[], fallbacks=[],
        confirmed={"baselines": {p.label: p.key for p in lost}}, contamination=[],
    )  # fmt: skip
    (note,) = remarks.of(run)
    assert note == "9 failed (expert left, TIES, c0, c1, c2, ...): boom [/b]"
    assert list(tables._failed(run)) == [
        "failed candidates: 7",
        "expert left could not be scored: boom [/b]",
        "TIES could not be scored: boom [/b]",
    ]


def test_arguments_of_another_kind_are_named(family):
    base, left = str(family / "base"), family / "left"
    alone = evomerge.compare(base, str(left))
    assert repr(alone) == repr(evomerge.compare(base, left))
    assert repr(alone).splitlines()[1].split()[0] == "left"
    with pytest.raises(errors.RecipeError, match=r"compare: expected models or .*, got 3"):
        evomerge.compare(base, 3)
    with pytest.raises(errors.RecipeError, match=r"bank: expected one or more .*, got 3"):
        evomerge.evaluate(base, 3)


def test_a_recipe_in_python_holds_paths_and_numbers_of_numpy(family):
    space = {"blocks": np.int64(2), "genes": {"weight": np.array([0.0, 1.2])}}
    given = families.recipe(family, seed=np.int64(4), space=space)
    experts = {"left": family / "left"}
    found = resolve(given, budget=np.int64(18), base=family / "base", experts=experts).recipe
    assert (found.seed, found.budget.candidates, found.space.blocks) == (4, 18, 2)
    assert found.space.genes == {"weight": [0.0, 1.2]} and list(found.experts) == ["left"]


def test_the_report_says_what_was_searched_and_no_option_that_had_no_part(family):
    given = families.recipe(family, prefer={"one": 2.0}, seeds="run:before")
    run = SimpleNamespace(
        recipe=Recipe(**given).model_dump(), n_genes=6, folder=family, objectives=["one"],
        chosen=point("c1", [1.0]), spent=lambda: {"candidates": 18, "items": 720, "seconds": 3.0},
    )  # fmt: skip
    said = page._summary(run)
    assert "<dt>fidelity</dt><dd>name first, items 20</dd>" in said
    assert "<dt>prefer</dt><dd>one 2.0</dd><dt>seeds</dt><dd>run:before</dd>" in said
    assert "18 candidates, 720 answers of theirs, 3 seconds" in said  # base and experts have more
