"""What the results name: the liver and each lesion, under the same numbers and tracking UIDs in SEG and SR."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.uid import generate_uid

from app.imaging.lesions import NumberedLesions, number_lesions
from app.imaging.volume import Label, Mask, Segmentation
from app.report import ModelReport, Report

LIVER_SEGMENT = 1
#: Of more lesions than this (a mask that is nothing but noise) the largest are written.
MOST_LESIONS = 999


@dataclass(frozen=True)
class Segment:
    """The liver (number 1, with its lesions) or lesion n of the report (number n + 1), and the network that drew it."""

    number: int
    label: str
    tracking_uid: str
    network: ModelReport

    @property
    def lesion(self) -> int | None:
        """The lesion's id in the report; None for the liver."""
        return self.number - 1 if self.number > LIVER_SEGMENT else None


def segments_of(report: Report) -> tuple[Segment, ...]:
    """The liver, then the lesions from the largest to the smallest; each call makes new tracking UIDs."""
    liver = Segment(LIVER_SEGMENT, "Liver", generate_uid(prefix=None), report.models["liver"])
    return (
        liver,
        *(
            Segment(lesion.id + 1, f"Lesion {lesion.id}", generate_uid(prefix=None), report.models["lesion"])
            for lesion in report.lesions[:MOST_LESIONS]
        ),
    )


class SegmentMasks:
    """The mask of each segment, slice by slice: never more than one slice, or the box of one lesion, at a time."""

    def __init__(self, segmentation: Segmentation) -> None:
        self._labels = segmentation.labels
        self._numbered: NumberedLesions = number_lesions(segmentation)

    def plane(self, segment: Segment, k: int) -> Mask:
        """Slice k of a segment, (rows, columns): the array's j and i."""
        if segment.lesion is None:
            liver: Mask = self._labels[:, :, k].T >= Label.LIVER
            return liver
        box = self._numbered.boxes[segment.lesion - 1]
        (i0, j0, k0), (i1, j1, k1) = box.start, box.stop
        plane = np.zeros(self._labels.shape[1::-1], dtype=np.bool_)
        if k0 <= k < k1:
            plane[j0:j1, i0:i1] = self._numbered.mask(segment.lesion)[:, :, k - k0].T
        return plane

    def present(self, segment: Segment) -> npt.NDArray[np.bool_]:
        """In which slices the segment has any voxel: (K,)."""
        if segment.lesion is None:
            return np.array([bool(self._labels[:, :, k].any()) for k in range(self._labels.shape[2])])
        box = self._numbered.boxes[segment.lesion - 1]
        present = np.zeros(self._labels.shape[2], dtype=np.bool_)
        present[box.start[2] : box.stop[2]] = self._numbered.mask(segment.lesion).any(axis=(0, 1))
        return present

    def exclusive_plane(self, segments: tuple[Segment, ...], k: int) -> npt.NDArray[np.uint16]:
        """Slice k as numbers of segments, (rows, columns): a lesion's where there is one, else the liver's, else 0."""
        plane = np.zeros(self._labels.shape[1::-1], dtype=np.uint16)
        for segment in segments:
            if segment.lesion is None or self._within(segment.lesion, k):
                plane[self.plane(segment, k)] = segment.number
        return plane

    def _within(self, lesion: int, k: int) -> bool:
        box = self._numbered.boxes[lesion - 1]
        return box.start[2] <= k < box.stop[2]
