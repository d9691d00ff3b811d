"""Texts that are nearly the same, by the short pieces that they have in common.

Similarity is the weighted Jaccard index of the sets of pieces (Broder 1997, On the resemblance
and containment of documents), a piece in few texts weighing more than one in many.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from scipy import sparse

WIDTH = 5
"""Characters of a piece."""
COMMON = (20, 0.05)
"""Pieces of more texts than the larger of this number and this share are those of a template."""
ROWS = 512


def normalized(text: str) -> str:
    """The text without case, and one blank for blanks and for the marks of sentences.

    Signs such as + and < stay: what differs in them alone is another question.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"[\s.,;:!?'\"`]+", " ", plain).strip()


def near_duplicates(
    texts: Sequence[str], groups: Sequence[Hashable], threshold: float = 0.8
) -> list[tuple[int, int, float]]:
    """Pairs (i, j) with i < j, of two groups, that are `threshold` similar or more, in [0, 1].

    The most similar come first; 1 is for what is equal once `normalized`.
    """
    plain = [normalized(text) for text in texts]
    found = {}
    for i, j, similarity in _similar(plain):
        if groups[i] != groups[j] and (similarity >= threshold or plain[i] == plain[j]):
            found[i, j] = 1.0 if plain[i] == plain[j] else similarity
    return sorted(((*pair, s) for pair, s in found.items()), key=lambda row: (-row[2], row[:2]))


def _similar(texts: Sequence[str]) -> Iterator[tuple[int, int, float]]:
    """Pairs that share a piece, and how similar they are."""
    pieces = [_pieces(text) for text in texts]
    counts = Counter(piece for own in pieces for piece in own)
    most = max(COMMON[0], COMMON[1] * len(texts))
    whole = set(texts)
    telling = [piece for piece, n in counts.items() if n <= most or piece in whole]
    columns = {piece: column for column, piece in enumerate(telling)}
    weight = np.sqrt(np.log1p(len(texts)) - np.log([counts[piece] for piece in telling]))
    kept = [[columns[piece] for piece in own if piece in columns] for own in pieces]
    index = np.array([column for row in kept for column in row], dtype=np.int64)
    ends = np.cumsum([0, *map(len, kept)])
    matrix = sparse.csr_array((weight[index], index, ends), shape=(len(texts), len(columns)))
    sizes = matrix.power(2).sum(1)
    for first in range(0, len(texts), ROWS):
        shared = (matrix[first : first + ROWS] @ matrix.T).tocoo()
        i, j = shared.coords[0] + first, shared.coords[1]
        similarity = shared.data / (sizes[i] + sizes[j] - shared.data)
        upper = i < j
        yield from zip(
            i[upper].tolist(), j[upper].tolist(), similarity[upper].tolist(), strict=True
        )


def _pieces(text: str) -> set[str]:
    """All runs of WIDTH characters, and the whole text, so that equal texts always share one."""
    return {text, *(text[i : i + WIDTH] for i in range(len(text) - WIDTH + 1))}
