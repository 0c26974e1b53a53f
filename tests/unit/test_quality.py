"""No MR and no photograph passes for a CT, no real CT is refused, and an odd liver is remarked on."""

import os
from pathlib import Path

import numpy as np
import pytest

from app.errors import NotCT
from app.imaging.scan import read_labels, read_scan
from app.imaging.volume import Geometry, Segmentation, Volume
from app.quality import Finding, Quality, check_scan, check_segmentation, require

SHAPE = (100, 90, 40)
LPS = np.diag([-4.0, -4.0, 5.0, 1.0])
RNG = np.random.default_rng(0)


def body() -> np.ndarray:
    """Air around an ellipse of soft tissue with a rim of fat, -1000, -100 and 50 HU."""
    i, j, _ = np.indices(SHAPE)
    radius = np.hypot((i - 49.5) / 40, (j - 44.5) / 32)
    return np.select([radius < 0.85, radius < 1], [50, -100], -1000).astype(np.int16)


def volume(voxels, affine=LPS) -> Volume:
    return Volume(voxels.astype(np.int16), Geometry(voxels.shape, affine))


def codes(findings) -> list[str]:
    return [finding.code for finding in findings]


def test_a_plain_body_is_accepted():
    assert check_scan(volume(body())) == Quality()
    assert Quality().verdict == "accept"


@pytest.mark.parametrize("clip", [(-160, 240), (-200, 300), (-1024, 3071)])
def test_a_clipped_ct_is_accepted(clip):
    assert check_scan(volume(body().clip(*clip))).verdict == "accept"


@pytest.mark.parametrize(
    ("what", "voxels", "code"),
    [
        ("constant", np.zeros(SHAPE), "constant_image"),
        ("one value of padding", np.full(SHAPE, -1000), "constant_image"),
        ("8-bit photograph", RNG.integers(0, 256, SHAPE), "not_ct"),
        ("MR", RNG.gamma(2, 200, SHAPE), "not_ct"),
        ("MR scaled to mean 0", RNG.normal(0, 3, SHAPE), "not_ct"),
        ("CT without its intercept", body() + 1024, "not_ct"),
        ("CT without its intercept, padded", np.where(body() < -999, -2000, body() + 1024), "not_ct"),
        ("CT clipped above fat", body().clip(0, 255), "not_ct"),
        ("only air", np.where(RNG.random(SHAPE) < 0.5, -1000, -990), "not_ct"),
    ],
)
def test_what_is_no_ct_in_hounsfield_units_is_refused(what, voxels, code):
    quality = check_scan(volume(voxels))
    assert quality.verdict == "refuse"
    with pytest.raises(NotCT) as caught:
        require(quality)
    assert caught.value.code == code


def test_a_warning_is_no_refusal():
    quality = Quality(findings=(Finding(code="few_slices", severity="warn", detail="..."),))
    assert quality.verdict == "warn"
    require(quality)


@pytest.mark.parametrize(
    ("voxels", "affine", "code"),
    [
        (body()[:, :, :1], LPS, "few_slices"),
        (body()[:, :, :8], LPS, "little_coverage"),
        (body(), np.diag([-1.0, -1.0, 5.0, 1.0]), "field_of_view"),
        (body(), np.diag([-9.0, -4.0, 9.0, 1.0]), "field_of_view"),
        (body(), np.diag([-2.0, -8.0, 5.0, 1.0]), "not_axial"),
    ],
)
def test_an_unusual_grid_is_remarked_on(voxels, affine, code):
    quality = check_scan(volume(voxels, affine))
    assert code in codes(quality.findings)
    assert quality.verdict == "warn"


def test_tilted_slices_are_remarked_on():
    angle = np.radians(30)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = LPS.copy()
    affine[:3, :3] = turn @ affine[:3, :3]
    (finding,) = check_scan(volume(body(), affine)).findings
    assert finding.code == "oblique"
    assert "30 degrees" in finding.detail


def liver(*, side="right", slices=slice(10, 30)) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[slice(15, 45) if side == "right" else slice(55, 85), 30:60, slices] = 1
    return labels


def remarks(labels, voxels=None) -> list[str]:
    scan = volume(body() if voxels is None else voxels)
    return codes(check_segmentation(scan, Segmentation(labels.astype(np.uint8), scan.geometry)))


def test_a_liver_as_in_patients_is_not_remarked_on():
    assert remarks(liver()) == []
    assert remarks(np.zeros(SHAPE)) == []


def test_an_odd_liver_is_remarked_on():
    assert remarks(liver(side="left")) == ["liver_on_left"]
    assert remarks(liver(slices=slice(10, 12))) == ["liver_small"]
    assert remarks(np.where(body() > 0, 1, 0)) == ["liver_large", "liver_cut_off"]
    assert remarks(liver(), body() + 300) == ["liver_hu"]
    assert remarks(liver(), body() - 100) == ["liver_hu"]
    assert remarks(liver() * 2) == ["lesion_burden_high"]


def test_a_liver_in_the_first_or_last_slice_is_cut_off_at_that_end():
    scan = volume(body())
    for slices, end in ((slice(0, 20), "the bottom of"), (slice(20, 40), "the top of")):
        for orientation in ("LPS", "LPI", "SRA"):
            segmentation = Segmentation(liver(slices=slices), scan.geometry).reoriented(orientation)
            (finding,) = check_segmentation(scan.reoriented(orientation), segmentation)
            assert (finding.code, end in finding.detail) == ("liver_cut_off", True)


def test_the_side_of_the_liver_does_not_depend_on_the_orientation_of_the_file():
    scan = volume(body())
    for orientation in ("LPS", "RAS", "ASL", "IRP"):
        for side, expected in (("right", []), ("left", ["liver_on_left"])):
            segmentation = Segmentation(liver(side=side), scan.geometry).reoriented(orientation)
            assert codes(check_segmentation(scan.reoriented(orientation), segmentation)) == expected


@pytest.mark.data
@pytest.mark.parametrize(
    ("ct", "reference"),
    [
        ("lits/volume-0.nii.gz", "lits/segmentation-0.nii.gz"),
        ("lits/volume-5.nii.gz", "lits/segmentation-5.nii.gz"),
        ("nifti/totalsegmentator_ct_3mm.nii.gz", "nifti/totalsegmentator_liver_3mm.nii.gz"),
    ],
)
def test_real_ct_is_not_refused(ct, reference):
    folder = os.environ.get("HEPASEG_DATA")
    if not folder:
        pytest.skip("HEPASEG_DATA names no folder with real CT")
    scan = read_scan(Path(folder) / ct).volume
    labels = read_labels(Path(folder) / reference, scan.geometry)
    assert check_scan(scan).verdict == "accept"
    assert codes(check_segmentation(scan, labels)) == ["liver_cut_off"]
