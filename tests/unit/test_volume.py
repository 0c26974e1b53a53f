"""Geometry, Volume and Segmentation: orientation changes are exact, and nothing loses its place in the patient."""

import itertools

import numpy as np
import pytest

from app.errors import InvalidGeometry
from app.imaging.volume import Geometry, Label, Segmentation, Volume
from tests.nifti_files import oblique, straight

SHAPE = (3, 4, 5)
ALL_CODES = [
    "".join(pair[flip] for pair, flip in zip(order, flips, strict=True))
    for order in itertools.permutations(["LR", "PA", "IS"])
    for flips in itertools.product([0, 1], repeat=3)
]
AFFINES = [straight(), oblique(), oblique(angles=(0.5, 0.4, -0.6))]


def numbered(affine: np.ndarray) -> Volume:
    """A volume in which every voxel has its own value."""
    voxels = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE, order="F")
    return Volume(voxels, Geometry(SHAPE, affine))


def test_there_are_48_orientations():
    assert len(set(ALL_CODES)) == 48


@pytest.mark.parametrize("affine", AFFINES)
@pytest.mark.parametrize("codes", ALL_CODES)
def test_a_volume_turned_there_and_back_is_the_same(codes, affine):
    volume = numbered(affine)
    turned = volume.reoriented(codes)
    back = turned.reoriented(volume.geometry.axis_codes)
    assert turned.geometry.axis_codes == codes
    assert np.array_equal(back.voxels, volume.voxels)
    assert back.geometry.shape == SHAPE
    np.testing.assert_allclose(back.geometry.affine, affine, atol=1e-12)


@pytest.mark.parametrize("codes", ALL_CODES)
def test_labels_turned_there_and_back_are_the_same(codes):
    labels = (np.arange(60) % 3).astype(np.uint8).reshape(SHAPE)
    segmentation = Segmentation(labels, Geometry(SHAPE, oblique()))
    back = segmentation.reoriented(codes).reoriented(segmentation.geometry.axis_codes)
    assert np.array_equal(back.labels, labels)


@pytest.mark.parametrize("affine", AFFINES)
@pytest.mark.parametrize("codes", ALL_CODES)
def test_every_voxel_keeps_its_place_in_the_patient(codes, affine):
    volume = numbered(affine)
    turned = volume.reoriented(codes)
    for value in (0, 1, 23, 59):
        before = volume.geometry.to_mm(np.argwhere(volume.voxels == value)[0])
        after = turned.geometry.to_mm(np.argwhere(turned.voxels == value)[0])
        np.testing.assert_allclose(after, before, atol=1e-9)


def test_turning_keeps_spacing_and_volume_of_a_voxel():
    geometry = Geometry(SHAPE, oblique(spacing=(0.7, 0.8, 5.0)))
    turned = geometry.reoriented("SLA")
    np.testing.assert_allclose(geometry.spacing_mm, (0.7, 0.8, 5.0))
    np.testing.assert_allclose(turned.spacing_mm, (5.0, 0.7, 0.8))
    assert turned.voxel_volume_ml == pytest.approx(0.7 * 0.8 * 5.0 / 1000)


def test_x_grows_to_the_right_of_the_patient():
    geometry = Geometry(SHAPE, np.diag([-1.0, -1.0, 1.0, 1.0]))
    assert geometry.axis_codes == "LPS"
    assert geometry.to_mm([2, 0, 0])[0] == -2


def test_an_lps_volume_in_file_order_is_a_stack_of_slices_without_a_copy():
    volume = numbered(np.diag([-1.0, -1.0, 1.0, 1.0]))
    slices = volume.reoriented("LPS").voxels.T
    assert slices.shape == SHAPE[::-1]
    assert slices.flags.c_contiguous
    assert np.shares_memory(slices, volume.voxels)


def test_voxels_and_affine_cannot_be_written():
    volume = numbered(straight())
    with pytest.raises(ValueError, match="read-only"):
        volume.voxels[0, 0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        volume.geometry.affine[0, 0] = 1


def test_the_liver_holds_its_lesions():
    labels = np.array([[[0, 1, 2]]], dtype=np.uint8)
    segmentation = Segmentation(labels, Geometry((1, 1, 3), np.eye(4)))
    assert segmentation.liver.tolist() == [[[False, True, True]]]
    assert segmentation.lesions.tolist() == [[[False, False, True]]]
    assert [label.name for label in Label] == ["BACKGROUND", "LIVER", "LESION"]


@pytest.mark.parametrize(
    "affine",
    [
        np.diag([1.0, 0.0, 1.0, 1.0]),
        np.diag([1.0, np.nan, 1.0, 1.0]),
        np.diag([1.0, np.inf, 1.0, 1.0]),
        np.diag([1.0, 1.0, 1.0, 2.0]),
        np.ones((4, 4)),
        np.eye(3),
    ],
)
def test_an_affine_that_places_no_voxels_is_refused(affine):
    with pytest.raises(InvalidGeometry):
        Geometry(SHAPE, affine)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 0), (3, 4, -1), (3, 4, 5, 6)])
def test_a_shape_without_three_axes_is_refused(shape):
    with pytest.raises(InvalidGeometry):
        Geometry(shape, np.eye(4))


def test_only_an_array_that_fits_its_grid_is_a_volume():
    with pytest.raises(ValueError, match="expected int16"):
        Volume(np.zeros((3, 4, 6), np.int16), Geometry(SHAPE, np.eye(4)))
    with pytest.raises(ValueError, match="expected int16"):
        Volume(np.zeros(SHAPE, np.float32), Geometry(SHAPE, np.eye(4)))
    with pytest.raises(ValueError, match="expected uint8"):
        Segmentation(np.zeros(SHAPE, bool), Geometry(SHAPE, np.eye(4)))


def test_a_gantry_tilt_is_sheared_and_a_rotation_is_not():
    tilted = straight()
    tilted[1, 2] = 0.3
    assert Geometry(SHAPE, tilted).is_sheared
    assert not Geometry(SHAPE, oblique().astype(np.float32)).is_sheared


def test_a_grid_matches_one_a_rounding_error_away_and_no_other():
    geometry = Geometry((512, 512, 200), oblique())
    rounded = Geometry((512, 512, 200), oblique().astype(np.float32))
    moved = oblique()
    moved[0, 3] += 0.05
    assert geometry.matches(rounded)
    assert not geometry.matches(Geometry((512, 512, 200), moved))
    assert not geometry.matches(Geometry((512, 512, 201), oblique()))
    assert not geometry.matches(geometry.reoriented("LPS"))
    assert geometry.apart_mm(Geometry((512, 512, 200), moved)) == pytest.approx(0.05)
