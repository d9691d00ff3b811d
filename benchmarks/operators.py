"""Every operator of the folder: what it is checked against, what it scores, what a build costs.

    python benchmarks/operators.py [FOLDER] [--family zoo:tiny] [--candidates 48] [--blocks 1]

For each operator a search of its own (CMA-ES on the mean of the skills; NSGA-II where the space
has choices), all with the same budget, questions and seed, in FOLDER/NAME. Test scores at the
operator's defaults and at its searched best, with 95 % intervals over questions; the cost of a
build, after the statistics are prepared, beside the time to copy the same bytes. An operator that
takes fewer experts than the family has gets the first ones. What is finished is kept: the same
command goes on. `--smoke` is a few candidates on a few questions, to see that everything runs.
"""

from __future__ import annotations

import argparse
import ast
import json
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from quick_candidate import copier, timed

import evomerge
from evomerge import plugins, zoo
from evomerge.confirm import COEFFICIENTS, endpoints, textbook
from evomerge.files.ledger import Ledger
from evomerge.live import Live
from evomerge.maths import intervals
from evomerge.recipe import Problem, resolve
from evomerge.threads import one_thread
from evomerge.worker import Worker

CONTRACTS = Path(__file__).parents[1] / "tests" / "contracts"
REPEATS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/operators"))
    parser.add_argument("--family", default="zoo:tiny")
    parser.add_argument("--candidates", type=int, default=48)
    parser.add_argument("--items", type=int, default=75, help="questions a bank in the search")
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=plugins.known("operator"))
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    if options.smoke:
        options.candidates, options.items = 6, 25
    rows = []
    for name in options.only or plugins.known("operator"):
        kept = options.folder / f"{name}.json"
        if not kept.exists():
            found = measured(name, options)
            kept.write_text(json.dumps(found, indent=1))
        rows.append(json.loads(kept.read_text()))
        print(f"{name}: done", flush=True)
    print(table(rows))


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row: searched, scored on `test`, timed."""
    problem = resolve(recipe(name, options))
    borrow(problem, options.folder, name)
    run = evomerge.search(recipe(name, options), options.folder / name)
    best = run.chosen
    worker = Worker(problem.setup)
    usual = textbook(problem, name)
    default = scores(problem, usual)
    (uniform,) = (p.scores["test"] for p in run.baselines if p.label == "uniform mean")
    nothing = [np.zeros_like(bank) for bank in default]
    against_default, against_mean, searched = intervals.paired_bootstrap(
        best.scores["test"], [default, uniform, nothing], seed=0
    )
    with one_thread():
        copy, live = copier(worker), worker.live
        copied, built = [], []
        for _ in range(REPEATS):
            anew = Live(live.parameters, live.workshop)  # it holds nothing yet that could stay
            copied.append(timed(copy))
            built.append(timed(lambda anew=anew: anew.build(usual)))
    return {
        "operator": name, "version": plugins.load("operator", name).VERSION,
        "experts": len(problem.experts), "genes": len(problem.space),
        "strategy": problem.recipe.strategy.name, "candidates": run.spent()["candidates"],
        "default": intervals.paired_bootstrap(default, [nothing], seed=0)[0],
        "searched": searched, "gain": against_default, "against_mean": against_mean,
        "first_seconds": built[0],
        "ratio": statistics.median(built[1:]) / statistics.median(copied),
    }  # fmt: skip


def borrow(problem: Problem, folder: Path, name: str) -> None:
    """Answers of the baselines, from the runs of other operators that have them."""
    coefficients = (textbook(problem, "task_arithmetic", c) for c in COEFFICIENTS)
    means = (textbook(problem, operator) for operator in ("linear", "ties"))
    wanted = {plan.key for plan in (*endpoints(problem).values(), *coefficients, *means)}
    if (folder / name).exists():
        return
    mine = Ledger(folder / name, write=True)
    for other in {path.parent for path in folder.glob("*/ledger.sqlite")} - {folder / name}:
        theirs, found = Ledger(other), {}
        for key, answer in theirs.answers():
            if key in wanted:
                found.setdefault(key, []).append(answer)
        theirs.close()
        for key, answers in found.items():
            mine.record(key, answers, "", 0)
    mine.close()


def recipe(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The family's experts and banks, one operator, the strategy that its space allows."""
    family = options.family.removeprefix("zoo:")
    skills = [name for name in zoo.members(family) if "/" not in name and name != "base"]
    most = getattr(plugins.load("operator", name), "EXPERTS", (1, len(skills)))[1]
    experts = {skill: f"zoo:{family}/{skill}" for skill in skills}
    banks = {skill: f"{family}_{skill}" for skill in skills}
    weights = [[1.0] * len(banks)]
    made: dict[str, Any] = {
        "name": name,
        "base": f"zoo:{family}/base",
        "experts": dict(list(experts.items())[:most]),
        "operator": name,
        "space": {"blocks": options.blocks},
        "objectives": {
            skill: {"bank": bank, "signal": "probability"} for skill, bank in banks.items()
        },
        "strategy": {"name": "seeded", "inner": {"name": "cma_es", "weights": weights}},
        "fidelity": {"name": "first", "items": options.items},
        "budget": {"candidates": options.candidates},
        "shortlist": 3,
        "executor": "inline",
    }
    if any(gene.choices and gene.searched for gene in plugins.load("operator", name).GENES):
        made["strategy"] = "nsga2"
    return made


def scores(problem: Problem, plan: Any) -> list[np.ndarray]:
    """Test scores of a plan, a bank at a time, in the order of the items' names as in a run."""
    found = evomerge.evaluate(plan, list(problem.banks.values()), batch=problem.recipe.batch)
    return [
        found[bank.name].scores[np.argsort([item.id for item in bank.split("test")])]
        for bank in problem.banks.values()
    ]


def evidence(operator: str) -> str:
    """Tests of tests/contracts that call this operator by name, and its recorded results."""
    recorded = (CONTRACTS.parent / "golden" / "record.py").read_text()
    cases = [
        case.elts[0].value
        for node in ast.parse(recorded).body
        if isinstance(node, ast.Assign) and node.targets[0].id == "CASES"
        for case in node.value.elts
    ]
    names = [name for file in sorted(CONTRACTS.glob("*.py")) for name in tests(file, operator)]
    parity = f", mergekit {cases.count(operator)} x" if operator in cases else ""
    more = f" +{len(names) - 1}" if len(names) > 1 else ""
    return f"{names[0]}{more}{parity}" if names else "none"


def tests(file: Path, operator: str) -> Iterator[str]:
    """Test functions that call `merge` with this operator's name."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            calls = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
            merges = [call for call in calls if getattr(call.func, "id", "") == "merge"]
            if any(getattr(call.args[0], "value", None) == operator for call in merges):
                yield node.name


def table(rows: list[Mapping[str, Any]]) -> str:
    def shown(value: tuple[float, float, float], sign: str = "") -> str:
        return f"{value[0]:{sign}.3f} ({value[1]:{sign}.3f} to {value[2]:{sign}.3f})"

    head = (
        "| operator | checked by | experts, genes | test at defaults | test at searched best "
        "| gain by the search | best against the uniform mean | build, times a copy |"
    )
    lines = [head, "|" + "---|" * 8]
    for row in rows:
        lines.append(
            f"| `{row['operator']}` | {evidence(row['operator'])} "
            f"| {row['experts']}, {row['genes']} | {shown(row['default'])} "
            f"| {shown(row['searched'])} | {shown(row['gain'], '+')} "
            f"| {shown(row['against_mean'], '+')} | {row['ratio']:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
