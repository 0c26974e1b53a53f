"""What the picture shows, and what it must never show."""

import numpy as np
import pytest
from PIL import Image

from app.imaging.volume import Segmentation, Volume
from app.preview import COLUMNS, LESION_COLOUR, LIVER_COLOUR, NUMBER_COLOUR, ROWS, TILE_PX, write_preview
from tests.toy_grids import ORIENTATIONS, labelled, oblique, scan_of
from training.phantom import abdomen

WIDTH, HEIGHT = TILE_PX
SHEET = (slice(0, ROWS * HEIGHT), slice(0, COLUMNS * WIDTH))


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
    assert np.mean(x % WIDTH) < 0.42 * WIDTH
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
    y, x = np.nonzero(green[:HEIGHT, :WIDTH])
    assert np.ptp(x) == pytest.approx(np.ptp(y), abs=6)
    assert np.ptp(x) == pytest.approx(HEIGHT / 3, abs=6)


def test_the_body_fills_its_tile_however_much_air_is_around_it(tmp_path, phantom):
    voxels = np.pad(phantom.volume.voxels, ((40, 20), (30, 50), (0, 0)), constant_values=-1000)
    labels = np.pad(phantom.truth.labels, ((40, 20), (30, 50), (0, 0)))
    geometry = oblique(voxels.shape, phantom.volume.geometry.spacing_mm, (0, 0, 0))
    in_air = Volume(np.asfortranarray(voxels), geometry), Segmentation(np.asfortranarray(labels), geometry)
    expected = drawn(tmp_path / "a.png", phantom.volume, phantom.truth)
    shown = drawn(tmp_path / "b.png", *in_air)
    sizes = [np.ptp(np.nonzero(where(each, LIVER_COLOUR)[:HEIGHT, :WIDTH]), axis=1) for each in (expected, shown)]
    np.testing.assert_allclose(sizes[1], sizes[0], rtol=0.06)


def test_a_liver_outside_what_looks_like_a_body_is_shown_too(tmp_path):
    labels = np.zeros((60, 60, 6), np.uint8)
    labels[2:12, 2:12] = 1
    voxels = np.full(labels.shape, -1000)
    voxels[30:58, 30:58] = 40
    segmentation = labelled(labels, oblique(labels.shape, (3.0, 3.0, 5.0), (0, 0, 0)))
    assert where(drawn(tmp_path / "p.png", scan_of(segmentation, voxels), segmentation), LIVER_COLOUR).any()


@pytest.mark.parametrize(("apart", "tiles"), [(1, 1), (12, 2)])
def test_a_lesion_that_is_seen_well_takes_no_slice_of_its_own(tmp_path, apart, tiles):
    labels = np.zeros((60, 60, 40), np.uint8)
    labels[5:55, 5:55, 2:38] = 1
    for column, peak, size in ((10, 14, 14), (35, 14 + apart, 10)):
        labels[column : column + size, 20 : 20 + size, peak - 1 : peak + 2] = 2
        labels[column + size, 20 : 20 + size, peak] = 2
    segmentation = labelled(labels, oblique(labels.shape, (2.5, 2.5, 5.0), (0, 0, 0)))
    seen = where(drawn(tmp_path / "p.png", scan_of(segmentation), segmentation), LESION_COLOUR)
    per_tile = seen.reshape(ROWS, HEIGHT, COLUMNS, WIDTH).any(axis=(1, 3))
    assert per_tile.sum() == tiles


def test_numbers_do_not_lie_upon_each_other(tmp_path):
    alone = np.zeros((120, 120, 3), np.uint8)
    alone[10:110, 10:110] = 1
    alone[40:43, 40:43] = 2
    crowded = alone.copy()
    crowded[42, 44] = crowded[90:92, 90:92] = 2
    written = []
    for labels in (alone, crowded):
        segmentation = labelled(labels, oblique(labels.shape, (2.5, 2.5, 5.0), (0, 0, 0)))
        picture = drawn(tmp_path / "p.png", scan_of(segmentation), segmentation)
        written.append(where(picture, NUMBER_COLOUR)[:HEIGHT, :WIDTH])
    # The large one and the distant one have their numbers; that of the small one would lie on the large one's.
    half = WIDTH // 2
    assert written[0].any()
    np.testing.assert_array_equal(written[1][:, :half], written[0][:, :half])
    assert written[1][:, half:].any()


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 200, 2), (40, 2, 9)])
def test_any_grid_gets_a_picture_with_or_without_a_liver(tmp_path, shape):
    for fill in (0, 2):
        segmentation = labelled(np.full(shape, fill))
        assert drawn(tmp_path / "p.png", scan_of(segmentation), segmentation).shape[1] == COLUMNS * WIDTH


def test_the_window_does_not_overflow(tmp_path):
    voxels = np.full((20, 20, 3), 32767, np.int16, order="F")
    voxels[:10] = -32768
    geometry = oblique(voxels.shape, (1.0, 1.0, 1.0), (0, 0, 0))
    nothing = Segmentation(np.zeros(voxels.shape, np.uint8, order="F"), geometry)
    picture = drawn(tmp_path / "p.png", Volume(voxels, geometry), nothing)
    row = picture[HEIGHT // 2 - 20, :WIDTH]
    black, white = row.max(axis=-1) <= 5, row.min(axis=-1) >= 250
    # 10 of 20 mm are white at 17 pixels a mm, and between them and the black lies one voxel at most.
    assert white.sum() == pytest.approx(10 * HEIGHT / 20, abs=HEIGHT / 20)
    assert (black | white).sum() >= WIDTH - HEIGHT / 20
