"""Search for the best way to merge fine-tuned language models.

>>> run = evomerge.search("recipes/quickstart.yaml")
>>> run.front, run.plot(), run.save("knee", "merged/")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["EvomergeError", "Plan", "Run", "compare", "evaluate", "merge", "search"]

if TYPE_CHECKING:
    from evomerge.api import evaluate, merge, search
    from evomerge.errors import EvomergeError
    from evomerge.plan import Plan
    from evomerge.run import Run
    from evomerge.similarity import compare

_HOMES = {
    "EvomergeError": "errors",
    "Plan": "plan",
    "Run": "run",
    "compare": "similarity",
    "evaluate": "api",
    "merge": "api",
    "search": "api",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used: `import evomerge` loads no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'evomerge' has no attribute '{name}'")
    return getattr(import_module(f"evomerge.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
