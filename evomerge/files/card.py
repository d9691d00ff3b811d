"""The model card of a merged model; fields: https://huggingface.co/docs/hub/model-cards."""

from __future__ import annotations

import html
import math
import re
import shlex
from collections.abc import Sequence
from pathlib import PureWindowsPath

import yaml

from evomerge.files import hub


def card(
    title: str,
    *,
    base: str,
    experts: Sequence[str],
    plan: str,
    scores: Sequence[tuple[str, float, float, float]] = (),
    command: str = "",
    notes: Sequence[str] = (),
    adapter: str = "",
) -> str:
    """A README.md: origin, key of the `plan`, `scores` (objective, score, 95 % low, high), and
    `notes`, what to know before the scores are believed. Of paths it has the last parts alone.

    `adapter` says, of one that is no whole model, what it leaves out.
    """
    base, experts = _named(base), [_named(expert) for expert in experts]
    if adapter:
        header = _header("peft", "adapter", [base])
    else:
        header = _header("transformers", "merge", [base, *experts])
    parts = [
        f"---\n{header}---\n",
        f"# {escape(title)}\n",
        f"A merge of {_sentence(experts)}, fine-tuned from {escape(base)}, found by evomerge.\n",
    ]
    if adapter:
        scored = " The scores are those of the whole merge, not of this." if scores else ""
        parts.append(f"**Note:** {escape(adapter)}{scored}\n")
    if scores:
        parts.append(_table(scores))
    parts += [f"**Note:** {escape(note)}\n" for note in notes]
    parts.append(f"Plan: `{plan}`\n")
    if command:
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", command)), default=0))
        parts.append(f"{fence}\n{_without_folders(command)}\n{fence}\n")
    return "\n".join(parts)


def _header(library: str, relation: str, models: Sequence[str]) -> str:
    front = {
        "library_name": library,
        "base_model": list(dict.fromkeys(map(_listed, models))),
        "base_model_relation": relation,
        "tags": ["merge", "evomerge"],
    }
    return yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=10**6)


def _listed(model: str) -> str:
    """Of a name on a hub without its commit, which a hub would not find."""
    return _one_line(model.partition("@")[0] if hub.is_name(model) else model)


def _table(scores: Sequence[tuple[str, float, float, float]]) -> str:
    rows = []
    for name, score, low, high in scores:
        interval = "-" if math.isnan(low) else f"{low:.3f} to {high:.3f}"
        rows.append(f"| {escape(name)} | {score:.3f} | {interval} |")
    return "\n".join(["| objective | score | 95 % interval |", "|---|---|---|", *rows, ""])


def escape(text: str) -> str:
    """Text as one line of markdown that shows it literally, with no HTML and no table cells."""
    line = html.escape(_one_line(text), quote=False)
    return re.sub(r"([\\`*_{}\[\]()#+!|~$])", r"\\\1", line)


def _named(reference: str) -> str:
    """A model as others may know it: a name as it is, of a folder on this machine its own."""
    known = hub.is_name(reference) and not reference.startswith(".")
    if known or reference.startswith("zoo:") or not set("/\\") & set(reference):
        return reference
    return PureWindowsPath(reference).name or "."  # which parts at slashes too


def _without_folders(command: str) -> str:
    words = shlex.split(command)
    # what follows the first `=` is the value of an option, or the model of a name
    named = ["=".join(map(_named, word.split("=", 1))) for word in words]
    return command if named == words else shlex.join(named)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _sentence(names: Sequence[str]) -> str:
    shown = [escape(name) for name in names]
    return " and ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]])) or "no experts"
