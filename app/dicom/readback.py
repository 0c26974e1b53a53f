"""Reads segmentation objects and structured reports from their bytes: pydicom's file reader and nothing else.

It shares no code with what writes them, and knows nothing of the order in which they were written. Where a frame
lies follows from the position and directions that are in the file. It also reads what other tools wrote.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.dataset import Dataset

from app.imaging.dicom_header import unheard
from app.imaging.volume import Float64, Geometry

#: A pixel of a frame must lie this close to the middle of a voxel, in voxels.
ON_GRID = 0.25

Index = npt.NDArray[np.int64]


class BrokenResultError(RuntimeError):
    """A DICOM result does not say what was found: a bug, never published."""


@dataclass(frozen=True, eq=False)
class Plane:
    """One segment in one slice. mask (rows, columns). origin_mm, along_row_mm, down_column_mm (3,): the middle of the
    first pixel, and the steps to the next column and the next row, in LPS mm.
    """

    segment: int
    mask: npt.NDArray[np.bool_]
    origin_mm: Float64
    along_row_mm: Float64
    down_column_mm: Float64

    def points_mm(self) -> Float64:
        """Where its pixels lie: (n, 3), RAS+ mm."""
        row, column = np.nonzero(self.mask)
        lps = self.origin_mm + column[:, None] * self.along_row_mm + row[:, None] * self.down_column_mm
        return lps * (-1.0, -1.0, 1.0)


@dataclass(frozen=True)
class SegmentInfo:
    """What a segmentation says about one of its segments; empty where it says nothing."""

    label: str
    property_code: str
    tracking_uid: str
    algorithm: tuple[str, str, str]


class SegmentationFile:
    """A DICOM segmentation, BINARY or LABELMAP. Raises whatever pydicom raises on bytes that are not one."""

    def __init__(self, content: bytes) -> None:
        with unheard():
            self._dataset = dcmread(io.BytesIO(content))
        # A label map describes its background as segment 0.
        described = {int(item.SegmentNumber): item for item in self._dataset.SegmentSequence}
        self.segments = {number: _info(item) for number, item in described.items() if number}
        self._shared = self._dataset.SharedFunctionalGroupsSequence[0]

    @property
    def header(self) -> Dataset:
        """All attributes. They name the patient."""
        return self._dataset

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel, by its pixel spacing and the distance of its slices."""
        measures = self._group(self._dataset.PerFrameFunctionalGroupsSequence[0], "PixelMeasuresSequence")
        between_rows, between_columns = (float(mm) for mm in measures.PixelSpacing)
        thickness = measures.get("SpacingBetweenSlices", measures.get("SliceThickness"))
        return between_rows * between_columns * float(thickness) / 1000.0

    def planes(self) -> Iterator[Plane]:
        """Every frame, of a label map once for each segment in it."""
        for number, frame in enumerate(self._dataset.PerFrameFunctionalGroupsSequence):
            values = self._values(number)
            if self._dataset.get("SegmentationType") == "LABELMAP":
                for segment in np.unique(values[values > 0]):
                    yield self._plane(frame, int(segment), values == segment)
            else:
                identity = self._group(frame, "SegmentIdentificationSequence")
                yield self._plane(frame, int(identity.ReferencedSegmentNumber), values > 0)

    def source_uids(self) -> set[str]:
        """The SOP instances that the frames say they were derived from."""
        frames = self._dataset.PerFrameFunctionalGroupsSequence
        return {
            str(image.ReferencedSOPInstanceUID)
            for frame in frames
            for derivation in frame.get("DerivationImageSequence", [])
            for image in derivation.get("SourceImageSequence", [])
        }

    def _group(self, frame: Dataset, keyword: str) -> Dataset:
        group: Dataset = (frame if keyword in frame else self._shared)[keyword].value[0]
        return group

    def _values(self, number: int) -> npt.NDArray[np.integer[Any]]:
        rows, columns, bits = (int(self._dataset[key].value) for key in ("Rows", "Columns", "BitsAllocated"))
        first, count = number * rows * columns, rows * columns
        if bits > 1:
            whole: npt.NDArray[np.integer[Any]] = np.frombuffer(self._dataset.PixelData, dtype=f"<u{bits // 8}")
            return whole[first : first + count].reshape(rows, columns)
        data = np.frombuffer(self._dataset.PixelData, dtype=np.uint8)
        in_bytes = np.unpackbits(data[first // 8 : -(-(first + count) // 8)], bitorder="little")
        return in_bytes[first % 8 : first % 8 + count].reshape(rows, columns)

    def _plane(self, frame: Dataset, segment: int, mask: npt.NDArray[np.bool_]) -> Plane:
        position = self._group(frame, "PlanePositionSequence").ImagePositionPatient
        directions = self._group(frame, "PlaneOrientationSequence").ImageOrientationPatient
        between_rows, between_columns = self._group(frame, "PixelMeasuresSequence").PixelSpacing
        return Plane(
            segment=segment,
            mask=mask,
            origin_mm=np.array(position, dtype=np.float64),
            along_row_mm=np.array(directions[:3], dtype=np.float64) * float(between_columns),
            down_column_mm=np.array(directions[3:], dtype=np.float64) * float(between_rows),
        )


def voxels_on(geometry: Geometry, points_mm: Float64) -> Index:
    """The voxels (n, 3) of a grid in which points (n, 3) in RAS+ mm lie. Raises BrokenResultError if any is off it."""
    ijk = np.linalg.solve(geometry.affine[:3, :3], (points_mm - geometry.affine[:3, 3]).T).T
    nearest = np.rint(ijk)
    if len(ijk) and np.abs(ijk - nearest).max() > ON_GRID:
        raise BrokenResultError("A frame of the segmentation does not lie on the grid of the scan.")
    if (nearest < 0).any() or (nearest >= geometry.shape).any():
        raise BrokenResultError("A frame of the segmentation lies outside the scan.")
    index: Index = nearest.astype(np.int64)
    return index


@dataclass(frozen=True)
class MeasuredGroup:
    """One group of a structured report: what it points at, and its numbers by (code, unit)."""

    tracking_uid: str
    segment: int
    segmentation_uid: str
    values: dict[tuple[str, str], float]


def measured_groups(content: bytes) -> list[MeasuredGroup]:
    """The measurement groups (TID 1411) of a structured report."""
    with unheard():
        dataset = dcmread(io.BytesIO(content))
    return [_measured(group) for group in _named(dataset, "125007")]


def _named(item: Dataset, code: str) -> Iterator[Dataset]:
    """The content items below an item, at any depth, whose concept name has this code."""
    for child in item.get("ContentSequence", []):
        if "ConceptNameCodeSequence" in child and child.ConceptNameCodeSequence[0].CodeValue == code:
            yield child
        yield from _named(child, code)


def _measured(group: Dataset) -> MeasuredGroup:
    tracking, segment = next(_named(group, "112040")), next(_named(group, "121191"))
    reference = segment.ReferencedSOPSequence[0]
    values = {}
    for child in group.ContentSequence:
        if child.ValueType == "NUM":
            number = child.MeasuredValueSequence[0]
            unit = str(number.MeasurementUnitsCodeSequence[0].CodeValue)
            values[str(child.ConceptNameCodeSequence[0].CodeValue), unit] = float(number.NumericValue)
    return MeasuredGroup(
        tracking_uid=str(tracking.UID),
        segment=int(reference.ReferencedSegmentNumber),
        segmentation_uid=str(reference.ReferencedSOPInstanceUID),
        values=values,
    )


def _info(item: Dataset) -> SegmentInfo:
    algorithm = (item.get("SegmentationAlgorithmIdentificationSequence") or [Dataset()])[0]
    said = (str(algorithm.get(f"Algorithm{what}", "")) for what in ("Name", "Version", "Parameters"))
    name, version, parameters = said
    return SegmentInfo(
        label=str(item.SegmentLabel),
        property_code=str(item.SegmentedPropertyTypeCodeSequence[0].CodeValue),
        tracking_uid=str(item.get("TrackingUID", "")),
        algorithm=(name, version, parameters),
    )
