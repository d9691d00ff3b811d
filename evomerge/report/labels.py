"""Where labels of points go: beside their point, and nowhere on another point or label."""

from __future__ import annotations

from collections.abc import Sequence

SIDES = {
    "top right": (1, 1),
    "top left": (-1, 1),
    "bottom right": (1, -1),
    "bottom left": (-1, -1),
    "middle right": (1, 0),
    "middle left": (-1, 0),
    "top center": (0, 1),
    "bottom center": (0, -1),
}
"""plotly's names of the sides, as steps (right, up); corners first: error bars leave them free."""

LETTER, LINE, GAP, MARK, AIR = 6.8, 15.0, 7.0, 8.0, 6.0
"""Pixels: the width of a letter of 12 points, the height of its line, half a marker, half the
largest, and the room between two labels, which come closer or part when the window is wider."""

Box = tuple[float, float, float, float]


def cut(text: str, room: float) -> str:
    """A text as long as so many pixels hold; what it lacks is in its middle, as names of one kind
    begin, and often end, alike."""
    most = max(3, int(room / LETTER) - 1)
    if len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end]}…{text[-end:]}"


def place(
    points: Sequence[tuple[float, float]],
    labels: Sequence[str],
    ranges: tuple[Sequence[float], Sequence[float]],
    size: tuple[float, float],
) -> list[str]:
    """The side of each label, earlier ones first; empty where every side is taken. Points on one
    spot are one mark: their labels stand around it.

    `ranges` are those of the axes x and y, `size` the pixels they are drawn on.
    """
    spots = [
        tuple(
            round((value - low) / (high - low) * pixels, 1)
            for value, (low, high), pixels in zip(point, ranges, size, strict=True)
        )
        for point in points
    ]
    taken: list[Box] = [(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in spots]
    sides = []
    for spot, label in zip(spots, labels, strict=True):
        others = [box for k, box in enumerate(taken) if spots[k : k + 1] != [spot]]
        side, box = _first_free(spot, label, others, size)
        sides.append(side)
        if box is not None:
            taken.append(box)
    return sides


def _first_free(
    spot: tuple[float, ...], label: str, others: Sequence[Box], size: tuple[float, float]
) -> tuple[str, Box | None]:
    for side, step in SIDES.items():
        box = _box(spot, len(label) * LETTER, step)
        inside = box[0] >= 0 and box[1] >= 0 and box[2] <= size[0] and box[3] <= size[1]
        if inside and not any(_overlap(box, other) for other in others):
            return side, box
    return "", None


def _box(spot: tuple[float, ...], wide: float, step: tuple[int, int]) -> Box:
    left = spot[0] + (step[0] - 1) * wide / 2 + step[0] * GAP
    low = spot[1] + (step[1] - 1) * LINE / 2 + step[1] * GAP
    return left, low, left + wide, low + LINE


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] + AIR and b[0] < a[2] + AIR and a[1] < b[3] and b[1] < a[3]
