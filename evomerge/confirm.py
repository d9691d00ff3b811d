"""What frames a search: sanity and anchors before it; baselines, confirmation and test after it.

Answers to `validation` and `test` never reach a strategy. The shortlist is ranked on
`validation`, the one point that is claimed is chosen there, and `test` is only reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from evomerge import ancestry, errors, plugins, sanity
from evomerge.answers import Answers
from evomerge.blocks import places
from evomerge.candidates import Candidate, best_of_front
from evomerge.constraints import Constraints, Margin
from evomerge.desk import Desk
from evomerge.estimation import is_skill
from evomerge.files import latest
from evomerge.files.ledger import Ledger
from evomerge.maths import pareto
from evomerge.objectives import Anchor, Losses, anchor, exact_anchor
from evomerge.pace import Pace
from evomerge.plan import Plan, Template
from evomerge.plugins import Strategy
from evomerge.recipe import Problem

Report = Callable[[str, Mapping[str, Any]], None]

COEFFICIENTS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5)
"""Global coefficients of the baseline task arithmetic: small ones belong there, or any search
would look good."""

SAFETY, REPORTED = 1.25, 2.0
"""How much longer than expected a confirmation may take, and seconds for the report after it."""


def endpoints(problem: Problem) -> dict[str, Plan]:
    """Plans that are the base and the experts themselves, by label; the base first."""
    frame = problem.template
    inputs = {"base": frame.base, **{f"expert {item.name}": item for item in frame.experts}}
    return {
        label: Plan(
            base=item, layers=frame.layers, dtype=frame.dtype, seed=frame.seed,
            vocabulary=frame.vocabulary,
        )
        for label, item in inputs.items()
    }  # fmt: skip


def undivided(problem: Problem, operator: str) -> Template:
    """The frame of an operator whose genes are the same for all layers."""
    layers = problem.template.layers.model_copy(update={"blocks": 1, "roles": ()})
    groups = tuple(dict.fromkeys(layers.groups(problem.inputs.sources[0].tensors).values()))
    return replace(problem.template, layers=layers, groups=groups, operators=(operator,))


def textbook(problem: Problem, operator: str, weight: float | None = None) -> Plan:
    """An operator at its defaults, with one global `weight`, whatever the recipe searches."""
    frame = undivided(problem, operator)
    weights = {g.key: weight for g in frame.genes() if g.name == "weight" and weight is not None}
    return frame.plan(weights)


def freeze_anchors(problem: Problem, desk: Desk, report: Report) -> Losses:
    """Have base and experts answer all `search` items; freeze anchors; point out what is odd.

    Frozen once: inputs that have changed since do not move them.
    """
    report("stage", {"name": "sanity"})
    answers = desk.answers
    descent = answers.ledger.meta("ancestry") or problem.inputs.ancestry
    answers.ledger.set_meta("ancestry", descent)
    for line in ancestry.refuse(descent, problem.recipe.allow_mismatch):
        report("note", {"text": line})
    # What a run was once selected on, it stays selected on, whatever the bank says now
    before = answers.ledger.meta("contamination") or {}
    answers.ledger.set_meta("contamination", {**before, **problem.contamination()})
    plans = endpoints(problem)
    # Without them there is no search; what was wrong may have been put right since.
    answers.retry(plan.key for plan in plans.values())
    desk.answer(
        plans.values(), answers.places("search"), lambda r: report("answered", {"result": r})
    )
    _require_answers(plans, answers)
    _point_out(plans, answers, report)
    frozen = answers.ledger.last("anchors")
    if frozen is None:
        frozen = Losses(_anchors(problem, plans, answers), problem.signals).to_json()
        answers.ledger.append("anchors", frozen)
    return Losses({name: Anchor(**frozen[name]) for name in problem.objectives}, problem.signals)


def _anchors(problem: Problem, plans: Mapping[str, Plan], answers: Answers) -> dict[str, Anchor]:
    found = {}
    for name in problem.objectives:
        base, *experts = (
            answers.column(plan.key, name, answers.places("search"), problem.signals[name])
            for plan in plans.values()
        )
        scorer = problem.banks[name].scorer
        made = exact_anchor if plugins.is_structural(scorer) else anchor
        found[name] = replace(made(base, experts), skill=is_skill(scorer))
    return found


def _require_answers(plans: Mapping[str, Plan], answers: Answers) -> None:
    for name, plan in plans.items():
        if plan.key in answers.failures:
            raise errors.InputError(f"{name} can not be scored: {answers.failures[plan.key]}")


def _point_out(plans: Mapping[str, Plan], answers: Answers, report: Report) -> None:
    found = sanity.of(answers, plans, answers.places("search"))
    lines = [line for row in found.values() for line in row["remarks"]]
    answers.ledger.set_meta("odd", lines)
    for line in lines:
        report("note", {"text": line})


def standing(problem: Problem, plan: Plan) -> bool:
    """Whether a plan of before can still be built: its inputs and operators are those of now."""
    here = {item.sha256 for item in problem.inputs.inputs}
    frame = problem.template.vocabulary
    here |= {frame.sha256} if frame is not None else set()
    versions = {s.operator: s.version for s in plan.groups.values()}
    return here.issuperset(plan.identities()) and all(
        version == plugins.load("operator", name).VERSION for name, version in versions.items()
    )


def shortlist(
    problem: Problem,
    strategy: Strategy,
    candidates: Iterable[Candidate],
    plan: Callable[[Candidate], Plan],
    weights: Sequence[float],
    ledger: Ledger,
) -> dict[str, Plan]:
    """Label -> plan of what is confirmed: the strategy's incumbents, then of the front, of which
    one is there in any case: the search has scored it.

    `weights` (M,) of objectives in the mean by which one point will be chosen.
    """
    found: dict[str, Plan] = {}
    for i, point in enumerate(strategy.incumbents()[: problem.recipe.shortlist - 1]):
        found[f"m{i}"] = problem.plan(problem.space.canonical(np.asarray(point)))
    told = [c for c in candidates if c.losses is not None]
    room = problem.recipe.shortlist - len(found)
    with _recorded(ledger):
        best = best_of_front(told, room, weights, fill=bool(problem.recipe.keep))
    found |= {f"c{c.id}": plan(c) for c in best}
    unique = {plan.key: label for label, plan in found.items()}
    return {label: plan for label, plan in found.items() if unique[plan.key] == label}


def seconds(problem: Problem, pace: Pace, workers: int, incumbents: int = 0) -> float:
    """What confirming a full shortlist may take, by what jobs have taken so far.

    Of the `incumbents` that a strategy has, those of the shortlist answer `search` first; whose
    score is not to be lost is a plan of its own on `validation`.
    """
    recipe = problem.recipe
    picked = recipe.shortlist
    others = {one.of for one in recipe.keep.values() if one.within is not None}
    plans = {
        "search": min(incumbents, picked - 1),
        "validation": len(COEFFICIENTS) + picked + len(others),
        "test": len(problem.experts) + 4 + picked,
    }
    jobs = 0.0
    for split, n in plans.items():
        items = recipe.fidelity.items if split == "search" else None
        jobs += -(-n // workers) * pace.of(places(problem.banks, split, recipe.batch, items))
    return SAFETY * jobs + REPORTED


def confirm(
    problem: Problem, desk: Desk, losses: Losses, shortlist: Mapping[str, Plan], report: Report
) -> None:
    """Rank on `validation`, choose, score on `test`; record who is in the front."""
    answers = desk.answers

    def told(result: Any) -> None:
        report("answered", {"result": result})

    report("stage", {"name": "validation"})
    scan = {c: textbook(problem, "task_arithmetic", c) for c in COEFFICIENTS}
    constraints = Constraints(problem.recipe.keep, answers, endpoints(problem))
    ranked = [*scan.values(), *shortlist.values(), *constraints.others.values()]
    desk.answer(ranked, answers.places("validation"), told)
    weights = losses.weights(problem.recipe.prefer)
    with _recorded(answers.ledger):
        kept = constraints.kept(_complete(answers, shortlist), "validation")
        listed = {label: shortlist[label] for label in kept}
        front, chosen = _ranked(answers, losses, listed, weights)
    baselines = _baselines(problem, answers, scan, weights)
    report("stage", {"name": "test"})
    tested = [*baselines.values(), *(shortlist[label] for label in front)]
    desk.answer(tested, answers.places("test"), told)
    before = ("confirmed", "seeds")  # the run that seeds are from has looked at `test` too
    previous = next(filter(None, map(answers.ledger.last, before)), {"looks": 0})
    found = {
        "candidates": _candidates(answers),
        "shortlist": {label: plan.key for label, plan in shortlist.items()},
        "front": front,
        "chosen": chosen,
        "baselines": {label: plan.key for label, plan in baselines.items()},
        "looks": previous["looks"] + 1,
    }
    if problem.recipe.keep:
        found["kept"] = {label: _plain(kept[label]) for label in front}
    answers.ledger.append("confirmed", found)
    report("confirmed", found)


@contextmanager
def _recorded(ledger: Ledger) -> Iterator[None]:
    """Who looks at the run later is told why nothing is confirmed; once, however often it ends."""
    try:
        yield
    except errors.Unconfirmed as error:
        if ledger.at("unconfirmed") <= latest.known(ledger):
            ledger.append("unconfirmed", {"reason": str(error)})
        raise


def _complete(answers: Answers, shortlist: Mapping[str, Plan]) -> dict[str, Plan]:
    return {
        label: plan
        for label, plan in shortlist.items()
        if answers.split(plan.key, "validation") is not None
    }


def _baselines(
    problem: Problem, answers: Answers, scan: Mapping[float, Plan], weights: Sequence[float]
) -> dict[str, Plan]:
    means = {c: _means(answers, scan[c], "validation", problem.objectives) for c in scan}
    best = max(scan, key=lambda c: float(np.average(means[c], weights=weights)))
    return {
        **endpoints(problem),
        "uniform mean": textbook(problem, "linear"),
        f"task arithmetic {best:g}": scan[best],
        "TIES": textbook(problem, "ties"),
    }


def _ranked(
    answers: Answers, losses: Losses, shortlist: Mapping[str, Plan], weights: Sequence[float]
) -> tuple[list[str], str]:
    """Labels that are nondominated on `validation`, and of these that with the best weighted mean.

    Both by what the search saw of each objective: a probability ranks with less noise than 0 or 1.
    """
    places = answers.places("validation")
    ranked = {label: losses.seen(answers, plan.key, places) for label, plan in shortlist.items()}
    if not ranked:
        raise errors.Unconfirmed("no candidate of the shortlist could be scored on validation")
    kept = pareto.nondominated(np.array([losses.of_scores(seen) for seen in ranked.values()]))
    front = [label for label, is_kept in zip(ranked, kept, strict=True) if is_kept]
    means = {label: float(np.average(s, weights=weights)) for label, s in ranked.items()}
    return front, max(front, key=lambda label: means[label])


def _means(answers: Answers, plan: Plan, split: str, objectives: Sequence[str]) -> list[float]:
    """Mean scores (M,) on a split; -1 for who has failed there."""
    columns = answers.split(plan.key, split, objectives)
    return (
        [-1.0] * len(objectives)
        if columns is None
        else [float(column.mean()) for column in columns]
    )


def _plain(margins: Mapping[str, Margin]) -> dict[str, dict[str, float]]:
    return {name: asdict(margin) for name, margin in margins.items()}


def _candidates(answers: Answers) -> int:
    asked = answers.ledger.events("ask")
    return len({row["id"] for event in asked for row in event.body["proposals"]})
