"""Says whether a scan is an abdominal CT in Hounsfield units, and whether the answer is one a liver can give.

Before segmentation, `check_scan` refuses what is not a CT: no network should be asked about an MR. After it,
`check_segmentation` warns; it never refuses, for the mask may be right and the patient unusual. The limits were
tried on LiTS (clipped to -160..240 HU), TotalSegmentator and the synthetic abdomen: none of them is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, computed_field

from app.errors import NotCT
from app.imaging.volume import Float64, Geometry, Label, Segmentation, Volume

Severity = Literal["info", "warn", "refuse"]
Verdict = Literal["accept", "warn", "refuse"]

#: Fat and air around and in every body lie below this; MR, photographs and unscaled CT have next to nothing there.
FAT_BELOW_HU, LEAST_FAT_FRACTION = -20, 0.01
#: Blood, muscle and organs lie here, whatever the contrast.
SOFT_TISSUE_HU, LEAST_SOFT_FRACTION = (0, 200), 0.02
#: Only bone and metal are brighter; where much is, 1024 was not subtracted.
BONE_ABOVE_HU, MOST_BONE_FRACTION = 700, 0.2
#: What stands out from the air even where a scan was clipped to -160 HU.
BODY_ABOVE_HU = -140

FEWEST_SLICES = 5
#: Pixels along the edges of a slice, below which there is no picture.
FEWEST_PIXELS = 16
LEAST_COVERAGE_MM = 50.0
FIELD_OF_VIEW_MM = (150.0, 700.0)
#: Slices thicker than this many times the pixel size, that do not lie along the body axis, are coronal or sagittal.
ANISOTROPY = 1.5
MOST_TILT_DEGREES = 20.0

LIVER_ML = (300.0, 4000.0)
LIVER_HU = (-20.0, 250.0)
MOST_LESION_BURDEN = 0.7

#: Statistics look at about this many voxels along each axis.
_SAMPLES = 96


class Finding(BaseModel):
    """One thing worth knowing: a stable code, how serious it is, and a sentence."""

    model_config = ConfigDict(frozen=True)

    code: str
    severity: Severity
    detail: str


class Quality(BaseModel):
    """All findings about a scan; `verdict` is that of the most serious one."""

    model_config = ConfigDict(frozen=True)

    findings: tuple[Finding, ...] = ()

    @computed_field  # type: ignore[prop-decorator]  # mypy does not know decorated properties
    @property
    def verdict(self) -> Verdict:
        """Refuse, warn or accept."""
        severities = {finding.severity for finding in self.findings}
        if "refuse" in severities:
            return "refuse"
        return "warn" if "warn" in severities else "accept"


def check_scan(volume: Volume) -> Quality:
    """Look at grey values and grid before anything is computed."""
    return Quality(findings=(*_grey_values(volume), *_coverage(volume.geometry), *_direction(volume.geometry)))


def require(quality: Quality) -> None:
    """Raise NotCT, with the code of the first refusal and the sentences of all, if the scan was refused."""
    refusals = [finding for finding in quality.findings if finding.severity == "refuse"]
    if refusals:
        raise NotCT(" ".join(finding.detail for finding in refusals), code=refusals[0].code)


def check_segmentation(volume: Volume, segmentation: Segmentation) -> tuple[Finding, ...]:
    """Warn where liver and lesions are not what they are in patients. No liver, no finding."""
    liver = segmentation.liver
    if not liver.any():
        return ()
    return (
        *_amounts(segmentation),
        *_liver_hu(volume, liver),
        *_cut_off(liver, segmentation.geometry),
        *_side(volume, liver),
    )


def _warning(code: str, detail: str) -> Finding:
    return Finding(code=code, severity="warn", detail=detail)


def _refusal(code: str, detail: str) -> Finding:
    return Finding(code=code, severity="refuse", detail=detail)


def _sampled(array: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], tuple[int, ...]]:
    """Every n-th voxel along each axis, and the n."""
    steps = tuple(max(1, n // _SAMPLES) for n in array.shape)
    return array[tuple(slice(None, None, step) for step in steps)], steps


def _grey_values(volume: Volume) -> Iterator[Finding]:
    hounsfield, _ = _sampled(volume.voxels)
    if volume.voxels.min() == volume.voxels.max():
        yield _refusal("constant_image", f"Every voxel is {hounsfield.flat[0]}: there is no picture.")
    elif np.mean(hounsfield < FAT_BELOW_HU) < LEAST_FAT_FRACTION:
        yield _refusal(
            "not_ct",
            f"Hardly any voxel is below {FAT_BELOW_HU} HU, where the fat and air of a CT lie. It may be an MR or a "
            "photograph, a CT clipped above fat, or one whose rescale intercept (often -1024) was not applied.",
        )
    elif np.mean(hounsfield > BONE_ABOVE_HU) > MOST_BONE_FRACTION:
        yield _refusal(
            "not_ct",
            f"Much of the image is above {BONE_ABOVE_HU} HU, brighter than soft tissue can be. It may be an MR, or a "
            "CT whose rescale intercept (often -1024) was not applied.",
        )
    elif np.mean((hounsfield >= SOFT_TISSUE_HU[0]) & (hounsfield <= SOFT_TISSUE_HU[1])) < LEAST_SOFT_FRACTION:
        yield _refusal("not_ct", "Hardly any voxel is between 0 and 200 HU, where the organs of a CT lie.")


def _body_axis(geometry: Geometry) -> int:
    """The grid axis that comes closest to the patient's long axis."""
    return next(axis for axis, code in enumerate(geometry.axis_codes) if code in "SI")


