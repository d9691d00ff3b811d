"""The report of a run: one HTML file that needs nothing else, neither a network."""

from __future__ import annotations

import html
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from plotly.offline import get_plotlyjs

from evomerge.console import score
from evomerge.files.writer import atomic_text
from evomerge.front import named, shown, spread
from evomerge.report import plots, remarks, style
from evomerge.schema import Fidelity

if TYPE_CHECKING:
    from evomerge.run import Point, Run

NAME = "report.html"
KEPT = ("bank", "wanted", "margin on validation", "its lower bound", "score on test")

_PAGE = Template(
    style.HEAD
    + """<p>$description</p>
<p class="claim">$claim</p>
$notes
<h2>The front</h2>
<p class="small">$reading</p>
$front_plot
<div class="wide">$front_table</div>
$further
<h2>The chosen point against each baseline</h2>
<p class="small">Difference of the mean test scores, with its 95 % interval from a paired bootstrap
over items: the same items for both, so that what is hard for both cancels out. Each interval
stands for itself. The p-values are adjusted for their number (Holm): if the chosen point differed
from no baseline, the chance that even one of them falls below 0.05 would be at most 5 %.</p>
$against
$kept
<h2>What the chosen point is made of</h2>
<p class="small">Gene values of $chosen, for each group of tensors.</p>
$genome_plot
<h2>How far the search could be trusted</h2>
<p class="small">The search picks what looks best on few items, and part of that is luck: points
right of the dotted line looked better than they are. Base and experts, on the items that $chosen
answered, were not selected: they show how much the two sets of items differ anyway. No number
from the search is a result.</p>
$optimism_plot
<h2>How the search went</h2>
<p class="small">Search scores, on which the candidates were selected; the hypervolume counts only
what is less than 1.1 units worse than the best of base and experts in every objective. For both
lines, what lacks something that has to be kept is worse than all that does not.</p>
$progress_plot
<h2>What was searched</h2>
$summary
<h2>What to do next</h2>
$commands
<p class="small">Written by evomerge $version.</p>
</body>
</html>
"""
)


_READING = (
    "Points that no other one beats in every objective on validation. All scores are those on "
    "test, between 0 and 1, more is better; bars and small numbers are 95 % intervals (Wilson; "
    "the bar of the mean by the normal law). The mean is that of skills: measures of the model "
    "count if the recipe prefers them. The chosen point has the best on validation, by what "
    "the search saw (the probability of the right choice, where it is the objective's signal), "
    "the knee the best trade-off there. Base, experts and textbook merges answered the same "
    "items. Nondominated: how probable it is, by items drawn anew, that no other point of the "
    "table beats this one in every objective."
)


def write(run: Run) -> Path:
    """Write report.html into the run's folder; raises Unconfirmed before there is a front."""
    from evomerge import __version__

    name = run.recipe["name"]
    page = _PAGE.substitute(
        title=_safe(f"{name}: front of merged models"), style=style.CSS, plotly=get_plotlyjs(),
        description=_safe(run.recipe["description"]), claim=_claim(run), notes=_notes(run),
        reading=_READING, front_table=_front_table(run), further=_further(run),
        against=_against(run), kept=_kept(run),
        chosen=_safe(run.chosen.label), summary=_summary(run), commands=_commands(run),
        front_plot=style.embedded(plots.front(run), "front"),
        genome_plot=style.embedded(plots.genome(run), "genome"),
        optimism_plot=style.embedded(plots.optimism(run), "optimism"),
        progress_plot=style.embedded(plots.progress(run), "progress"), version=__version__,
    )  # fmt: skip
    path = run.folder / NAME
    atomic_text(path, page)
    return path


def _safe(text: object) -> str:
    return html.escape(str(text))


def _claim(run: Run) -> str:
    """The one sentence that the run may say of itself."""
    chosen = run.chosen
    name = f"The chosen merge <b>{_safe(chosen.label)}</b>"
    if reason := remarks.untested(run):
        return f"{name} could not be scored on test, so nothing is claimed: {_safe(reason)}."
    rows = {row["baseline"]: row for row in run.comparisons()}
    if not rows:
        return f"{name} scores {chosen.mean('test'):.3f} on test, where no baseline has a score."
    best = max(run.baselines, key=lambda p: p.mean("test") if p.label in rows else -1)
    row = rows[best.label]
    looks = run.looks
    times = "once" if looks == 1 else f"{looks} times, so it is no longer quite fresh"
    counted = sum(map(bool, chosen.weights or run.objectives))
    over = f"over {counted} objectives " if counted > 1 else ""
    scores = f"{name} scores {chosen.mean('test'):.3f} {over}on {chosen.counted('test', 'test ')}"
    theirs = f"{_safe(best.label)} with {best.mean('test'):.3f}"
    difference = f"difference {row['difference']:+.3f}"
    ends = f"It was chosen on validation; the test items were looked at {times}."
    if math.isnan(row["p_holm"]):
        return (
            f"{scores}, the best baseline is {theirs}: {difference}; a score of few items, or of "
            f"one number, does not say whether it is chance. {ends}"
        )
    verdict = "not distinguishable from"
    if row["p_holm"] < 0.05:
        verdict = "better than" if row["difference"] > 0 else "worse than"
    return (
        f"{scores} and is <b>{verdict}</b> the best baseline on these items, {theirs}: "
        f"{difference} (95 % paired interval {spread(row['low'], row['high'])}; "
        f"p {_safe(shown(row['p_holm']))}, adjusted for {len(rows)} baselines). {ends}"
    )


def _notes(run: Run) -> str:
    notes = "".join(f"<li>{_safe(note)}</li>" for note in remarks.of(run))
    return f"<h2>Notes</h2><ul>{notes}</ul>" if notes else ""


