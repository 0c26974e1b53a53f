"""Whether the answer is one that a liver can give. It warns and never refuses: the patient may be the odd one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from app.imaging.grey_values import mean_hu
from app.imaging.region import Box, Mask, largest_component
from app.imaging.volume import Label, Segmentation, Volume
from app.quality.anatomy import lungs
from app.quality.findings import Finding, warning
from app.quality.grid import body_axis
from app.quality.phase import check_phase
from app.quality.sample import Sample

LIVER_ML = (300.0, 4000.0)
LIVER_HU = (-20.0, 250.0)
MOST_LESION_BURDEN = 0.7
#: How much more liver may be found in the mirror, and how little says nothing.
MOST_MIRRORED, LEAST_MIRRORED_ML = 1.25, 200.0
#: A liver that reaches the first or last slice with less of its largest cross-section ends there, near enough.
CUT_OFF_SHARE = 0.1
#: How much of a liver thin bridges and spikes are: what opening with a ball of 6 mm takes away.
MOST_RAGGED = 0.25
#: How much of what opening leaves is the largest piece.
LEAST_IN_ONE_PIECE = 0.9
#: Metal at the level of the liver; bone ends below 2000 HU.
METAL_ABOVE_HU, MOST_METAL_ML = 2500, 1.0
#: What of the lungs must lie below the middle of the liver, and how much lung there must be to say so.
_LUNGS_BELOW, _LEAST_LUNG_ML = 0.7, 200.0


def check_segmentation(volume: Volume, segmentation: Segmentation, sample: Sample | None = None) -> tuple[Finding, ...]:
    """Warn where liver and lesions are not what they are in patients. No liver, no finding.

    sample: of the volume, where `check_scan` has looked at it.
    """
    box = segmentation.box
    if box is None:
        return ()
    sample = sample or Sample.of(volume)
    liver = sample.of_labels(segmentation) >= Label.LIVER
    return (
        *_amounts(segmentation, box),
        *_liver_hu(volume, segmentation, box),
        *_cut_off(segmentation, box),
        *(_of_sample(sample, liver) if liver.any() else ()),
        *_metal(volume, box),
    )


def check_mirrored(liver_ml: float, mirrored_ml: float) -> tuple[Finding, ...]:
    """Warn where the networks find more liver in the mirrored picture; they know on which side it lies.

    In 14 scans, real and synthetic, that lie as they say the mirror has 0.2 to 0.7 of it.
    """
    if mirrored_ml <= max(MOST_MIRRORED * liver_ml, LEAST_MIRRORED_ML):
        return ()
    seen = f"In the mirror there would be {mirrored_ml:.0f} ml of liver, and {liver_ml:.0f} as it is."
    return (warning("liver_on_left", f"{seen} Left and right may be swapped."),)


def _of_sample(sample: Sample, liver: Mask) -> Iterator[Finding]:
    yield from _side(sample, liver)
    yield from _upside_down(sample, liver)
    yield from _shape(liver, sample.spacing_mm)
    yield from check_phase(sample, liver)


def _amounts(segmentation: Segmentation, box: Box) -> Iterator[Finding]:
    labels = segmentation.labels[box.slices]
    lesions, parenchyma = (np.count_nonzero(labels == label) for label in (Label.LESION, Label.LIVER))
    liver_ml = (lesions + parenchyma) * segmentation.geometry.voxel_volume_ml
    burden = lesions / (lesions + parenchyma)
    if liver_ml < LIVER_ML[0]:
        yield warning("liver_small", f"The liver has {liver_ml:.0f} ml; in patients it has {LIVER_ML[0]:.0f} or more.")
    if liver_ml > LIVER_ML[1]:
        yield warning("liver_large", f"The liver has {liver_ml:.0f} ml; in patients it has {LIVER_ML[1]:.0f} or less.")
    if burden > MOST_LESION_BURDEN:
        yield warning("lesion_burden_high", f"Lesions take {burden:.0%} of the liver; that is rarely true.")


def _liver_hu(volume: Volume, segmentation: Segmentation, box: Box) -> Iterator[Finding]:
    hounsfield = mean_hu(volume, box, segmentation.labels[box.slices] >= Label.LIVER)
    if not LIVER_HU[0] <= hounsfield <= LIVER_HU[1]:
        yield warning("liver_hu", f"The liver has {hounsfield:.0f} HU on average; that is not liver tissue.")


def _cut_off(segmentation: Segmentation, box: Box) -> Iterator[Finding]:
    axis = body_axis(segmentation.geometry)
    across = [other for other in range(3) if other != axis]
    areas = np.count_nonzero(segmentation.labels[box.slices], axis=(across[0], across[1]))
    names = ("bottom", "top") if segmentation.geometry.axis_codes[axis] == "S" else ("top", "bottom")
    reached = (box.start[axis] == 0, box.stop[axis] == segmentation.geometry.shape[axis])
    ends = [
        name
        for name, at_end, area in zip(names, reached, areas[[0, -1]], strict=True)
        if at_end and area > CUT_OFF_SHARE * areas.max()
    ]
    if any(box.start[other] == 0 or box.stop[other] == segmentation.geometry.shape[other] for other in across):
        ends.append("side")
    if ends:
        yield warning("liver_cut_off", f"The liver reaches the {' and the '.join(sorted(ends))} of the scan.")


def _side(sample: Sample, liver: Mask) -> Iterator[Finding]:
    """In LPS order i grows to the patient's left."""
    if np.nonzero(liver)[0].mean() > np.nonzero(sample.filled | liver)[0].mean():
        yield warning("liver_on_left", "The liver lies in the patient's left half: left and right may be swapped.")


