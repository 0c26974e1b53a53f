"""What the picture shows, and what it must never show."""

import numpy as np
import pytest
from PIL import Image

from app.imaging.volume import Segmentation, Volume
from app.preview import COLUMNS, LESION_COLOUR, LIVER_COLOUR, ROWS, TILE_PX, write_preview
from tests.toy_grids import ORIENTATIONS, labelled, oblique, scan_of
from training.phantom import abdomen

SHEET = (slice(0, ROWS * TILE_PX), slice(0, COLUMNS * TILE_PX))


@pytest.fixture(scope="module")
def phantom():
    return abdomen(0, (64, 56, 24), (5.0, 5.5, 8.0), noise_hu=0)


def drawn(path, volume, segmentation):
    write_preview(path, volume, segmentation)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert not picture.info
        return np.asarray(picture.convert("RGB")).astype(int)


def where(picture, colour):
    return np.abs(picture[SHEET] - np.array(colour)).sum(axis=-1) == 0


def test_the_liver_is_green_on_the_left_of_each_tile_and_lesions_are_red(tmp_path, phantom):
    picture = drawn(tmp_path / "preview.png", phantom.volume, phantom.truth)
    _, x = np.nonzero(where(picture, LIVER_COLOUR))
    assert len(x) > 1000
    assert np.mean(x % TILE_PX) < 0.42 * TILE_PX
    assert where(picture, LESION_COLOUR).sum() > 100


@pytest.mark.parametrize("codes", ORIENTATIONS[::5])
def test_the_picture_does_not_depend_on_the_orientation_of_the_file(tmp_path, phantom, codes):
    expected = drawn(tmp_path / "a.png", phantom.volume, phantom.truth)
    turned = drawn(tmp_path / "b.png", phantom.volume.reoriented(codes), phantom.truth.reoriented(codes))
    np.testing.assert_array_equal(turned, expected)


def test_pixels_are_square_in_mm(tmp_path):
    """A block of 40 by 40 mm is drawn square although a voxel is four times as wide as high."""
    labels = np.zeros((30, 120, 6), np.uint8)
    labels[10:20, 40:80, 1:5] = 1
    segmentation = labelled(labels, oblique(labels.shape, (4.0, 1.0, 5.0), (0, 0, 0)))
    green = where(drawn(tmp_path / "p.png", scan_of(segmentation), segmentation), LIVER_COLOUR)
    y, x = np.nonzero(green[:TILE_PX, :TILE_PX])
    assert np.ptp(x) == pytest.approx(np.ptp(y), abs=6)
    assert np.ptp(x) == pytest.approx(TILE_PX / 3, abs=6)


def test_the_largest_lesion_is_shown_even_if_it_is_a_single_voxel(tmp_path):
    labels = np.zeros((512, 300, 40), np.uint8)
    labels[100:300, 50:200, 3:37] = 1
    labels[200, 100, 29] = 2
    segmentation = labelled(labels, oblique(labels.shape, (0.7, 0.7, 3.0), (0, 0, 0)))
    picture = drawn(tmp_path / "p.png", scan_of(segmentation), segmentation)
    assert where(picture, LESION_COLOUR).any()


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 200, 2), (40, 2, 9)])
def test_any_grid_gets_a_picture_with_or_without_a_liver(tmp_path, shape):
    for fill in (0, 2):
        segmentation = labelled(np.full(shape, fill))
        assert drawn(tmp_path / "p.png", scan_of(segmentation), segmentation).shape[1] == COLUMNS * TILE_PX


def test_the_window_does_not_overflow(tmp_path):
    voxels = np.full((20, 20, 3), 32767, np.int16, order="F")
    voxels[:10] = -32768
    geometry = oblique(voxels.shape, (1.0, 1.0, 1.0), (0, 0, 0))
    nothing = Segmentation(np.zeros(voxels.shape, np.uint8, order="F"), geometry)
    picture = drawn(tmp_path / "p.png", Volume(voxels, geometry), nothing)
    assert picture[100, 40:150].max() <= 5
    assert picture[100, 230:340].min() >= 250
