"""An odd liver is remarked on, an ordinary one is not, and neither is changed."""

from functools import cache

import numpy as np
import pytest

from app.imaging.volume import Segmentation, Volume
from app.quality import MEND, check_mirrored, check_segmentation
from tests.trunk import hounsfield, labelled, scan, trunk
from training.phantom import Phantom, abdomen

RNG = np.random.default_rng(0)
LIVER = trunk().truth.liver


def said_of(labels, voxels=None, spacing_mm=(4.0, 4.0, 4.0)) -> list[str]:
    volume = scan(hounsfield() if voxels is None else voxels, spacing_mm)
    findings = check_segmentation(volume, labelled(labels, volume))
    for finding in findings:
        assert finding.severity == "warn"
        assert MEND[finding.code] in finding.detail
    return [finding.code for finding in findings]


@pytest.mark.parametrize("seed", range(3))
def test_a_liver_as_in_patients_is_not_remarked_on(seed):
    assert check_segmentation(trunk(seed).volume, trunk(seed).truth) == ()


def test_of_no_liver_nothing_is_said():
    assert said_of(np.zeros(LIVER.shape)) == []


def test_amounts_that_no_patient_has_are_remarked_on():
    assert said_of(LIVER, spacing_mm=(2.0, 2.0, 2.0)) == ["liver_small"]
    assert "liver_large" in said_of(LIVER, spacing_mm=(6.5, 6.5, 6.5))
    assert said_of(LIVER * 2) == ["lesion_burden_high"]
    assert said_of(np.where(LIVER & (np.indices(LIVER.shape)[0] % 2 == 0), 2, LIVER)) == []


@pytest.mark.parametrize(("shift_hu", "expected"), [(200, True), (-150, True), (-30, False)])
def test_a_liver_that_is_no_liver_tissue_is_remarked_on(shift_hu, expected):
    found = said_of(LIVER, np.where(LIVER, hounsfield() + shift_hu, hounsfield()))
    assert ("liver_hu" in found) is expected


def test_a_liver_that_the_scan_cuts_off_is_said_to_be_at_that_end():
    rows = np.flatnonzero(LIVER.any(axis=(0, 1)))
    middle = int(rows.mean())
    for part, end in ((np.s_[:, :, middle:], "the bottom of"), (np.s_[:, :, :middle], "the top of")):
        volume = scan(hounsfield()[part])
        segmentation = labelled(LIVER[part], volume)
        for orientation in ("LPS", "LPI", "SRA"):
            turned = check_segmentation(volume.reoriented(orientation), segmentation.reoriented(orientation))
            found = {finding.code: finding.detail for finding in turned}
            assert end in found["liver_cut_off"]


def test_a_liver_that_ends_with_the_scan_is_not_cut_off():
    """What is missing of it is less than a slice."""
    i, j, k = np.argwhere(LIVER).mean(axis=0)
    grid = np.indices(LIVER.shape).transpose(1, 2, 3, 0)
    ball = np.linalg.norm(grid - [i, j, k], axis=3) < 14
    rows = np.flatnonzero(ball.any(axis=(0, 1)))
    part = np.s_[:, :, rows[0] : rows[-1] + 1]
    assert said_of(ball[part], hounsfield()[part]) == []
    part = np.s_[:, :, rows[3] : rows[-1] + 1]
    assert said_of(ball[part], hounsfield()[part]) == ["liver_cut_off"]


def test_a_liver_at_the_side_of_the_picture_is_cut_off():
    columns = np.flatnonzero(LIVER.any(axis=(1, 2)))
    part = np.s_[columns[0] + 5 :]
    assert "liver_cut_off" in said_of(LIVER[part], hounsfield()[part])


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "ASL", "IRP"])
def test_the_side_of_the_liver_does_not_depend_on_the_orientation_of_the_file(orientation):
    for side, expected in ((1, []), (-1, ["liver_on_left"])):
        volume = scan(hounsfield()[::side])
        segmentation = labelled(LIVER[::side], volume)
        found = check_segmentation(volume.reoriented(orientation), segmentation.reoriented(orientation))
        assert [finding.code for finding in found] == expected


@pytest.mark.parametrize(
    ("liver_ml", "mirrored_ml", "expected"),
    [(1500, 1000, []), (1500, 1800, []), (800, 1500, ["liver_on_left"]), (0, 900, ["liver_on_left"]), (10, 150, [])],
)
def test_more_liver_in_the_mirror_is_remarked_on(liver_ml, mirrored_ml, expected):
    assert [finding.code for finding in check_mirrored(liver_ml, mirrored_ml)] == expected


def test_lungs_below_the_liver_are_remarked_on():
    assert said_of(LIVER[:, :, ::-1], hounsfield()[:, :, ::-1]) == ["upside_down"]


def test_a_ragged_mask_is_remarked_on():
    assert "liver_ragged" in said_of(LIVER & (RNG.random(LIVER.shape) < 0.8))


def test_a_liver_in_two_pieces_is_remarked_on():
    """Joined by a thread, so that it is one component of voxels."""
    torn = LIVER.copy()
    i, j, k = np.argwhere(LIVER).mean(axis=0).astype(int)
    torn[:, :, k - 1 : k + 2] = False
    torn[i, j, k - 1 : k + 2] = True
    assert "liver_in_pieces" in said_of(torn)


def rods(radius_mm: float, level: slice) -> np.ndarray:
    voxels = hounsfield()
    i, j, _ = np.indices(voxels.shape)
    rod = np.hypot(i - 48, j - 50) * 4 < radius_mm
    rod[:, :, : level.start], rod[:, :, level.stop :] = False, False
    return np.where(rod, 3000, voxels)


def test_metal_at_the_level_of_the_liver_is_remarked_on_and_elsewhere_not():
    rows = np.flatnonzero(LIVER.any(axis=(0, 1)))
    assert "metal" in said_of(LIVER, rods(8, slice(rows[0], rows[-1])))
    assert "metal" not in said_of(LIVER, rods(8, slice(0, rows[0])))


@cache
def fine() -> Phantom:
    """Without noise, and fine enough for great vessels."""
    return abdomen(0, (160, 140, 60), (2.4, 2.4, 3.5), noise_hu=0)


@pytest.mark.parametrize(
    ("blood_hu", "liver_hu", "expected"),
    [
        (150, 105, []),
        (45, 55, ["phase_native"]),
        (45, 100, []),  # blood that is not found
        (130, 60, []),  # a fatty liver with contrast
        (300, 65, ["phase_arterial"]),
    ],
)
def test_the_contrast_phase_is_guessed_by_blood_and_liver(blood_hu, liver_hu, expected):
    """Kidneys and spleen, which are as bright as blood, go with it."""
    exact = fine()
    voxels = exact.volume.voxels.astype(np.float32)
    voxels = np.where((voxels > 132) & (voxels < 178), blood_hu, np.where(exact.truth.liver, liver_hu, voxels))
    voxels += RNG.normal(0, 8, voxels.shape)
    assert said_of(exact.truth.labels, voxels, (2.4, 2.4, 3.5)) == expected


def test_looking_changes_neither_scan_nor_mask():
    volume, truth = trunk().volume, trunk().truth
    voxels, labels = volume.voxels.copy(), truth.labels.copy()
    check_segmentation(volume, Segmentation(truth.labels, volume.geometry))
    assert np.array_equal(volume.voxels, voxels)
    assert np.array_equal(truth.labels, labels)
    assert isinstance(volume, Volume)
