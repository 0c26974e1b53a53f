"""Which lesion a voxel belongs to: the one home of lesion numbers, used by the report, the masks and the picture."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import cc3d
import numpy as np
import numpy.typing as npt

from app.imaging.region import Box, bounding_box, touching_components
from app.imaging.touching import split_touching
from app.imaging.volume import Float64, Geometry, Label, Segmentation

#: Lesion numbers are uint16; of more components than this (a mask that is nothing but noise) the largest count.
MOST_LESIONS = 65535

Ids = npt.NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class NumberedLesions:
    """The lesions, numbered 1..n from the largest to the smallest.

    A lesion is a 26-connected component of the lesion mask, or a part of one if the segmentation splits them.
    Lesions of equal size are numbered from head to foot, then from front to back, then from right to left, so that
    numbers do not depend on how the array is stored.
    ids: uint16, 0 outside lesions, on `box` of the grid of `shape`. voxel_counts (n,), centroids_ijk (n, 3) and
    boxes (n) belong to lesions 1..n, in indices of the whole grid.
    """

    shape: tuple[int, int, int]
    box: Box
    ids: Ids
    voxel_counts: npt.NDArray[np.int64]
    centroids_ijk: Float64
    boxes: tuple[Box, ...]

    @cached_property
    def on_grid(self) -> Ids:
        """The numbers on the whole grid: uint16 (I, J, K)."""
        whole = np.zeros(self.shape, dtype=np.uint16, order="F")
        whole[self.box.slices] = self.ids
        return whole

    def mask(self, number: int) -> npt.NDArray[np.bool_]:
        """Where lesion `number` lies within its own box."""
        own: npt.NDArray[np.bool_] = self.ids[self.boxes[number - 1].within(self.box)] == number
        return own


#: Half a dozen readers ask for the lesions of one segmentation, which never changes.
_KNOWN: WeakKeyDictionary[Segmentation, NumberedLesions] = WeakKeyDictionary()


def number_lesions(segmentation: Segmentation) -> NumberedLesions:
    """Find and number the lesions of a segmentation; without any, all arrays are empty. Found once, then known."""
    known = _KNOWN.get(segmentation)
    if known is None:
        known = _KNOWN[segmentation] = _numbered(segmentation)
    return known


def _numbered(segmentation: Segmentation) -> NumberedLesions:
    geometry, liver_box = segmentation.geometry, segmentation.box
    if liver_box is None or not (mask := segmentation.labels[liver_box.slices] == Label.LESION).any():
        nowhere = Box((0, 0, 0), (0, 0, 0))
        nothing = np.zeros((0, 0, 0), dtype=np.uint16)
        return NumberedLesions(geometry.shape, nowhere, nothing, np.zeros(0, np.int64), np.zeros((0, 3)), ())
    inner = bounding_box(mask, geometry.spacing_mm, 0.0)
    components = touching_components(mask[inner.slices])
    if segmentation.split_lesions:
        components = split_touching(components, geometry)
    return _in_order(components, inner.moved(liver_box.start), geometry)


def _in_order(components: npt.NDArray[np.unsignedinteger], box: Box, geometry: Geometry) -> NumberedLesions:
    """Number components (0 is background) on `box` of a grid."""
    found = cc3d.statistics(components, no_slice_conversion=True)
    counts = found["voxel_counts"][1:].astype(np.int64)
    centroids = np.asarray(found["centroids"][1:], dtype=np.float64) + box.start
    x, y, z = np.round(geometry.to_mm(centroids), 3).T
    order = np.lexsort((-x, -y, -z, -counts))[:MOST_LESIONS]
    number_of = np.zeros(len(counts) + 1, dtype=np.uint16)
    number_of[order + 1] = np.arange(1, len(order) + 1)
    extents = found["bounding_boxes"][1:].astype(np.int64)[order]
    return NumberedLesions(
        shape=geometry.shape,
        box=box,
        ids=number_of[components],
        voxel_counts=counts[order],
        centroids_ijk=centroids[order],
        boxes=tuple(_box(extent, box.start) for extent in extents),
    )


def _box(extent: npt.NDArray[np.int64], origin: tuple[int, int, int]) -> Box:
    """From cc3d's first and last index along each axis."""
    a, b, c = (int(extent[2 * axis]) + origin[axis] for axis in range(3))
    d, e, f = (int(extent[2 * axis + 1]) + origin[axis] + 1 for axis in range(3))
    return Box((a, b, c), (d, e, f))
