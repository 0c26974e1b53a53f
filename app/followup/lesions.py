"""The lesions of one scan with what its voxels and its network leave open about their size.

Two reasons for an interval, of which on each side the wider counts, for both speak of where the same edge lies:

voxels        the edge lies somewhere between the middle of the last voxel inside and that of the first one outside:
              half of the voxels along the edge (those that share a face with the other side) may be out, or in
probability   `volume_interval_ml` of the report: the volume at a higher and at a lower threshold

A diameter's interval is that of a lesion which keeps its shape: it goes with the cube root of the volume.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation, binary_erosion

from app.followup.estimate import Estimate, Interval
from app.imaging.diameters import Point, axial_axis, axial_diameters
from app.imaging.lesions import NumberedLesions, number_lesions
from app.imaging.likelihood import likelihood
from app.imaging.volume import Geometry, Mask, Segmentation


@dataclass(frozen=True)
class Lesion:
    """One lesion, by the number that it has in its own scan's report."""

    id: int
    volume_ml: Estimate
    diameter_mm: Estimate
    centroid_mm: Point
    touches_border: bool


@dataclass(frozen=True, eq=False)
class Date:
    """One of the two scans: its lesions, largest first, and its liver."""

    segmentation: Segmentation
    numbered: NumberedLesions
    lesions: tuple[Lesion, ...]
    liver_ml: Estimate

    @property
    def geometry(self) -> Geometry:
        """The grid of the scan."""
        return self.segmentation.geometry

    @property
    def slice_mm(self) -> float:
        """Distance between axial slices."""
        return self.geometry.spacing_mm[axial_axis(self.geometry)]


def measured(segmentation: Segmentation, intervals_ml: Mapping[int, Interval] | None = None) -> Date:
    """Measure one scan. intervals_ml: by lesion, as an earlier report says; else from the evidence, if any."""
    numbered = number_lesions(segmentation)
    known = _from_evidence(numbered, segmentation) if intervals_ml is None else intervals_ml
    geometry = segmentation.geometry
    lesions = [_lesion(numbered, number, geometry, known.get(number)) for number in range(1, len(numbered.boxes) + 1)]
    return Date(segmentation, numbered, tuple(lesions), _liver(segmentation))


def within_voxels(mask: Mask, voxel_ml: float) -> Estimate:
    """The volume of a mask, give or take half of the voxels along its edge."""
    padded = np.pad(mask, 1)
    count, inner, outer = (int(np.count_nonzero(m)) for m in (padded, binary_erosion(padded), binary_dilation(padded)))
    return Estimate(count * voxel_ml, (count + inner) / 2 * voxel_ml, (count + outer) / 2 * voxel_ml)


def _from_evidence(numbered: NumberedLesions, segmentation: Segmentation) -> Mapping[int, Interval]:
    found, voxel_ml = likelihood(numbered, segmentation), segmentation.geometry.voxel_volume_ml
    if found is None:
        return {}
    pairs = zip(found.low_counts.tolist(), found.high_counts.tolist(), strict=True)
    return {number: (low * voxel_ml, high * voxel_ml) for number, (low, high) in enumerate(pairs, start=1)}


def _lesion(numbered: NumberedLesions, number: int, geometry: Geometry, interval_ml: Interval | None) -> Lesion:
    mask, box = numbered.mask(number), numbered.boxes[number - 1]
    volume = within_voxels(mask, geometry.voxel_volume_ml)
    low, high = interval_ml or (volume.value, volume.value)
    volume = Estimate(volume.value, min(volume.low, low), max(volume.high, high))
    longest = axial_diameters(mask, geometry, box.start).longest_mm
    narrower, wider = ((each / volume.value) ** (1 / 3) for each in (volume.low, volume.high))
    x, y, z = geometry.to_mm(numbered.centroids_ijk[number - 1]).tolist()
    ends = zip(box.start, box.stop, geometry.shape, strict=True)
    cut_off = any(first == 0 or end == size for first, end, size in ends)
    return Lesion(number, volume, Estimate(longest, longest * narrower, longest * wider), (x, y, z), cut_off)


def _liver(segmentation: Segmentation) -> Estimate:
    box = segmentation.box
    if box is None:
        return Estimate(0.0, 0.0, 0.0)
    return within_voxels(segmentation.labels[box.slices] > 0, segmentation.geometry.voxel_volume_ml)