def _coverage(geometry: Geometry) -> Iterator[Finding]:
    along = _body_axis(geometry)
    extent_mm = [n * spacing for n, spacing in zip(geometry.shape, geometry.spacing_mm, strict=True)]
    edges = [n for axis, n in enumerate(geometry.shape) if axis != along]
    if min(edges) < FEWEST_PIXELS:
        yield _refusal("too_few_pixels", f"A slice has {edges[0]} x {edges[1]} pixels; that is no picture of a body.")
    if geometry.shape[along] < FEWEST_SLICES:
        yield _warning("few_slices", f"The scan has {geometry.shape[along]} slices; a liver needs many more.")
    elif extent_mm[along] < LEAST_COVERAGE_MM:
        yield _warning("little_coverage", f"The scan is {extent_mm[along]:.0f} mm long; a liver is about 150 mm.")
    across = [extent for axis, extent in enumerate(extent_mm) if axis != along]
    if min(across) < FIELD_OF_VIEW_MM[0] or max(across) > FIELD_OF_VIEW_MM[1]:
        yield _warning("field_of_view", f"A slice is {across[0]:.0f} x {across[1]:.0f} mm; voxel sizes may be wrong.")


def _direction(geometry: Geometry) -> Iterator[Finding]:
    along = _body_axis(geometry)
    edges = sorted(geometry.spacing_mm)
    if edges[2] > ANISOTROPY * edges[1] and geometry.spacing_mm[along] != edges[2]:
        yield _warning("not_axial", "The slices are coronal or sagittal; the networks were trained on axial ones.")
    cosine = abs(geometry.affine[2, along]) / geometry.spacing_mm[along]
    tilt = float(np.degrees(np.arccos(min(1.0, cosine))))
    if tilt > MOST_TILT_DEGREES:
        yield _warning("oblique", f"The slices are tilted by {tilt:.0f} degrees against the axial plane.")


def _amounts(segmentation: Segmentation) -> Iterator[Finding]:
    lesions, parenchyma = (np.count_nonzero(segmentation.labels == label) for label in (Label.LESION, Label.LIVER))
    liver_ml = (lesions + parenchyma) * segmentation.geometry.voxel_volume_ml
    burden = lesions / (lesions + parenchyma)
    if liver_ml < LIVER_ML[0]:
        yield _warning("liver_small", f"The liver has {liver_ml:.0f} ml; in patients it has {LIVER_ML[0]:.0f} or more.")
    if liver_ml > LIVER_ML[1]:
        yield _warning("liver_large", f"The liver has {liver_ml:.0f} ml; in patients it has {LIVER_ML[1]:.0f} or less.")
    if burden > MOST_LESION_BURDEN:
        yield _warning("lesion_burden_high", f"Lesions take {burden:.0%} of the liver; that is rarely true.")


def _liver_hu(volume: Volume, liver: npt.NDArray[np.bool_]) -> Iterator[Finding]:
    mean_hu = float(np.mean(volume.voxels, where=liver))
    if not LIVER_HU[0] <= mean_hu <= LIVER_HU[1]:
        yield _warning("liver_hu", f"The liver has {mean_hu:.0f} HU on average; that is not liver tissue.")


def _cut_off(liver: npt.NDArray[np.bool_], geometry: Geometry) -> Iterator[Finding]:
    along = _body_axis(geometry)
    slices = np.moveaxis(liver, along, 0)
    first, last = slices[0].any(), slices[-1].any()
    names = ("bottom", "top") if geometry.axis_codes[along] == "S" else ("top", "bottom")
    ends = [name for name, touched in zip(names, (first, last), strict=True) if touched]
    if ends:
        yield _warning(
            "liver_cut_off",
            f"The liver reaches the {' and the '.join(sorted(ends))} of the scan; its volume may be incomplete.",
        )


def _side(volume: Volume, liver: npt.NDArray[np.bool_]) -> Iterator[Finding]:
    """World x grows to the patient's right, in RAS+ as NiBabel has it."""
    body = _centre_mm(volume.voxels > BODY_ABOVE_HU, volume.geometry)
    organ = _centre_mm(liver, volume.geometry)
    if body is not None and organ is not None and organ[0] < body[0]:
        yield _warning("liver_on_left", "The liver lies in the patient's left half: left and right may be swapped.")


def _centre_mm(mask: npt.NDArray[np.bool_], geometry: Geometry) -> Float64 | None:
    """Centre of a mask in RAS+ mm, (3,), from a sample of its voxels; None if the sample is empty."""
    sample, steps = _sampled(mask)
    found = np.argwhere(sample)
    return geometry.to_mm(found.mean(axis=0) * steps) if len(found) else None