def _front_table(run: Run) -> str:
    head = "".join(f'<th class="name">{_safe(name)}</th>' for name in run.objectives)
    kinds = (
        ("Front, best mean score on validation first", list(run.front)),
        ("Baselines", list(run.baselines)),
    )
    body = ""
    for title, points in kinds:
        body += f'<tr class="kind"><th colspan="{len(run.objectives) + 3}">{title}</th></tr>'
        body += "".join(_row(run, point) for point in points)
    head = f"<th>point</th>{head}<th>mean</th><th>nondominated</th>"
    return f"<table><thead><tr>{head}</tr></thead>{body}</table>"


def _row(run: Run, point: Point) -> str:
    words = {"chosen": " ★ chosen", "knee": " knee"}
    kind = run.kind(point)
    word = " ★ chosen, knee" if point.chosen and run.knee.chosen else words.get(kind, "")
    cells = _cells(point, len(run.objectives))
    style, mean = ' class="chosen"' if point.chosen else "", point.mean("test")
    cells += f"<td><b>{score(mean)}</b></td><td>{run.front.stays(point)}</td>"
    return f"<tr{style}><td>{_safe(point.label)}{word}</td>{cells}</tr>"


def _cells(point: Point, objectives: int) -> str:
    parts = (point.text(i).partition(" ") for i in range(objectives))
    return "".join(
        f"<td>{mean}<br><small>{interval.strip('()')}</small></td>" for mean, _, interval in parts
    )


def _further(run: Run) -> str:
    """What was scored after the search, on banks that it did not have."""
    found = run.further
    head = "".join(f'<th class="name">{_safe(n)}</th>' for n in ("point", *found.objectives))
    rows = "".join(
        f"<tr class='{'chosen' if point.chosen else ''}'><td>{_safe(point.label)}</td>"
        f"{_cells(point, len(found.objectives))}</tr>"
        for point in found
    )
    table = f'<div class="wide"><table><thead><tr>{head}</tr></thead>{rows}</table></div>'
    return f"<h2>Further banks, scored afterwards</h2>{table}" if rows else ""


def _against(run: Run) -> str:
    rows = "".join(
        f"<tr><td>{_safe(named(row))}</td><td>{row['difference']:+.3f}</td>"
        f"<td>{spread(row['low'], row['high'])}</td>"
        f"<td>{_safe(shown(row['p_holm']))}</td></tr>"
        for row in run.comparisons()
    )
    return _table(("baseline", "difference", "95 % interval", "p (Holm)"), rows)


def _kept(run: Run) -> str:
    """What the chosen point had to keep, and whether it does; nothing without such a wish."""
    rows = "".join(
        f"<tr><td>{_safe(row['keep'])}</td><td>{_safe(row['wanted'])}</td>"
        f"<td>{row['mean']:+.3f}</td><td>{row['low']:+.3f}</td><td>{score(row['test'])}</td></tr>"
        for row in run.kept()
    )
    if not rows:
        return ""
    return f"<h2>What it had to keep</h2>{_table(KEPT, rows)}"


def _table(head: Sequence[str], rows: str) -> str:
    cells = "".join(f"<th>{name}</th>" for name in head)
    return f"<table><thead><tr>{cells}</tr></thead>{rows}</table>"


def _summary(run: Run) -> str:
    recipe, spent = run.recipe, run.spent()
    chosen = run.chosen.scores
    items = "; ".join(
        f"{name}: " + ", ".join(f"{len(chosen[split][i])} {split}" for split in chosen)
        for i, name in enumerate(run.objectives)
    )
    strategy = recipe["strategy"]
    budget = f"{spent['candidates']:,} candidates, {spent['items']:,} answers of theirs, "
    facts = {
        "base": recipe["base"],
        "experts": ", ".join(f"{name} ({path})" for name, path in recipe["experts"].items()),
        "operator": recipe["operator"],
        "genes": f"{run.n_genes}, {_plain(recipe['space'])}",
        "strategy": strategy["name"] + _options(strategy),
        "budget used": budget + _duration(spent["seconds"]),
        "items of the chosen point": items,
        "fidelity": _plain(Fidelity(**recipe["fidelity"]).identity()),
        **{key: recipe[key] for key in ("prefer", "seeds") if recipe.get(key)},
        "seed, dtype": f"{recipe['seed']}, {recipe['dtype']}",
        "folder": run.folder.absolute(),
    }
    rows = "".join(
        f"<dt>{key}</dt><dd>{_safe(_plain(value))}</dd>" for key, value in facts.items()
    )
    return f"<dl>{rows}</dl>"


def _options(named: dict[str, Any]) -> str:
    rest = {key: value for key, value in named.items() if key != "name"}
    return f" ({_plain(rest)})" if rest else ""


def _plain(value: Any) -> str:
    """JSON as a person would write it, without what is empty."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if item not in (None, {}, [], ())}
        return ", ".join(f"{key} {_plain(item)}" for key, item in kept.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_plain(item) for item in value) + "]"
    return str(value)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _commands(run: Run) -> str:
    folder = shlex.quote(str(run.folder))
    more = 2 * run.spent()["candidates"]
    lines = [
        "# save the chosen point as an ordinary model folder, or any other point by its label",
        f"evomerge export {folder} best -o merged",
        f"evomerge export {folder} {shlex.quote(run.knee.label)} -o merged-{run.knee.label}",
        "# go on from where it stands, with the same recipe and a larger budget",
        f"evomerge search RECIPE -o {folder} --budget {more}",
    ]
    return f"<pre>{_safe(chr(10).join(lines))}</pre>"
