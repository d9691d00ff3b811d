"""What to know beside a run's numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evomerge.run import Run

FEW = 10
"""With fewer items on which two plans differ, intervals of the difference cover less than 94 %."""


def untested(run: Run) -> str:
    """Why the chosen point has no scores on `test`; empty where it has."""
    if run.chosen.label in run.front.tested.points:
        return ""
    return run.failures().get(run.chosen.key, "it has not answered")


def of(run: Run) -> list[str]:
    """What to know beside the numbers: a result not new, useless experts, failures."""
    found = list(run.contamination)
    found += [
        f"{run.chosen.label} and '{row['baseline']}' score otherwise on {count} of the test "
        "items: too few for their interval and p-value to hold."
        if count
        else f"{run.chosen.label} scores the same as '{row['baseline']}' on every test item."
        for row, count in ((row, row["items_that_differ"]) for row in run.comparisons())
        if not count or (count < FEW and row["low"] == row["low"])
    ]
    found += [f"{line[0].upper()}{line[1:]}." for line in [*run.odd, *run.fallbacks]]
    named = {**run.confirmed["baselines"], **run.asked()}
    labels = {key: label for label, key in reversed(named.items())}
    reasons: dict[str, list[str]] = {}
    baselines = {point.key for point in run.baselines}  # first, as they lack in the table
    for key, reason in sorted(run.failures().items(), key=lambda pair: pair[0] not in baselines):
        reasons.setdefault(reason, []).append(labels.get(key, key[:12]))
    for reason, failed in reasons.items():
        some = ", ".join(failed[:5]) + (", ..." if len(failed) > 5 else "")
        found.append(f"{len(failed)} failed ({some}): {reason}")
    return found
