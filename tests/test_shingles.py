"""Near-duplicates: against the weighted Jaccard index written out, and where they must show."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.maths import shingles

words = st.text("ab c", min_size=0, max_size=12)


def jaccard(texts, i, j):
    """The definition, of sets, for few texts."""
    sets = [
        {t, *(t[k : k + 5] for k in range(len(t) - 4))} for t in map(shingles.normalized, texts)
    ]

    def weight(pieces):
        counts = [sum(piece in other for other in sets) for piece in pieces]
        return math.fsum(math.log((1 + len(texts)) / count) for count in counts)

    return weight(sets[i] & sets[j]) / weight(sets[i] | sets[j])


@given(st.lists(words, min_size=1, max_size=9), st.sampled_from([0.05, 0.3, 0.8]))
def test_pairs_are_those_of_the_definition(texts, threshold):
    found = {
        (i, j): s for i, j, s in shingles.near_duplicates(texts, range(len(texts)), threshold)
    }
    for i in range(len(texts)):
        for j in range(i + 1, len(texts)):
            expected = jaccard(texts, i, j)
            if abs(expected - threshold) > 1e-9:
                assert ((i, j) in found) == (expected > threshold)
            if (i, j) in found:
                assert found[i, j] == pytest.approx(expected)


def test_a_template_is_not_a_likeness():
    """Hundreds of questions that differ in two numbers, and one that is asked twice."""
    texts = [f"How many apples are {a} apples and {a * 37 % 101} more?" for a in range(100, 400)]
    groups = ["search", "validation", "test"] * 100
    assert shingles.near_duplicates(texts, groups) == []
    texts[7] = texts[200].upper().replace("?", " ?!")
    assert groups[7] != groups[200]
    assert shingles.near_duplicates(texts, groups) == [(7, 200, 1.0)]
    assert shingles.near_duplicates(texts, ["search"] * 300) == []


def test_signs_make_another_question():
    pairs = [("3 + 4", "3 - 4"), ("a < b", "a <= b"), ("x", "y")]
    for pair in pairs:
        assert shingles.near_duplicates(pair, ["search", "test"]) == []
    assert shingles.near_duplicates(["So, is it?", "so is IT"], [0, 1]) == [(0, 1, 1.0)]


def test_more_equal_texts_than_a_template_has():
    found = shingles.near_duplicates(["the same"] * 50, range(50))
    assert len(found) == 50 * 49 / 2 and {s for _, _, s in found} == {1.0}
