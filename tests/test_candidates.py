"""What is known of candidates is the same whether they are objects or rows of numbers."""

import gc
import tracemalloc
from dataclasses import replace
from hashlib import sha256

import pytest

from evomerge.candidates import Candidate, Candidates
from evomerge.files.ledger import Ledger

PLACES = ([("one", "search", 0)], [("one", "search", 0), ("two", "search", ("a", "b"))])
POINT = (0.1, 1 / 3, 1.0)


@pytest.fixture
def ledger(tmp_path):
    opened = Ledger(tmp_path, write=True)
    yield opened
    opened.close()


def candidate(id, **facts):
    return Candidate(id, POINT, sha256(str(id).encode()).hexdigest(), PLACES[id % 2], **facts)


FACTS = [
    {"losses": (0.1 + 0.2, -1e-300), "errors": (0.0, 5e-324), "items": 40},
    {"losses": (1 / 3, 2.0), "errors": (0.5, 0.25), "items": 7, "asked": 0, "whole": True},
    {"failed": True, "asked": 25},
    {"losses": (1.2, 1.2), "errors": (0.5, 0.5), "items": 3, "lacks": 1 / 11, "keeps": 0.1},
    {"failed": True, "losses": (1.0, 2.0), "errors": (0.5, 0.5), "items": 3},
    {},
]


@pytest.mark.parametrize("facts", FACTS)
@pytest.mark.parametrize("id", [0, 1, 7, 10**12])
def test_a_settled_candidate_is_what_it_was(ledger, id, facts):
    found = Candidates(ledger, 2)
    one = candidate(id, **facts)
    found.add(one)
    assert found[id] is one and list(found.outstanding) == [id]
    event = ledger.append("ask", {"proposals": [{"id": id, "point": POINT}]})
    found.recorded([one], event)
    found.settle(one)
    again = found[id]
    assert not found.outstanding and found.told == one.told
    assert again is not one and again == replace(one, point=None, event=event)
    assert found.point(again) == POINT
    kept = one.losses and not one.lacks  # who lacks something has losses of a penalty
    assert found.losses.tolist() == ([list(one.losses)] if kept else [])


def test_they_stay_in_the_order_in_which_they_came(ledger):
    """Beside a plain dictionary, with ids that are not their numbers, told once and again."""
    found, plain = Candidates(ledger, 2), {}
    for n in range(211):
        id = n if n % 3 else 1000 - n
        plain[id] = candidate(id, event=1)
        found.add(replace(plain[id]))
        if n % 5:
            plain[id] = replace(plain[id], losses=(float(n), 1.0), errors=(0.0, 0.5), items=n)
            found.settle(replace(plain[id]))
        if n % 7 == 0:
            found.settle(replace(found[id], losses=(float(-n), 0.0), errors=(1.0, 1.0)))
            plain[id] = replace(plain[id], losses=(float(-n), 0.0), errors=(1.0, 1.0))
    seen = [replace(one, point=POINT) for one in found]
    assert seen == list(plain.values())
    assert [one.id for one in reversed(found)] == list(plain)[::-1]
    assert [one.id for one in found.by_id()] == sorted(plain)
    assert len(found) == len(plain) and found.get(5000) is None
    assert found.told == sum(one.told for one in plain.values())
    assert found.losses.tolist() == [list(c.losses) for c in plain.values() if c.losses]
    with pytest.raises(KeyError):
        found[-1]


@pytest.mark.slow
def test_ten_thousand_take_little_memory(ledger):
    found = Candidates(ledger, 2)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for id in range(10_000):
        one = candidate(id, event=1, losses=(0.5, 0.25), errors=(0.1, 0.1), items=50)
        found.add(one)
        found.settle(one)
    del one
    gc.collect()
    size = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert size / 10_000 < 150
