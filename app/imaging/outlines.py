"""Masks as outlines along the edges of their pixels: what they enclose is the mask, no more and no less.

Half-way between pixel centres, as most tools draw, an outline cuts corners, and through the centres it loses half a
pixel all around. Along the edges nothing is lost, and no centre is near the line, so that whoever fills it gets the
mask back.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from app.imaging.volume import Float64, Mask

#: Directions in the order of right turns, (rows, columns); the mask lies on the right-hand side of an edge.
_STEPS = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])
_RIGHT, _LEFT = 0, 2
#: Where an edge begins, seen from the first corner of the pixel on its right.
_STARTS = np.array([(0, 0), (0, 1), (1, 1), (1, 0)])
#: A channel leaves an edge here, far from the edges' ends and from the middle of the pixel.
_CHANNEL = 0.25

Ints = npt.NDArray[np.int64]


def outlines(mask: Mask) -> list[Float64]:
    """Closed outlines (n, 2) as (row, column) of a mask (rows, columns); pixel centres are whole numbers.

    Pixels that touch at a corner only have outlines of their own. A hole is joined to what is around it by a channel
    of no width (a keyhole), so that no outline lies within another: whichever rule a reader fills by, holes stay open.
    """
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    if not len(rows):
        return []
    box = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    chain = _Chain(box)
    chain.join_holes()
    offset = np.array([rows[0], columns[0]]) - 1.5
    return [points + offset for points in chain.loops()]


class _Chain:
    """The edges of a padded mask, each with the one that follows it; nodes are the points where edges begin."""

    def __init__(self, box: Mask) -> None:
        self._box = box
        self._starts, self._directions = _edges(box)
        self._next: list[int] = self._successors().tolist()
        self._points: list[tuple[float, float]] = [(float(r), float(c)) for r, c in self._starts]

    def join_holes(self) -> None:
        """Open a channel from each hole upwards to the loop above it."""
        above = {(int(r), int(c)): n for n, (r, c) in enumerate(self._starts) if self._directions[n] == _RIGHT}
        for node in self._tops():
            if self._directions[node] != _LEFT:
                continue  # an outer loop
            row, column = (int(value) for value in self._starts[node])
            column -= 1  # of the pixel above the hole; its edge runs from right to left
            end = row - 1
            while self._box[end - 1, column]:
                end -= 1
            self._connect(above[end, column], node, column + _CHANNEL)

    def loops(self) -> list[Float64]:
        """The points of each loop, without those on a straight line."""
        found, seen = [], [False] * len(self._next)
        for first in range(len(self._starts)):
            if seen[first]:
                continue
            loop, node = [], first
            while not seen[node]:
                seen[node] = True
                loop.append(self._points[node])
                node = self._next[node]
            found.append(_corners(np.array(loop)))
        return found

    def _successors(self) -> Ints:
        """At the end of each edge turn right if possible, else go straight on, else turn left."""
        number = np.full((*self._box.shape, 4), -1)
        number[(*self._starts.T, self._directions)] = np.arange(len(self._starts))
        row, column = (self._starts + _STEPS[self._directions]).T
        right, ahead, left = (number[row, column, (self._directions + turn) % 4] for turn in (1, 0, 3))
        following: Ints = np.where(right >= 0, right, np.where(ahead >= 0, ahead, left))
        return following

    def _tops(self) -> list[int]:
        """The node of a topmost horizontal edge of each loop, from top to bottom."""
        tops, seen = [], [False] * len(self._next)
        # From top to bottom: the first horizontal edge that is met of a loop is one of its topmost.
        for first in np.lexsort((self._starts[:, 1], self._starts[:, 0])).tolist():
            if seen[first] or self._directions[first] not in (_RIGHT, _LEFT):
                continue
            tops.append(first)
            node = first
            while not seen[node]:
                seen[node] = True
                node = self._next[node]
        return tops

    def _connect(self, upper: int, lower: int, column: float) -> None:
        """Go from edge `upper` down to edge `lower`, round its loop, and up again."""
        top, bottom = self._points[upper][0], self._points[lower][0]
        down, arrived, back, up = range(len(self._points), len(self._points) + 4)
        self._points += [(top, column), (bottom, column), (bottom, column), (top, column)]
        self._next += [arrived, self._next[lower], up, self._next[upper]]
        self._next[upper], self._next[lower] = down, back


def _edges(box: Mask) -> tuple[Ints, Ints]:
    """Where the edges of a padded mask begin (n, 2), and their directions (n,)."""
    starts, directions = [], []
    for direction, (row, column) in enumerate(_STEPS):
        # The pixel on the left-hand side of the edge is the one against the next right turn.
        beside = np.roll(box, (column, -row), axis=(0, 1))
        found = np.argwhere(box & ~beside) + _STARTS[direction]
        starts.append(found)
        directions.append(np.full(len(found), direction))
    return np.concatenate(starts), np.concatenate(directions)


def _corners(points: Float64) -> Float64:
    """Without the points at which a closed line goes straight on."""
    steps = np.sign(np.roll(points, -1, axis=0) - points)
    kept: Float64 = points[(steps != np.roll(steps, 1, axis=0)).any(axis=1)]
    return kept
