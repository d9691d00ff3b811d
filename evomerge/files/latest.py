"""What a confirmation has to come after, by the events of a ledger."""

from __future__ import annotations

from evomerge.files.ledger import Ledger


def changed(ledger: Ledger) -> int:
    """The number of the latest event by which plans or questions may be others than before, or 0;
    other libraries leave both as they were."""
    events = ledger.events("changed")
    touching = (e for e in events if any(not line.startswith("libraries.") for line in e.body))
    return max((event.number for event in touching), default=0)


def known(ledger: Ledger) -> int:
    """The number of the latest event after which a search has to confirm what it found, or 0."""
    return max(ledger.at("ask", "tell"), changed(ledger))
