"""The last result of the long tests as a page: what was run, how much of it, and what came out.

    python -m tests.nightly RESULTS.xml PAGE.md [ARGUMENTS OF PYTEST]

Reads what pytest writes with --junitxml. `make nightly` calls it.
"""

import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from evomerge.session import versions

AMOUNTS = {"EVOMERGE_KILLS": "3000", "EVOMERGE_EXAMPLES": "20000", "EVOMERGE_OFFSETS": "16"}
"""Variables that say how much is done, and their values where they are not set."""
LONG = 5.0
"""Seconds from which on a test has a row of its own."""


def amount(name: str) -> int:
    return int(os.environ.get(name, AMOUNTS[name]))


def rows(cases: list[ElementTree.Element]) -> list[str]:
    found = []
    for case in sorted(cases, key=lambda case: -float(case.get("time", 0))):
        state = next((c.tag for c in case if c.tag in ("failure", "error", "skipped")), "passed")
        told = [f"{p.get('name')} {p.get('value')}" for p in case.iter("property")]
        if state != "passed" or told or float(case.get("time", 0)) >= LONG:
            name = f"{case.get('classname')}.{case.get('name')}".removeprefix("tests.")
            seconds = float(case.get("time", 0))
            found.append(f"| `{name}` | {state} | {seconds:,.0f} | {', '.join(told)} |")
    return found


def page(cases: list[ElementTree.Element], arguments: list[str]) -> str:
    bad = sum(any(child.tag in ("failure", "error") for child in case) for case in cases)
    skipped = sum(any(child.tag == "skipped" for child in case) for case in cases)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    told = ", ".join(f"{name} {version}" for name, version in versions().items())
    amounts = " ".join(f"{name}={amount(name)}" for name in AMOUNTS)
    usual = " ".join(f"{name}={value}" for name, value in AMOUNTS.items())
    return "\n".join([
        f"# Long tests, {datetime.date.today()}\n",
        f"`{amounts} pytest {' '.join(arguments)}` at commit {commit.stdout.strip()[:12]}; "
        f"a full night is `{usual}`, all tests.\n",
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}; "
        f"{told}.\n",
        f"{len(cases)} tests: {len(cases) - bad - skipped} passed, {bad} failed, "
        f"{skipped} skipped.\n",
        "| test | result | seconds | amount |", "|---|---|---|---|", *rows(cases), "",
    ])  # fmt: skip


def main() -> None:
    cases = list(ElementTree.parse(sys.argv[1]).iter("testcase"))
    assert cases, "nothing was run"
    Path(sys.argv[2]).write_text(page(cases, sys.argv[3:]))
    print(sys.argv[2])


if __name__ == "__main__":
    main()
