"""Points between two members of a front, made and scored when someone asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from evomerge import confirm, errors
from evomerge.answers import Answers
from evomerge.desk import Desk
from evomerge.files.ledger import Ledger
from evomerge.front import Point
from evomerge.pace import Pace
from evomerge.plan import Plan, nested
from evomerge.recipe import Problem, resolve
from evomerge.run import Run
from evomerge.session import pinned, require_same_scores
from evomerge.worker import Result


def interpolated(problem: Problem, first: Plan, second: Plan, share: float) -> Plan:
    """The plan whose weights are (1 - share) times those of the first and share times those of
    the second: a linear merge of two plans."""
    ends = (nested(first, "first"), nested(second, "second"))
    frame = replace(confirm.undivided(problem, "linear"), experts=ends)
    shares = {"first": 1 - share, "second": share}
    return frame.plan({gene.key: shares[gene.expert] for gene in frame.genes() if gene.expert})


def require_share(share: float) -> None:
    """Raise RecipeError for what is no way between two points."""
    if not 0 < share < 1:
        raise errors.RecipeError(f"at: expected a number between 0 and 1, got {share:g}")


def between(
    folder: str | Path,
    first: str,
    second: str,
    share: float = 0.5,
    *,
    told: Callable[[Result], None] = lambda result: None,
) -> Point:
    """Score a model on the way from one point of a run to another, on `validation` and `test`.

    `share` in (0, 1) is how far. The run remembers the point under its label,
    `first~second@share`, so that it can be exported; looking at `test` is counted. Raises
    RecipeError for an unknown point, for two that are one model, or where the recipe's inputs are
    not those of the run.
    """
    require_share(share)
    run = Run(folder)
    if run.point(first).key == run.point(second).key:
        raise errors.RecipeError(
            f"{run.folder}: {first} and {second} are the same model: nothing lies between them"
        )
    label = f"{run.point(first).label}~{run.point(second).label}@{share:g}"
    problem = _problem(run)
    plan = interpolated(problem, run.plan(first), run.plan(second), share)
    with _desk(run, problem) as desk:
        answers = desk.answers
        places = [*answers.places("validation"), *answers.places("test")]
        fresh = plan.key not in _looked_at(answers.ledger)
        answers.retry([plan.key])
        desk.answer([plan], places, told)
        if plan.key in answers.failures:
            raise errors.EvaluationError(f"{label}: {answers.failures[plan.key]}")
        if fresh or label not in run.between():
            body = {"label": label, "plan": plan.key, "looked": fresh}
            answers.ledger.append("between", body)
    return Run(folder).point(label)


def _looked_at(ledger: Ledger) -> set[str]:
    """Plans whose scores on `test` are counted as looked at. That they are there does not say so:
    a process may have died before it recorded the point."""
    found = {event.body["plan"] for event in ledger.events("between") if event.body["looked"]}
    for event in ledger.events("confirmed"):
        tested = (event.body["shortlist"][label] for label in event.body["front"])
        found |= {*event.body["baselines"].values(), *tested}
    return found


def _problem(run: Run) -> Problem:
    """What the run searched, where its recipe says all of it."""
    if lacking := [name for name in run.objectives if name not in run.recipe["objectives"]]:
        raise errors.RecipeError(
            f"{run.folder}: objective '{lacking[0]}' was given in Python and is not in the "
            "recipe: nothing new can be scored"
        )
    return resolve(run.recipe, pinned=pinned(run.folder))


@contextmanager
def _desk(run: Run, problem: Problem) -> Iterator[Desk]:
    """Where answers are given and recorded in a run; no other process writes there meanwhile."""
    with closing(Ledger(run.folder, write=True)) as ledger:
        require_same_scores(ledger, problem)
        answers = Answers(ledger, problem.setup)
        with closing(Desk(answers, ("inline", {}), Pace(answers.setup))) as desk:
            yield desk
