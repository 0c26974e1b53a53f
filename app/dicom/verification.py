"""What was written is read back from its bytes and compared with what was found; only then may anyone have it."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from app.dicom.readback import BrokenResultError, Index, SegmentationFile, measured_groups, voxels_on
from app.dicom.segments import LIVER_SEGMENT, Segment
from app.dicom.structures import RegionInfo, StructureFile
from app.imaging.dicom_source import DicomSource
from app.imaging.lesions import number_lesions
from app.imaging.volume import Float64, Label, Segmentation
from app.report import LesionReport, Report

#: Volumes and centroids follow from the positions in the file, which may be rounded to a tenth of a millimetre.
VOLUME_TOLERANCE = 5e-3
CENTROID_MM = 0.15
#: Contours run along the edges of voxels; points are rounded to a nanometre.
CONTOUR_TOLERANCE = 1e-4
#: Numbers in DICOM are decimal strings of 16 characters.
NUMBER_TOLERANCE = 1e-9
_SAME_SUM = 1e-6

_VOLUME, _LONGEST, _PERPENDICULAR = ("118565006", "ml"), ("103339001", "mm"), ("103340004", "mm")
_MEAN_HU, _BURDEN = ("112031", "[hnsf'U]"), ("lesion-burden", "1")


@dataclass
class _Tally:
    """What was read of one segment: voxels, how many of them are right, and the sum of their places in mm.

    enclosed_ml: what its contours enclose, if it has any.
    """

    voxels: int = 0
    hits: int = 0
    sum_mm: Float64 = field(default_factory=lambda: np.zeros(3))
    enclosed_ml: float = 0.0

    def add(self, right: npt.NDArray[np.bool_], points_mm: Float64) -> None:
        """Count voxels: whether each is right (n,), and where it lies (n, 3)."""
        self.voxels += len(right)
        self.hits += int(right.sum())
        self.sum_mm += points_mm.sum(axis=0)


def verify_segmentation(
    content: bytes, segmentation: Segmentation, segments: tuple[Segment, ...], report: Report, source: DicomSource
) -> None:
    """Compare each segment with its mask (Dice 1), its volume and centroid in patient mm with the report, and the
    slices it refers to with the source. Raises BrokenResultError.
    """
    written = SegmentationFile(content)
    if {number: info.tracking_uid for number, info in written.segments.items()} != {
        segment.number: segment.tracking_uid for segment in segments
    }:
        raise BrokenResultError("The segmentation does not have the segments it should have.")
    if not written.source_uids() <= {image.sop_instance_uid for image in source.images}:
        raise BrokenResultError("The segmentation refers to other slices than were sent.")
    tallies = _tallies(written, segmentation)
    is_label_map = written.header.SegmentationType == "LABELMAP"
    lesions = {lesion.id: lesion for lesion in report.lesions}
    expected = _voxel_counts(segmentation)
    for segment in segments:
        tally = tallies[segment.number]
        if segment.lesion is not None:
            _require_mask(segment, tally, expected[segment.lesion])
            _require_place(segment, tally, written.voxel_ml, lesions[segment.lesion])
        elif is_label_map:
            _require_mask(segment, tally, expected[0] - sum(expected[s.lesion] for s in segments if s.lesion))
        else:
            _require_mask(segment, tally, expected[0])
            _require_volume(segment, tally, written.voxel_ml, report.liver.volume_ml)


def verify_structures(
    content: bytes,
    segmentation: Segmentation,
    segments: tuple[Segment, ...],
    report: Report,
    reference: tuple[str, DicomSource],
) -> None:
    """Compare what the contours of each region enclose with its mask (Dice 1), volume and centroid in patient mm with
    the report, the slices they name with the source, and the segments they come from with the segmentation of
    `reference`. Raises BrokenResultError.
    """
    segmentation_uid, source = reference
    written = StructureFile(content)
    if set(written.regions) != {segment.number for segment in segments}:
        raise BrokenResultError("The structure set does not have the regions it should have.")
    if {region.segmentation_uid for region in written.regions.values()} != {segmentation_uid}:
        raise BrokenResultError("The structure set refers to another segmentation.")
    if written.source_uids() != {image.sop_instance_uid for image in source.images}:
        raise BrokenResultError("The structure set refers to other slices than were sent.")
    tallies = _drawn_tallies(written, segmentation, source)
    lesions = {lesion.id: lesion for lesion in report.lesions}
    expected, voxel_ml = _voxel_counts(segmentation), segmentation.geometry.voxel_volume_ml
    for segment in segments:
        tally, lesion = tallies[segment.number], lesions.get(segment.lesion or 0)
        _require_mask(segment, tally, expected[segment.lesion or 0])
        if lesion is not None:
            _require_place(segment, tally, voxel_ml, lesion)
        volume_ml = report.liver.volume_ml if lesion is None else lesion.volume_ml
        _require_said(segment, written.regions[segment.number], tally, volume_ml)


def verify_report(content: bytes, segmentation_uid: str, segments: tuple[Segment, ...], report: Report) -> None:
    """Compare every number in a structured report, and the segment it is about, with the report. Raises
    BrokenResultError.
    """
    found = {group.tracking_uid: group for group in measured_groups(content)}
    if set(found) != {segment.tracking_uid for segment in segments}:
        raise BrokenResultError("The structured report does not have the groups it should have.")
    lesions = {lesion.id: lesion for lesion in report.lesions}
    for segment in segments:
        group = found[segment.tracking_uid]
        if (group.segment, group.segmentation_uid) != (segment.number, segmentation_uid):
            raise BrokenResultError(f"The structured report points {segment.label} at another segment.")
        numbers = _liver(report) if segment.lesion is None else _lesion(lesions[segment.lesion], report)
        if set(group.values) != set(numbers) or not all(
            math.isclose(group.values[key], numbers[key], rel_tol=NUMBER_TOLERANCE, abs_tol=NUMBER_TOLERANCE)
            for key in numbers
        ):
            raise BrokenResultError(f"The structured report has other numbers than the report for {segment.label}.")


class _Truth:
    """What was found, as it is asked for: whether given voxels (n, 3) belong to a segment."""

    def __init__(self, segmentation: Segmentation) -> None:
        self.geometry = segmentation.geometry
        self._labels = segmentation.labels
        numbered = number_lesions(segmentation)
        self._ids, self._corner = numbered.ids, np.array(numbered.box.start)

    def of(self, number: int, ijk: Index, *, is_exclusive: bool = False) -> npt.NDArray[np.bool_]:
        """(n,). is_exclusive: the liver is what is left of it without its lesions."""
        if number == LIVER_SEGMENT:
            labels = self._labels[tuple(ijk.T)]
            liver: npt.NDArray[np.bool_] = labels == Label.LIVER if is_exclusive else labels >= Label.LIVER
            return liver
        within = ijk - self._corner
        inside = ((within >= 0) & (within < self._ids.shape)).all(axis=1)
        found = np.zeros(len(ijk), dtype=np.bool_)
        found[inside] = self._ids[tuple(within[inside].T)] == number - 1
        return found


def _tallies(written: SegmentationFile, segmentation: Segmentation) -> dict[int, _Tally]:
    """Compare frame by frame. Each slice may have one frame of a segment: twice one would make up for another."""
    truth = _Truth(segmentation)
    tallies: dict[int, _Tally] = defaultdict(_Tally)
    is_label_map = written.header.SegmentationType == "LABELMAP"
    seen: set[tuple[int, int]] = set()
    for plane in written.planes():
        points_mm = plane.points_mm()
        ijk = voxels_on(truth.geometry, points_mm)
        places = {(plane.segment, int(k)) for k in np.unique(ijk[:, 2])}
        if len(places) != 1 or places & seen:
            raise BrokenResultError("A frame of the segmentation is empty, doubled, or does not lie in one slice.")
        seen |= places
        tallies[plane.segment].add(truth.of(plane.segment, ijk, is_exclusive=is_label_map), points_mm)
    return tallies


def _drawn_tallies(written: StructureFile, segmentation: Segmentation, source: DicomSource) -> dict[int, _Tally]:
    """Fill the contours and compare slice by slice; those of a region in a slice must not overlap."""
    truth = _Truth(segmentation)
    slices = {(image.sop_instance_uid, image.frame_number): k for k, image in enumerate(source.images)}
    tallies: dict[int, _Tally] = defaultdict(_Tally)
    seen: set[tuple[int, int]] = set()
    for (region, named), group in itertools.groupby(written.contours(), key=lambda each: (each.region, each.source)):
        contours, k = list(group), slices.get(named, -1)
        ijk = np.concatenate([contour.voxels(truth.geometry) for contour in contours])
        if (region, k) in seen or (ijk[:, 2] != k).any():
            raise BrokenResultError("A contour of the structure set does not lie in the slice that it names.")
        seen.add((region, k))
        if len(np.unique(ijk[:, 0] + ijk[:, 1] * truth.geometry.shape[0])) != len(ijk):
            raise BrokenResultError("Two contours of the structure set overlap.")
        tallies[region].add(truth.of(region, ijk), truth.geometry.to_mm(ijk))
        enclosed_mm2 = sum(contour.area_mm2() for contour in contours)
        tallies[region].enclosed_ml += enclosed_mm2 * truth.geometry.spacing_mm[2] / 1000.0
    return tallies


def _require_said(segment: Segment, region: RegionInfo, tally: _Tally, volume_ml: float) -> None:
    if (region.name, region.segment) != (segment.label, segment.number):
        raise BrokenResultError(f"{segment.label} has another name or source in the structure set.")
    if not math.isclose(region.volume_ml, volume_ml, rel_tol=NUMBER_TOLERANCE):
        raise BrokenResultError(f"{segment.label} has another volume in the structure set than in the report.")
    if not math.isclose(tally.enclosed_ml, volume_ml, rel_tol=CONTOUR_TOLERANCE):
        raise BrokenResultError(f"{segment.label} has contours that enclose another volume than its voxels have.")


def _voxel_counts(segmentation: Segmentation) -> list[int]:
    """Of the liver with its lesions, then of lesions 1..n."""
    liver = sum(int(np.count_nonzero(segmentation.labels[:, :, k])) for k in range(segmentation.labels.shape[2]))
    return [liver, *(int(count) for count in number_lesions(segmentation).voxel_counts)]


def _require_mask(segment: Segment, tally: _Tally, expected: int) -> None:
    if not tally.voxels == tally.hits == expected:
        dice = 2 * tally.hits / (tally.voxels + expected) if tally.voxels + expected else 0.0
        raise BrokenResultError(f"{segment.label} as it was written is not what was found: Dice {dice:.4f}.")


def _require_volume(segment: Segment, tally: _Tally, voxel_ml: float, volume_ml: float) -> None:
    if not math.isclose(tally.voxels * voxel_ml, volume_ml, rel_tol=VOLUME_TOLERANCE):
        raise BrokenResultError(f"{segment.label} has another volume as it was written than in the report.")


def _require_place(segment: Segment, tally: _Tally, voxel_ml: float, lesion: LesionReport) -> None:
    _require_volume(segment, tally, voxel_ml, lesion.volume_ml)
    if np.linalg.norm(tally.sum_mm / tally.voxels - lesion.centroid_mm) > CENTROID_MM:
        raise BrokenResultError(f"{segment.label} lies elsewhere as it was written than in the report.")


def _liver(report: Report) -> dict[tuple[str, str], float]:
    numbers = {_VOLUME: report.liver.volume_ml, _BURDEN: report.lesion_burden}
    return numbers if report.liver.mean_hu is None else {**numbers, _MEAN_HU: report.liver.mean_hu}


def _lesion(lesion: LesionReport, report: Report) -> dict[tuple[str, str], float]:
    return {
        _VOLUME: lesion.volume_ml,
        _LONGEST: lesion.longest_axial_diameter_mm,
        _PERPENDICULAR: lesion.perpendicular_diameter_mm,
        _MEAN_HU: lesion.mean_hu,
        _BURDEN: lesion.volume_ml / report.liver.volume_ml,
    }
