"""Outlines enclose the mask, whichever rule they are filled by, and nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.ndimage import label

from app.imaging.outlines import outlines

MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=9))


def windings(outline: np.ndarray, row: int, column: int) -> tuple[int, int]:
    """How often a line goes round the centre of a pixel, and how often a ray from there to the left meets it."""
    around = crossed = 0
    for (r0, c0), (r1, c1) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        if (r0 <= row) != (r1 <= row) and c0 + (row - r0) * (c1 - c0) / (r1 - r0) < column:
            around += 1 if r1 > r0 else -1
            crossed += 1
    return around, crossed


def filled(mask: np.ndarray, inside) -> np.ndarray:
    """In how many outlines of a mask each pixel lies, pixel by pixel, by a rule for `windings`."""
    lines = outlines(mask)
    return np.array(
        [
            [sum(bool(inside(*windings(line, r, c))) for line in lines) for c in range(mask.shape[1])]
            for r in range(mask.shape[0])
        ]
    ).reshape(mask.shape)


def area(outline: np.ndarray) -> float:
    rows, columns = outline.T
    return float(columns @ np.roll(rows, -1) - rows @ np.roll(columns, -1)) / 2


@settings(max_examples=100, deadline=None)
@given(MASKS)
def test_each_pixel_of_the_mask_is_in_one_outline_by_either_rule_and_no_other_in_any(mask):
    assert np.array_equal(filled(mask, lambda _, crossed: crossed % 2), mask)
    assert np.array_equal(filled(mask, lambda around, _: around != 0), mask)


@settings(max_examples=100, deadline=None)
@given(MASKS, st.integers(0, 3), st.integers(0, 3))
def test_the_area_within_is_that_of_the_pixels_wherever_they_lie(mask, rows, columns):
    moved = np.pad(mask, ((rows, 0), (columns, 1)))
    assert sum(area(line) for line in outlines(moved)) == mask.sum()
    assert all(area(line) > 0 for line in outlines(moved))  # all the same way round


@settings(max_examples=100, deadline=None)
@given(MASKS)
def test_there_is_one_outline_for_each_part_however_many_holes_it_has(mask):
    assert len(outlines(mask)) == label(mask)[1]


@settings(max_examples=100, deadline=None)
@given(MASKS)
def test_no_line_comes_near_the_centre_of_a_pixel_and_every_point_is_a_corner(mask):
    for line in outlines(mask):
        steps = np.roll(line, -1, axis=0) - line
        assert ((steps != 0).sum(axis=1) == 1).all()
        # Along a line one coordinate is the same: a quarter of a pixel at least from any centre.
        still = line[steps == 0] if line.size else line
        assert (np.abs(still - np.rint(still)) >= 0.25).all()
        turns = np.sign(steps)
        assert (turns != np.roll(turns, 1, axis=0)).any(axis=1).all()


def test_a_ring_is_one_line_with_a_channel_to_its_hole():
    ring = np.ones((5, 5), bool)
    ring[2, 2] = False
    (line,) = outlines(ring)
    assert len(line) == 4 + 4 + 4  # the square, the hole, and both ends of the channel, there and back
    assert area(line) == 24


@pytest.mark.parametrize("shape", [(0, 0), (3, 0), (4, 5)])
def test_nothing_has_no_outline(shape):
    assert outlines(np.zeros(shape, bool)) == []
