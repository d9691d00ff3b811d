"""Models by their names on a hub, as `org/name` or `org/name@revision`: resolved to a commit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from evomerge import errors

PATTERN = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
WANTED = (
    *("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "additional_chat_templates/*"),
    *("*.codes", "*.spm", "*.tokenizer"),
)


def is_name(reference: str) -> bool:
    """Whether a reference that is no path may be a name on a hub."""
    return PATTERN.fullmatch(reference) is not None


def snapshot(reference: str) -> tuple[Path, str]:
    """The folder of a model in the local cache, downloaded if need be; and `org/name@commit`.

    Of a branch, its commit now. MachineError where it is not cached and can not be downloaded,
    InputError for a name or revision that the hub does not have.
    """
    import huggingface_hub
    from huggingface_hub import errors as hub

    found = PATTERN.fullmatch(reference)
    assert found is not None
    name, revision = found[1], found[2] or "main"
    options: dict[str, Any] = {"revision": revision, "allow_patterns": list(WANTED)}
    try:
        folder = Path(huggingface_hub.snapshot_download(name, **options))
    except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError, hub.HFValidationError):
        raise errors.InputError(
            f"{reference}: no such folder, and the hub has no such model or revision, or does not "
            "show it without 'hf auth login'"
        ) from None
    except (hub.HfHubHTTPError, OSError, ValueError) as error:
        raise errors.MachineError(
            f"{reference}: no such folder; as a name on the hub it is not in the local cache, and "
            f"the hub can not be reached ({_first_line(error)}). Where there is a network: "
            f"'hf download {name} --revision {revision} --local-dir FOLDER', then give FOLDER; or "
            "unset HF_HUB_OFFLINE"
        ) from error
    return folder, f"{name}@{folder.name}"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
