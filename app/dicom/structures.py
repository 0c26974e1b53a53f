"""Reads RT structure sets from their bytes: pydicom's file reader and nothing else.

It shares no code with what writes them. Whether a voxel is in a region follows from the points that are in the file.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset

from app.dicom.readback import ON_GRID, BrokenResultError, Index
from app.imaging.dicom_header import unheard
from app.imaging.volume import Float64, Geometry


@dataclass(frozen=True)
class RegionInfo:
    """What a structure set says about one of its regions; the source is a segment of a segmentation."""

    name: str
    volume_ml: float
    segmentation_uid: str
    segment: int
    algorithm: tuple[str, str, str]


@dataclass(frozen=True, eq=False)
class Contour:
    """One closed line of a region: points_mm (n, 3) in RAS+ mm, and the slice and its frame that it names."""

    region: int
    points_mm: Float64
    source: tuple[str, int | None]

    def area_mm2(self) -> float:
        """What it encloses; a channel of no width adds nothing."""
        following = np.roll(self.points_mm, -1, axis=0)
        middle = self.points_mm.mean(axis=0)
        return float(np.linalg.norm(np.cross(self.points_mm - middle, following - middle).sum(axis=0))) / 2

    def voxels(self, geometry: Geometry) -> Index:
        """The voxels (n, 3) of a grid whose centres it encloses, by the even-odd rule.

        Raises BrokenResultError if it does not lie in one slice of the grid.
        """
        into = np.linalg.inv(geometry.affine[:3, :3]).T
        ijk: Float64 = (self.points_mm - geometry.affine[:3, 3]) @ into
        k = int(np.rint(ijk[0, 2]))
        if np.abs(ijk[:, 2] - k).max() > ON_GRID or not 0 <= k < geometry.shape[2]:
            raise BrokenResultError("A contour of the structure set does not lie in one slice of the scan.")
        i, j = _enclosed(ijk[:, :2])
        if len(i) and (min(i.min(), j.min()) < 0 or i.max() >= geometry.shape[0] or j.max() >= geometry.shape[1]):
            raise BrokenResultError("A contour of the structure set lies outside the scan.")
        return np.stack([i, j, np.full(len(i), k)], axis=1)


def _enclosed(points: Float64) -> tuple[Index, Index]:
    """The whole numbers i and j within a closed line of (n, 2) points, by the even-odd rule, row by row of j."""
    (i0, j0), (i1, j1) = points.T, np.roll(points, -1, axis=0).T
    low, high = (np.ceil(end(j0, j1)).astype(np.int64) for end in (np.minimum, np.maximum))
    edge = np.repeat(np.arange(len(points)), high - low)
    # The rows that each edge crosses, edge after edge.
    row = np.arange(len(edge)) - np.repeat(np.cumsum(high - low) - high, high - low)
    crossed = i0[edge] + (row - j0[edge]) * (i1 - i0)[edge] / (j1 - j0)[edge]
    column = np.ceil(crossed).astype(np.int64)
    corner = np.array([column.min(initial=0), row.min(initial=0)])
    size = np.array([column.max(initial=0), row.max(initial=0)]) - corner + 1
    flips = np.zeros(size[::-1], dtype=np.int32)
    np.add.at(flips, (row - corner[1], column - corner[0]), 1)
    j, i = np.nonzero(np.cumsum(flips, axis=1) % 2)
    return i + corner[0], j + corner[1]


class StructureFile:
    """A DICOM RT structure set. Raises whatever pydicom raises on bytes that are not one."""

    def __init__(self, content: bytes) -> None:
        with unheard():
            self._dataset = dcmread(io.BytesIO(content))
        self.regions = {int(item.ROINumber): _info(item) for item in self._dataset.StructureSetROISequence}

    @property
    def header(self) -> Dataset:
        """All attributes. They name the patient."""
        return self._dataset

    def contours(self) -> Iterator[Contour]:
        """Every closed line, region by region."""
        for region in self._dataset.ROIContourSequence:
            for item in region.get("ContourSequence", []):
                yield _contour(int(region.ReferencedROINumber), item)

    def source_uids(self) -> set[str]:
        """The SOP instances that the structure set says it was drawn on."""
        return {
            str(image.ReferencedSOPInstanceUID)
            for frame in self._dataset.ReferencedFrameOfReferenceSequence
            for study in frame.RTReferencedStudySequence
            for series in study.RTReferencedSeriesSequence
            for image in series.ContourImageSequence
        }


def _contour(region: int, item: Dataset) -> Contour:
    if item.ContourGeometricType != "CLOSED_PLANAR":
        raise BrokenResultError("The structure set holds a contour that is not closed.")
    # As text: pydicom would make an object of each number.
    raw = item.get_item("ContourData").value
    points = np.array(raw.split(b"\\") if isinstance(raw, bytes) else raw, dtype=np.float64).reshape(-1, 3)
    if len(points) != item.NumberOfContourPoints:
        raise BrokenResultError("A contour of the structure set has not as many points as it says.")
    image = item.ContourImageSequence[0]
    frame = image.get("ReferencedFrameNumber")
    named = str(image.ReferencedSOPInstanceUID), None if frame is None else int(frame)
    return Contour(region, points * (-1.0, -1.0, 1.0), named)


def _info(item: Dataset) -> RegionInfo:
    origin, algorithm = item.DefinitionSourceSequence[0], item.ROIDerivationAlgorithmIdentificationSequence[0]
    return RegionInfo(
        name=str(item.ROIName),
        volume_ml=float(item.ROIVolume),
        segmentation_uid=str(origin.ReferencedSOPInstanceUID),
        segment=int(origin.ReferencedSegmentNumber),
        algorithm=(str(algorithm.AlgorithmName), str(algorithm.AlgorithmVersion), str(algorithm.AlgorithmParameters)),
    )