def _upside_down(sample: Sample, liver: Mask) -> Iterator[Finding]:
    airy = lungs(sample)
    middle = np.nonzero(liver)[2].mean()
    by_slice = airy.sum(axis=(0, 1))
    ml = float(by_slice.sum() * np.prod(sample.spacing_mm)) / 1000
    if ml > _LEAST_LUNG_ML and by_slice[: int(middle)].sum() > _LUNGS_BELOW * by_slice.sum():
        yield warning("upside_down", "What looks like lungs lies below the liver: head and foot seem to be swapped.")


def _shape(liver: Mask, spacing_mm: tuple[float, float, float]) -> Iterator[Finding]:
    ragged, in_one_piece = shape_of(liver, spacing_mm)
    if ragged > MOST_RAGGED:
        yield warning("liver_ragged", f"{ragged:.0%} of the mask is thin bridges and spikes; a liver is smooth.")
    if in_one_piece < LEAST_IN_ONE_PIECE:
        seen = f"Without thin bridges only {in_one_piece:.0%} of the mask hang together; a liver is one piece."
        yield warning("liver_in_pieces", seen)


def shape_of(liver: Mask, spacing_mm: tuple[float, float, float]) -> tuple[float, float]:
    """How much opening with a ball of 6 mm takes away, and how much of what it leaves is the largest piece; 0 to 1."""
    opened = ndimage.binary_opening(np.pad(liver, 2, mode="edge"), _ball(6.0, spacing_mm))[2:-2, 2:-2, 2:-2]
    left = np.count_nonzero(opened)
    if not left:
        return 1.0, 0.0
    return 1 - left / np.count_nonzero(liver), np.count_nonzero(largest_component(opened)) / left


def _ball(radius_mm: float, spacing_mm: tuple[float, float, float]) -> npt.NDArray[np.bool_]:
    reach = [int(radius_mm / spacing) for spacing in spacing_mm]
    grids = np.ogrid[tuple(slice(-n, n + 1) for n in reach)]
    squared = [(grid * spacing) ** 2 for grid, spacing in zip(grids, spacing_mm, strict=True)]
    ball: npt.NDArray[np.bool_] = squared[0] + squared[1] + squared[2] <= radius_mm**2
    return ball


def _metal(volume: Volume, box: Box) -> Iterator[Finding]:
    axis = body_axis(volume.geometry)
    level = [slice(None)] * 3
    level[axis] = box.slices[axis]
    metal_ml = np.count_nonzero(volume.voxels[tuple(level)] > METAL_ABOVE_HU) * volume.geometry.voxel_volume_ml
    if metal_ml > MOST_METAL_ML:
        yield warning("metal", f"There are {metal_ml:.0f} ml of metal at the level of the liver.")
