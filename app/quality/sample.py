"""A scan on a grid of about 4 mm, by which everything but noise is judged: no full-size copy is made."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from app.imaging.region import Mask, largest_component
from app.imaging.volume import Segmentation, Volume

Values = npt.NDArray[np.int16]

#: Millimetres between the voxels that are looked at, in a slice and from slice to slice.
APART_MM = 4.0
#: What stands out from the air even where a scan was clipped to -160 HU.
BODY_ABOVE_HU = -140
#: Whatever is thinner, in voxels of the sample, is no body: tables, sheets, noise in the air.
_OPENING = np.ones((3, 3, 1), np.bool_)


@dataclass(frozen=True, eq=False)
class Sample:
    """Every n-th voxel of a scan in "LPS" order.

    hounsfield: int16 (i to left, j to posterior, k to superior). spacing_mm: between its voxels. steps: the n of each
    axis.
    """

    hounsfield: Values
    spacing_mm: tuple[float, float, float]
    steps: tuple[int, int, int]

    @classmethod
    def of(cls, volume: Volume) -> Sample:
        """Of a volume in any orientation."""
        upright = volume.reoriented("LPS")
        i, j, k = (max(1, round(APART_MM / spacing)) for spacing in upright.geometry.spacing_mm)
        x, y, z = upright.geometry.spacing_mm
        return cls(np.ascontiguousarray(upright.voxels[::i, ::j, ::k]), (i * x, j * y, k * z), (i, j, k))

    def of_labels(self, segmentation: Segmentation) -> npt.NDArray[np.uint8]:
        """The labels of the voxels that are looked at."""
        i, j, k = self.steps
        return np.ascontiguousarray(segmentation.reoriented("LPS").labels[::i, ::j, ::k])

    @cached_property
    def body(self) -> Mask:
        """The largest piece of what is not air, lungs and bowel gas left out."""
        opened = ndimage.binary_opening(self.hounsfield > BODY_ABOVE_HU, _OPENING)
        return largest_component(opened) if opened.any() else opened

    @cached_property
    def filled(self) -> Mask:
        """The body with the air in it, slice by slice."""
        slices = [ndimage.binary_fill_holes(self.body[:, :, k]) for k in range(self.body.shape[2])]
        return np.stack(slices, axis=2)

    @cached_property
    def clipped_at_hu(self) -> int | None:
        """The lowest value, if so many voxels have it that all below it was cut off, or filled in; else None."""
        lowest = int(self.hounsfield.min())
        return lowest if np.mean(self.hounsfield == lowest) >= 0.01 else None
