"""The report on real runs of one, two and three objectives: what is drawn is what was measured."""

import json
import math
import os
import random
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM

import evomerge
from evomerge import front, tables
from evomerge.maths import intervals
from evomerge.report import labels, page, plots, remarks
from evomerge.zoo.tiny import tokenizer

EVIL = '<script>alert("x")</script>'
NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "01_first_search.ipynb"


def model(folder, seed):
    """A random Llama; those of other seeds are near that of seed 0."""
    config = LlamaConfig(
        vocab_size=260, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True,
        bos_token_id=256, eos_token_id=257, pad_token_id=258,
    )  # fmt: skip
    made = LlamaForCausalLM(config)
    near, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    for tensor in made.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=near) * 0.3)
        if seed:
            tensor.add_(torch.randn(tensor.shape, generator=own) * 0.1)
    made.save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def bank(file, seed):
    """Questions with four answers, 20 a split."""
    draw = random.Random(seed)
    rows = [
        {
            "prompt": f"{draw.random()} ",
            "choices": [f"{draw.random():.6f}" for _ in range(4)],
            "answer": draw.randrange(4),
            "split": split,
        }
        for split in ("search", "validation", "test")
        for _ in range(20)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "left", "right")):
        model(folder / name, seed)
    return {
        "name": "small",
        "description": f"A description with {EVIL}",
        "base": str(folder / "base"),
        "experts": {name: str(folder / name) for name in ("left", "right")},
        "operator": "task_arithmetic",
        "space": {"blocks": 2},
        "objectives": {
            name: bank(folder / f"{i}.jsonl", i) for i, name in enumerate(("left", EVIL, "third"))
        },
        "strategy": "sobol",
        "budget": {"candidates": 6},
        "shortlist": 4,
        "batch": 10,
    }


@pytest.fixture(
    scope="module", params=[*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2)), 3]
)
def run(request, recipe, tmp_path_factory):
    """A confirmed run of as many objectives."""
    names = list(recipe["objectives"])[: request.param]
    objectives = {name: recipe["objectives"][name] for name in names}
    folder = tmp_path_factory.mktemp("run")
    return evomerge.search({**recipe, "objectives": objectives}, folder)


