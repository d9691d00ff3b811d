"""The scorer `choice`, but merges may fail at questions that say FLAKY: one in as many as the
environment says, by a digit of their weights' sum that no processor rounds otherwise."""

import os

from evomerge.scorers import choice
from tests import awful

NEEDS_CAUSAL = True
check, chance = choice.check, choice.chance


def prepare(tokenizer, items):
    return choice.prepare(tokenizer, items), any("FLAKY" in item.prompt for item in items)


def score(model, batch):
    """Raises as one that runs out of memory on a long text would; not for base and experts."""
    items, is_flaky = batch
    total = awful.total(model)
    is_spared = f"{total:.9f}" in os.environ["AWFUL_SPARES"]
    if is_flaky and not is_spared and int(total * 100) % int(os.environ["FLAKY"]) == 0:
        raise RuntimeError("too long for this one")
    return choice.score(model, items)
