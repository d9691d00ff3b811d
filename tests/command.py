"""The command line as a user has it: in this process, or as one of its own."""

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import yaml

from evomerge import cli
from evomerge.budget import endings

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
PROGRAM = [sys.executable, "-m", "evomerge"]


def run(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    """Exit code, output and messages of `main()`; anything else that it raises is a failure."""
    monkeypatch.setattr(sys, "argv", ["evomerge", *map(str, arguments)])
    before = {number: signal.getsignal(number) for number in endings()}
    code = 0
    try:
        with warnings.catch_warnings():
            cli.main()
    except SystemExit as leaving:
        code = leaving.code or 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    return code, said.out, said.err


def write(folder: Path, recipe: dict[str, object]) -> Path:
    """A recipe as a file; keys that are None are left out."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in recipe.items() if v is not None}))
    return path


def start(*arguments, **options) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PROGRAM, *map(str, arguments)], env=ENVIRONMENT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in out + err
    assert "Warning" not in out + err
    return process.returncode, out, err
