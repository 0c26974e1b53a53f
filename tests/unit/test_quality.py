"""No MR and no photograph passes for a CT, no real CT is refused, and an odd grid or grey value is remarked on."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from app.errors import NoLiver, NotCT
from app.imaging.scan import probe_scan, read_labels, read_scan
from app.imaging.volume import Geometry
from app.quality import MEND, Finding, Quality, check_header, check_scan, check_segmentation, explained, once, require
from app.quality.hounsfield import noise
from tests.nifti_files import image, packed, saved
from tests.trunk import hounsfield, scan, trunk

RNG = np.random.default_rng(0)
SHAPE = trunk().volume.geometry.shape
INFINITE = float("-inf")


def codes(findings) -> list[str]:
    return [finding.code for finding in findings]


def said_of(voxels, spacing_mm=(4.0, 4.0, 4.0)) -> list[str]:
    quality = check_scan(scan(voxels, spacing_mm))
    for finding in quality.findings:
        assert MEND[finding.code] in finding.detail
    return codes(quality.findings)


@pytest.mark.parametrize("seed", range(3))
def test_a_plain_trunk_is_accepted(seed):
    assert check_scan(trunk(seed).volume) == Quality()
    assert Quality().verdict == "accept"


@pytest.mark.parametrize("clip", [(-150, 200), (-160, 240), (-200, 300), (-1024, 3071)])
def test_a_clipped_ct_is_accepted(clip):
    assert said_of(hounsfield().clip(*clip)) == []


@pytest.mark.parametrize("codes", ["RAS", "LPI", "LIA", "SRP"])
def test_the_way_a_file_is_stored_raises_no_alarm(codes):
    assert check_scan(trunk().volume.reoriented(codes)).verdict == "accept"


def padded() -> np.ndarray:
    """Values that a scanner fills in outside the circle it measures, not HU."""
    voxels = hounsfield()
    i, j, _ = np.indices(SHAPE)
    voxels[np.hypot(i - 47.5, j - 39.5) > 44] = -3024
    return voxels


@pytest.mark.parametrize(
    ("what", "voxels", "code"),
    [
        ("constant", np.zeros(SHAPE), "constant_image"),
        ("one value of padding", np.full(SHAPE, -1000), "constant_image"),
        ("8-bit photograph", RNG.integers(0, 256, SHAPE), "not_ct"),
        ("MR", RNG.gamma(2, 200, SHAPE), "not_ct"),
        ("MR scaled to mean 0", RNG.normal(0, 3, SHAPE), "not_ct"),
        ("CT without its intercept", hounsfield() + 1024, "not_ct"),
        ("CT without its intercept, padded", padded() + 1024, "not_ct"),
        ("CT with its intercept twice", hounsfield() - 1024, "not_ct"),
        ("CT clipped above fat", hounsfield().clip(0, 255), "not_ct"),
        ("inverted CT", -hounsfield(), "not_ct"),
        ("inverted and clipped CT", -hounsfield().clip(-160, 240), "not_ct"),
        ("only air", np.where(RNG.random(SHAPE) < 0.5, -1000, -990), "not_ct"),
        ("half the slope", hounsfield() / 2, "not_hounsfield"),
        ("twice the slope", hounsfield() * 2, "not_hounsfield"),
    ],
)
def test_what_is_no_ct_in_hounsfield_units_is_refused(what, voxels, code):
    quality = check_scan(scan(voxels))
    assert quality.verdict == "refuse"
    with pytest.raises(NotCT) as caught:
        require(quality)
    assert caught.value.code == code
    assert MEND[code] in caught.value.detail


def test_padding_is_not_taken_for_air_in_the_wrong_place():
    assert said_of(padded()) == []


@pytest.mark.parametrize(
    ("what", "voxels", "expected"),
    [
        ("values 100 too high, clipped", hounsfield().clip(-160, 240) + 100, ["fat_clipped"]),
        ("values 60 too low, clipped", hounsfield().clip(-190, 240) - 60, ["fat_hu"]),
        ("only fat and organs scaled", np.where(hounsfield() < -500, hounsfield(), hounsfield() + 80), ["fat_hu"]),
        ("air that is none", np.where(hounsfield() < -500, hounsfield() + 300, hounsfield()), ["air_hu"]),
        ("clipped at -90", hounsfield().clip(-90, 300), ["fat_clipped"]),
    ],
)
def test_air_or_fat_in_the_wrong_place_is_remarked_on(what, voxels, expected):
    assert said_of(voxels) == expected


@pytest.mark.parametrize("shift_hu", [-20, 20])
def test_a_scanner_that_is_a_little_off_is_not_remarked_on(shift_hu):
    assert said_of(hounsfield() + shift_hu) == []


def test_a_lean_patient_who_shows_no_fat_is_not_remarked_on():
    voxels = hounsfield()
    lean = np.where((voxels > -140) & (voxels < -40), 45, voxels)
    assert said_of(lean) == []


def test_noise_is_measured_and_much_of_it_remarked_on():
    flat = scan(np.full((64, 64, 10), 80.0) + RNG.normal(0, 30, (64, 64, 10)))
    assert noise(flat) == pytest.approx(25, rel=0.15)  # the most even tenth
    assert said_of(hounsfield() + RNG.normal(0, 15, SHAPE)) == []
    assert said_of(hounsfield() + RNG.normal(0, 80, SHAPE)) == ["noisy"]


def test_fat_that_is_bright_as_in_an_mr_is_remarked_on():
    bright = np.interp(hounsfield(), [-500, -150, -100, -50, 0, 300], [-170, -160, 220, 40, 0, 60])
    assert "bright_rim" in said_of(bright)


def test_a_warning_is_no_refusal():
    quality = Quality(findings=(Finding(code="few_slices", severity="warn", detail="..."),))
    assert quality.verdict == "warn"
    require(quality)


def test_each_code_is_said_once():
    first, second = (Finding(code="metal", severity="warn", detail=detail) for detail in "ab")
    assert once(first, second).findings == (first,)


def test_no_liver_is_explained_by_what_is_odd():
    odd = Finding(code="few_slices", severity="warn", detail="Three slices.")
    error = explained(NoLiver("None found."), odd, Finding(code="remark", severity="info", detail="Nothing."))
    assert (error.code, error.detail) == ("no_liver", "None found. Three slices.")


@pytest.mark.parametrize(
    ("voxels", "spacing_mm", "code"),
    [
        (hounsfield()[:, :, 20:21], (4, 4, 5), "few_slices"),
        (hounsfield()[:, :, 20:28], (4, 4, 5), "little_coverage"),
        (hounsfield(), (1, 1, 5), "field_of_view"),
        (hounsfield(), (9, 4, 9), "field_of_view"),
        (hounsfield(), (2, 8, 5), "not_axial"),
    ],
)
def test_an_unusual_grid_is_remarked_on(voxels, spacing_mm, code):
    quality = check_scan(scan(voxels, spacing_mm))
    assert code in codes(quality.findings)
    assert quality.verdict == "warn"


@pytest.mark.parametrize(("degrees", "expected"), [(10, []), (30, ["oblique"])])
def test_tilted_slices_are_remarked_on(degrees, expected):
    angle = np.radians(degrees)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = trunk().volume.geometry.affine.copy()
    affine[:3, :3] = turn @ affine[:3, :3]
    findings = check_header(Geometry(SHAPE, affine), INFINITE).findings
    assert codes(findings) == expected
    assert all(f"{degrees} degrees" in finding.detail for finding in findings)


@pytest.mark.parametrize(
    ("dtype", "slope", "inter", "refused"),
    [
        (np.int16, 1, 0, False),
        (np.float32, 1, 0, False),
        (np.uint8, 1, 0, True),
        (np.uint16, 1, 0, True),
        (np.uint16, 1, -1024, False),
        (np.uint16, 2, -10, True),
        (np.uint8, 2, -200, False),
    ],
)
def test_a_header_whose_voxels_can_hold_no_fat_is_refused(tmp_path, dtype, slope, inter, refused):
    picture = image(np.zeros((20, 20, 8), dtype), np.diag([-12.0, -12.0, 10.0, 1.0]))
    picture.header.set_slope_inter(slope, inter)
    header = probe_scan(saved(tmp_path, packed(picture)))
    quality = check_header(header.geometry, header.lowest_hu)
    assert (quality.verdict == "refuse") is refused
    assert ("not_ct" in codes(quality.findings)) is refused


def test_slices_of_a_few_pixels_are_refused():
    assert check_header(Geometry((15, 40, 40), np.diag([-12.0, -9.0, 4.0, 1.0])), INFINITE).verdict == "refuse"
    assert check_header(Geometry((16, 40, 40), np.diag([-12.0, -9.0, 4.0, 1.0])), INFINITE).verdict == "accept"


ROOT = Path(__file__).parents[2]


def test_every_code_is_in_the_manual_and_has_words_on_the_page():
    manual = (ROOT / "docs/answers.md").read_text("utf-8")
    section = manual[manual.index("## The verdict") : manual.index("**The proof**")]
    listed = {
        code for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for code in re.findall(r"`(\w+)`", row)
    }
    assert listed == {*MEND, "no_liver"}
    words = (ROOT / "app/web/js/words.js").read_text("utf-8")
    assert set(re.findall(r"(\w+): ", words)) >= set(MEND)


@pytest.mark.data
@pytest.mark.parametrize(
    ("ct", "reference", "expected"),
    [
        ("lits/volume-5.nii.gz", "lits/segmentation-5.nii.gz", []),
        # the dome is missing, and the vessels hold no contrast
        (
            "nifti/totalsegmentator_ct_3mm.nii.gz",
            "nifti/totalsegmentator_liver_3mm.nii.gz",
            ["liver_cut_off", "phase_native"],
        ),
        ("lits/volume-1.nii.gz", "lits/segmentation-1.nii.gz", ["liver_cut_off"]),
    ],
)
def test_real_ct_is_not_refused(ct, reference, expected):
    folder = os.environ.get("HEPASEG_DATA")
    if not folder:
        pytest.skip("HEPASEG_DATA names no folder with real CT")
    volume = read_scan(Path(folder) / ct).volume
    labels = read_labels(Path(folder) / reference, volume.geometry)
    assert check_scan(volume).verdict == ("warn" if "volume-1" in ct else "accept")
    assert codes(check_segmentation(volume, labels)) == expected