class Reader(HTMLParser):
    """Tags with their attributes, and all text outside scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.scripts, self.inside = [], "", [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside != "style":
            self.text += data


def test_the_report_is_one_file_that_loads_nothing(run):
    path = run.report()
    assert path == run.folder / page.NAME
    read = Reader(path.read_text(encoding="utf-8"))
    assert not [tag for tag, _ in read.tags if tag in ("link", "iframe", "img", "object", "base")]
    assert not [given for _, given in read.tags if "src" in given or "href" in given]
    assert "@import" not in path.read_text().split("</style>")[0]
    assert sum(len(script) > 1_000_000 for script in read.scripts) == 1
    assert not list(run.folder.glob(".*partial*"))


def test_the_report_names_every_point_and_the_claim(run):
    read = Reader(run.report().read_text(encoding="utf-8"))
    for point in (*run.front, *run.baselines):
        assert point.label in read.text
        for i in range(len(run.objectives)):
            assert f"{point.means('test')[i]:.3f}" in read.text
    best = max(run.baselines, key=lambda p: p.mean("test"))
    row = next(r for r in run.comparisons() if r["baseline"] == best.label)
    assert f"interval {row['low']:+.3f} to {row['high']:+.3f}; p " in read.text
    surely = "not distinguishable from" not in read.text
    assert surely == (row["p_holm"] < 0.05)
    assert "looked at once" in read.text
    assert f"evomerge export {run.folder} best -o merged" in read.text


def test_no_label_becomes_markup(run):
    text = run.report().read_text(encoding="utf-8")
    assert 'alert("x")' not in text
    assert EVIL in Reader(text).text
    for figure in (plots.front(run), plots.genome(run), plots.optimism(run), plots.progress(run)):
        assert "<script" not in figure.to_json()


def test_the_front_shows_all_points_with_wilsons_intervals(run):
    figure = plots.front(run)
    everybody = [*run.front, *run.baselines]
    m = len(run.objectives)
    pair = [trace for trace in figure.data if trace.yaxis != "y2"]
    assert sum(len(trace.x) for trace in pair) == len(everybody)
    drawn = {}
    for trace in pair:
        for i, x in enumerate(trace.x):
            low, high = x - trace.error_x.arrayminus[i], x + trace.error_x.array[i]
            drawn.setdefault(round(x, 9), (low, high))
    for point in everybody:
        scores = point.scores["test"][0]
        expected = intervals.wilson(scores.mean(), len(scores))
        assert drawn[round(scores.mean(), 9)] == pytest.approx([float(v) for v in expected])
    columns = [trace for trace in figure.data if trace.yaxis == "y2"]
    assert len(columns) == (len(everybody) if m > 2 else 0)
    for trace in columns:
        assert any(list(trace.y[:m]) == p.means("test") for p in everybody)


def test_the_menu_draws_each_pair_of_objectives(run):
    menus = plots.front(run).layout.updatemenus
    assert len(menus) == (len(run.objectives) > 2)
    for menu in menus:
        assert len(menu.buttons) == 3
        data, layout, traces = menu.buttons[2].args
        assert len(data["x"]) == len(traces)
        shown = {(x, y) for xs, ys in zip(data["x"], data["y"], strict=True)
                 for x, y in zip(xs, ys, strict=True)}  # fmt: skip
        assert shown == {tuple(p.means("test")[1:]) for p in (*run.front, *run.baselines)}
        assert layout["yaxis.title.text"] == "third, test score"


def test_the_heatmap_is_the_plan(run):
    plan, (trace,) = run.plan("best"), plots.genome(run).data
    for group, row in zip(plan.groups.values(), trace.z, strict=True):
        assert list(row) == [group.genes["weight"][expert.name] for expert in plan.experts]
    assert list(trace.y) == list(plan.groups)
    assert list(trace.x) == ["left", "right"]


def test_every_point_has_a_genome(run):
    for point in (*run.front, *run.baselines):
        assert plots.genome(run, point.label).to_json()


def test_optimism_compares_on_the_same_items(run):
    rows = {point.label: (seen, tested) for point, seen, tested in run.optimism()}
    assert rows[run.chosen.label] == (run.chosen.mean("search"), run.chosen.mean("test"))
    # this recipe asks all items of everybody
    base = next(p for p in run.baselines if p.label == "base")
    assert rows["base"] == pytest.approx((base.mean("search"), base.mean("test")))
    drawn = [len(trace.x) for trace in plots.optimism(run).data if trace.mode != "lines"]
    assert sum(drawn) == len(rows)


def test_progress_ends_with_the_whole_search(run):
    scores, best, volumes = plots.progress(run).data
    assert len(scores.x) == 6 and scores.x[-1] == run.spent()["items"]
    assert best.y[-1] == max(scores.y)
    assert list(volumes.y) == sorted(volumes.y)


def test_the_best_so_far_is_of_what_stands(run):
    """Who was told a low loss from few items, and a high one from more, is the best no more."""
    rows = [(0, 0.1), (1, 0.5), (0, 0.7), (2, 0.6)]
    told = [(id, [loss] * len(run.objectives)) for id, loss in rows]
    low, middle, *_ = plots._scores(run, [losses for _, losses in told])
    assert plots._best(run, told) == [low, low, middle, middle]


def test_a_point_found_twice_stands_in_the_front_once(run):
    assert len({point.key for point in run.front}) == len(run.front)
    assert sum(point.chosen for point in run.front) == 1


def test_comparisons_are_paired_bootstraps(run):
    rows = run.comparisons()
    for row, other in zip(rows, run.baselines, strict=True):
        mine, theirs = run.chosen.scores["test"], other.scores["test"]
        (expected,) = intervals.paired_bootstrap(mine, [theirs], seed=0)
        found = [row[name] for name in expected._fields]
        assert found == pytest.approx(list(expected), abs=1e-12)
        differ = np.concatenate(mine) != np.concatenate(theirs)
        assert row["items_that_differ"] == differ.sum()
    adjusted = intervals.holm([row["p"] for row in rows])
    assert [row["p_holm"] for row in rows] == adjusted.tolist()


def test_base_best_expert_and_best_textbook_merge_are_named(run, capsys):
    best = {row["kind"]: row["baseline"] for row in run.comparisons() if row["best"]}
    assert list(best) == ["base", *sorted(set(best) - {"base"})] and len(best) == 3
    means = {p.label: p.mean("test") for p in run.baselines}
    assert best["expert"] == max(("expert left", "expert right"), key=means.__getitem__)
    assert means[best["textbook"]] == max(v for k, v in means.items() if " " in k or k == "TIES"
                                          if not k.startswith("expert"))  # fmt: skip
    text = Reader(run.report().read_text(encoding="utf-8")).text
    tables.show(Console(width=200), run)
    for said in (text, capsys.readouterr().out):
        assert f"{best['expert']} (best expert)" in said
        assert f"{best['textbook']} (best textbook)" in said


def test_how_probable_it_is_to_be_nondominated(run):
    everybody = [*run.front, *run.baselines]
    banks = [np.stack(b) for b in zip(*(p.scores["test"] for p in everybody), strict=True)]
    expected = intervals.resample(banks, seed=0).nondominated().tolist()
    rows = [*run.front.rows(), *run.baselines.rows()]
    assert [row["nondominated"] for row in rows] == pytest.approx(expected)
    assert run.front.to_pandas().nondominated.tolist() == expected[: len(run.front)]
    assert json.loads(run.to_json())["front"][0]["nondominated"] == expected[0]
    cells = [f"<td>{value:.2f}</td>" for value in expected]
    page = run.report().read_text(encoding="utf-8")
    assert all(cell in page for cell in cells)
    assert all(cell in run.front._repr_html_() for cell in cells[: len(run.front)])


def test_useless_experts_are_noted(run):
    for i, name in enumerate(run.objectives):
        means = {p.label: p.means("search")[i] for p in run.baselines}
        useless = means.get(f"expert {name}", 1.0) <= means["base"]
        assert useless == any(f"Expert '{name}'" in note for note in remarks.of(run))


def picky(model, tokenizer):
    """Refuses models whose weights are further from zero than those of base and experts."""
    size = next(model.parameters()).square().mean().sqrt().item()
    if size > 0.33:
        raise ValueError(f"{EVIL} is too large")
    return size


@pytest.mark.slow
def test_failures_are_noted_with_their_reasons(recipe, tmp_path):
    objectives = {"left": recipe["objectives"]["left"], "size": {"function": f"{__name__}:picky"}}
    run = evomerge.search({**recipe, "objectives": objectives}, tmp_path / "run")
    assert 0 < len(run.failures()) < 6
    (note,) = [note for note in remarks.of(run) if "failed" in note]
    assert EVIL in note and note.startswith(f"{len(run.failures())} failed (")
    assert note in " ".join(Reader(run.report().read_text()).text.split("\n"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spared", "says"),
    [
        (slice(3), "could not be scored on test, so nothing is claimed"),  # base and experts
        (slice(3, None), "on test, where no baseline has a score"),  # the candidates
        (slice(0), "could not be scored on test, so nothing is claimed"),
    ],
)
def test_what_could_not_be_scored_on_test_is_said(recipe, tmp_path, capsys, spared, says):
    seen = []

    def fussy(model, tokenizer, split):
        mine = float(sum(p.sum() for p in model.parameters()))
        if split == "search":
            seen.append(mine)
        if split == "test" and mine not in seen[spared]:
            raise ValueError(f"{EVIL} is too long")
        return 0.5

    run = evomerge.search(recipe, tmp_path / "run", objectives={"own": fussy})
    assert run.comparisons() == [] == json.loads(run.to_json())["chosen_against"]
    tables.show(Console(width=200), run)
    told = capsys.readouterr().out
    report = Reader(run.report().read_text()).text
    assert f"The chosen merge {run.chosen.label} " in report and says in report
    reason = remarks.untested(run)
    assert bool(reason) == ("could not" in says) == (EVIL in reason)
    assert (f"{run.chosen.label} could not be scored on test: " in told) == bool(reason)


def half(model, tokenizer):
    return 0.5


@pytest.mark.slow
def test_a_function_has_a_score_and_no_interval(recipe, tmp_path):
    objectives = {"left": recipe["objectives"]["left"], "own": {"function": f"{__name__}:half"}}
    run = evomerge.search({**recipe, "objectives": objectives, "shortlist": 2}, tmp_path / "run")
    assert all(math.isnan(limit) for limit in run.chosen.interval(1))
    assert run.chosen.text(1) == "0.500"
    assert "nan" not in Reader(run.report().read_text()).text
    card = (run.save("best", tmp_path / "best") / "README.md").read_text()
    assert "| own | 0.500 | - |" in card and "nan" not in card
    assert not any(np.isnan(plots.front(run).layout.yaxis.range))


def test_labels_never_lie_on_each_other():
    draw = random.Random(0)
    spots = [(draw.random(), draw.random()) for _ in range(30)]
    names = [f"label {i}" for i in range(30)]
    sides = labels.place(spots, names, ((0, 1), (0, 1)), (800, 400))
    placed = [
        labels._box((x * 800, y * 400), len(name) * labels.LETTER, labels.SIDES[side])
        for (x, y), name, side in zip(spots, names, sides, strict=True)
        if side
    ]
    assert len(placed) > 20
    for i, box in enumerate(placed):
        assert not any(labels._overlap(box, other) for other in placed[:i])


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    import nbclient
    import nbformat

    monkeypatch.setenv("EVOMERGE_SMOKE", "1")
    root = str(NOTEBOOK.parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=place).execute()
    assert (tmp_path / "runs" / "first" / "report.html").is_file()
    assert (tmp_path / "merged" / "knee" / "model.safetensors").is_file()


def test_long_names_are_cut_in_the_middle():
    assert labels.cut("short", 100) == "short"
    cut = labels.cut("a very long name of an objective, the first", 100)
    assert cut.startswith("a very") and cut.endswith("first") and "…" in cut
    assert len(cut) * labels.LETTER <= 100


def test_names_of_objectives_stand_whole_and_apart_in_a_front():
    names = ["a_very_long_name_one", "a_very_long_name_two"]
    point = front.Point("c1", "key", {"test": [np.array([0.25, 0.75]), np.array([1.0])]}, True)
    head, row = repr(front.Front([point], names, front.Tested([point]))).splitlines()
    assert head.split() == ["point", *names, "mean"] and row.split()[2:4] == ["0.500", "1.000"]
    assert len(head) == len(row)
