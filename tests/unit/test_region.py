"""The largest component and the box around it, against the slow and obvious."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from app.imaging.region import MARGIN_TOLERANCE_VOXELS, Box, bounding_box, components_with, largest_component


def random_mask(seed: int, shape: tuple[int, int, int] = (9, 11, 7), density: float = 0.35) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < density


@given(st.integers(0, 10_000), st.floats(0.05, 0.6))
@settings(deadline=None, max_examples=50)
def test_the_largest_component_is_the_one_that_flood_filling_finds(seed, density):
    mask = random_mask(seed, density=density)
    labels, count = ndimage.label(mask)
    found = largest_component(mask)
    sizes = np.bincount(labels.ravel())[1:]
    assert found.sum() == (sizes.max() if count else 0)
    if count:
        assert any(np.array_equal(found, labels == part + 1) for part in np.flatnonzero(sizes == sizes.max()))


@given(st.integers(0, 10_000), st.floats(0.05, 0.4), st.floats(0.0, 0.1))
@settings(deadline=None, max_examples=50)
def test_components_with_a_seed_are_those_that_flood_filling_finds(seed, density, seeds):
    mask, seeded = random_mask(seed, density=density), random_mask(seed + 1, density=seeds)
    labels, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    expected = np.isin(labels, np.setdiff1d(labels[seeded], [0]))
    assert np.array_equal(components_with(mask, seeded), expected)


def test_a_part_that_touches_only_at_an_edge_falls_away():
    mask = np.zeros((4, 4, 4), bool)
    mask[0, 0, :] = True
    mask[1, 1, :2] = True
    assert largest_component(mask).sum() == 4


def test_components_do_not_depend_on_memory_order_or_orientation():
    mask = random_mask(3)
    expected = largest_component(mask)
    for order in itertools.permutations(range(3)):
        turned = np.flip(mask.transpose(order), axis=1)
        assert np.array_equal(np.flip(largest_component(turned), axis=1), expected.transpose(order))
    assert np.array_equal(largest_component(np.asfortranarray(mask)), expected)


def test_an_empty_mask_has_an_empty_component_and_no_box():
    empty = np.zeros((3, 3, 3), bool)
    assert not largest_component(empty).any()
    with pytest.raises(ValueError, match="empty"):
        bounding_box(empty, (1, 1, 1), 5)


def test_the_margin_is_millimetres_rounded_up_to_voxels_on_each_axis():
    mask = np.zeros((60, 60, 60), bool)
    mask[30, 25:28, 20] = True
    box = bounding_box(mask, (5.0, 0.7, 1.0), 10)
    assert box == Box((28, 10, 10), (33, 43, 31))
    assert box.shape == (5, 33, 21)


def test_a_spacing_with_a_rounding_error_does_not_cost_a_voxel():
    mask = np.zeros((40, 40, 40), bool)
    mask[20, 20, 20] = True
    for spacing in (np.nextafter(2.5, 0), 2.5, np.nextafter(2.5, 3)):
        assert bounding_box(mask, (spacing,) * 3, 10) == Box((16, 16, 16), (25, 25, 25))


def test_the_box_is_cut_off_at_the_grid_and_holds_its_first_and_last_slice():
    mask = np.zeros((8, 9, 10), bool)
    mask[0, 4, 9] = mask[7, 4, 9] = True
    assert bounding_box(mask, (1, 1, 1), 3) == Box((0, 1, 6), (8, 8, 10))


@given(st.integers(0, 10_000), st.tuples(*[st.floats(0.3, 6)] * 3), st.floats(0, 9))
@settings(deadline=None, max_examples=50)
def test_the_box_holds_what_lies_within_the_margin_and_no_slice_more(seed, spacing, margin):
    mask = random_mask(seed, density=0.004)
    mask[4, 5, 3] = True
    box = bounding_box(mask, spacing, margin)
    assert mask[box.slices].sum() == mask.sum()
    for axis, hits in enumerate(np.nonzero(mask)):
        positions = np.arange(mask.shape[axis])
        # a voxel belongs if going `margin` from the mask ends in it or beyond it
        reach = margin / spacing[axis] + 1 - MARGIN_TOLERANCE_VOXELS
        assume(abs(reach - round(reach)) > 1e-9)
        near = (positions - hits.max() < reach) & (hits.min() - positions < reach)
        assert list(range(box.start[axis], box.stop[axis])) == list(positions[near])


@pytest.mark.parametrize("margin", [-1.0, float("nan")])
def test_a_margin_below_zero_is_refused(margin):
    with pytest.raises(ValueError, match="margin"):
        bounding_box(np.ones((2, 2, 2), bool), (1, 1, 1), margin)
