"""Whether the patient lies on the grid as the header says, and whether slices follow each other as in a body."""

import numpy as np
import pytest
from scipy import ndimage

from app.quality import MEND, check_scan
from tests.trunk import hounsfield, scan, trunk

RNG = np.random.default_rng(0)
SEEDS = range(3)
MIDDLE = 24


def said_of(voxels, spacing_mm=(4.0, 4.0, 4.0)) -> list[str]:
    findings = check_scan(scan(voxels, spacing_mm)).findings
    for finding in findings:
        assert finding.severity == "warn"
        assert MEND[finding.code] in finding.detail
    return [finding.code for finding in findings]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_patient_who_lies_as_the_header_says_is_not_remarked_on(seed):
    assert said_of(hounsfield(seed)) == []
    assert said_of(hounsfield(seed).clip(-160, 240)) == []


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("clip", [(-1024, 3071), (-160, 240)])
@pytest.mark.parametrize(
    ("axes", "code"), [((1,), "front_back_swapped"), ((0, 1), "front_back_swapped"), ((2,), "upside_down")]
)
def test_a_mirrored_patient_is_found_by_spine_or_lungs(seed, clip, axes, code):
    assert said_of(np.flip(hounsfield(seed).clip(*clip), axes)) == [code]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("order", "code"),
    [
        ((1, 0, 2), "quarter_turn"),
        ((0, 2, 1), "axes_swapped"),
        ((2, 1, 0), "axes_swapped"),
        ((1, 2, 0), "axes_swapped"),
    ],
)
def test_axes_under_wrong_names_are_found(seed, order, code):
    assert code in said_of(hounsfield(seed).transpose(order))


@pytest.mark.parametrize("codes", ["RAS", "LPI", "LIA", "SRP", "ASL"])
def test_what_is_said_depends_on_the_patient_and_not_on_the_way_of_storing(codes):
    turned = scan(np.flip(hounsfield(), 1)).reoriented(codes)
    assert [finding.code for finding in check_scan(turned).findings] == ["front_back_swapped"]


def test_a_picture_of_a_part_of_the_body_shows_no_swapped_axes():
    """All its faces are body, none more than the others."""
    assert "axes_swapped" not in said_of(hounsfield()[30:60, 25:50, 10:40])


def test_a_scan_without_lungs_is_not_upside_down():
    assert said_of(hounsfield()[:, :, :26]) == []
    assert said_of(np.flip(hounsfield()[:, :, :26], 2)) == []


def without_slices(count: int) -> np.ndarray:
    return np.delete(hounsfield(), np.s_[MIDDLE - count // 2 : MIDDLE - count // 2 + count], axis=2)


def blanked() -> np.ndarray:
    voxels = hounsfield()
    voxels[:, :, MIDDLE : MIDDLE + 2] = -1000
    return voxels


def test_slices_that_follow_each_other_are_not_remarked_on():
    assert said_of(hounsfield()[:, :, ::2], (4.0, 4.0, 8.0)) == []
    assert said_of(np.repeat(np.repeat(hounsfield(), 2, 0), 2, 1), (2.0, 2.0, 4.0)) == []


def test_missing_slices_are_found():
    assert said_of(without_slices(8)) == ["slice_gap"]


def test_where_slices_are_missing_is_said():
    (finding,) = check_scan(scan(without_slices(8))).findings
    assert "about number 19," in finding.detail


def test_repeated_slices_are_found():
    assert said_of(np.insert(hounsfield(), [MIDDLE] * 2, hounsfield()[:, :, [MIDDLE]], axis=2)) == ["repeated_slices"]


def test_blank_slices_are_found():
    assert "blank_slices" in said_of(blanked())


def test_shuffled_slices_are_found():
    order = np.random.default_rng(1).permutation(hounsfield().shape[2])
    assert "slices_disordered" in said_of(hounsfield()[:, :, order])


def thin() -> np.ndarray:
    """The trunk in slices of 0.25 mm that differ from the next by little but their noise."""
    voxels = ndimage.zoom(hounsfield().astype(np.float32), (1, 1, 16), order=1)
    return voxels + RNG.normal(0, 10, voxels.shape)


def test_thin_noisy_slices_are_in_order():
    assert said_of(thin(), (4.0, 4.0, 0.25)) == []


def test_thin_noisy_slices_that_were_shuffled_are_found():
    voxels = thin()
    order = np.random.default_rng(1).permutation(voxels.shape[2])
    assert "slices_disordered" in said_of(voxels[:, :, order], (4.0, 4.0, 0.25))


def test_in_much_noise_nothing_is_said_about_the_order_of_slices():
    noisy = hounsfield() + RNG.normal(0, 120, trunk().volume.geometry.shape)
    assert said_of(noisy) == ["noisy"]


def test_looking_changes_nothing():
    volume = trunk().volume
    before = volume.voxels.copy()
    check_scan(volume)
    assert np.array_equal(volume.voxels, before)
