"""Parts of a grid: the largest component of a mask, and the box around it with a margin in mm.

One home for both, used alike by the cascade and by the training of the lesion network: the crop is part of
the model. Axis order is whatever the caller's array has, as long as `spacing_mm` has the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cc3d
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]

#: A margin of 9.0000001 voxels is one of 9: spacings come out of affines with rounding errors.
MARGIN_TOLERANCE_VOXELS = 1e-4


@dataclass(frozen=True)
class Box:
    """A box of voxels: `start` is its first voxel along each axis, `stop` the one after its last."""

    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """What to index the array with: a view of the box."""
        a, b, c = (slice(first, end) for first, end in zip(self.start, self.stop, strict=True))
        return a, b, c

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        a, b, c = (end - first for first, end in zip(self.start, self.stop, strict=True))
        return a, b, c

    def moved(self, by: tuple[int, int, int]) -> Box:
        """The box so many voxels further along each axis."""
        (a, b, c), (d, e, f), (i, j, k) = self.start, self.stop, by
        return Box((a + i, b + j, c + k), (d + i, e + j, f + k))

    def within(self, other: Box) -> tuple[slice, slice, slice]:
        """What to index an array with that covers only `other`, which holds this box."""
        a, b, c = (
            slice(first - origin, end - origin)
            for first, end, origin in zip(self.start, self.stop, other.start, strict=True)
        )
        return a, b, c


def bounding_box(mask: Mask, spacing_mm: Sequence[float], margin_mm: float) -> Box:
    """The smallest box that holds every voxel of the mask and `margin_mm` around it, cut off at the grid.

    mask: bool, three axes. spacing_mm: one per axis of the mask, in its order. The margin is rounded up to
    whole voxels per axis. Raises ValueError if the mask is empty or the margin negative.
    """
    if not margin_mm >= 0:
        raise ValueError(f"a margin must be at least 0 mm, not {margin_mm}")
    start, stop = _extent(mask)
    margins = [math.ceil(margin_mm / spacing - MARGIN_TOLERANCE_VOXELS) for spacing in spacing_mm]
    first = [max(a - margin, 0) for a, margin in zip(start, margins, strict=True)]
    end = [min(b + margin, n) for b, margin, n in zip(stop, margins, mask.shape, strict=True)]
    return Box((first[0], first[1], first[2]), (end[0], end[1], end[2]))


def _extent(mask: Mask) -> tuple[list[int], list[int]]:
    """First and one past last voxel of the mask along each axis."""
    start, stop = [0, 0, 0], list(mask.shape)
    for axis in range(3):
        inner = mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        hit = np.flatnonzero(inner.any(axis=tuple(other for other in range(3) if other != axis)))
        if not hit.size:
            raise ValueError("an empty mask has no bounding box")
        start[axis], stop[axis] = start[axis] + int(hit[0]), start[axis] + int(hit[-1]) + 1
    return start, stop


def touching_components(mask: Mask) -> npt.NDArray[np.unsignedinteger]:
    """The 26-connected parts of the mask, numbered from 1: faces, edges and corners connect; 0 is outside."""
    # Unpadded, cc3d 4.1 fails on components that lie as close as they can, such as 1 0 1 in a row.
    padded = np.pad(mask, 1)
    components: npt.NDArray[np.unsignedinteger] = cc3d.connected_components(padded, connectivity=26, binary_image=True)
    return components[1:-1, 1:-1, 1:-1]


def components_with(mask: Mask, seeds: Mask) -> Mask:
    """The 26-connected parts of the mask that hold a voxel of the seeds: hysteresis (Canny 1986)."""
    kept = np.zeros_like(mask)
    if (mask & seeds).any():
        start, stop = _extent(mask)
        inner = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        components = touching_components(mask[inner])
        chosen = np.zeros(int(components.max()) + 1, np.bool_)
        chosen[components[mask[inner] & seeds[inner]]] = True
        kept[inner] = chosen[components]
    return kept


def largest_component(mask: Mask) -> Mask:
    """The largest 6-connected part of the mask; of an empty mask, an empty one.

    Six neighbours, not 26: a leak into spleen or stomach that hangs on by an edge or a corner falls away, and
    no liver holds together by corners. Of two parts of equal size one is taken, the same for the same array.
    """
    largest = np.zeros_like(mask)
    if mask.any():
        start, stop = _extent(mask)
        inner = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        largest[inner] = cc3d.largest_k(mask[inner], k=1, connectivity=6) > 0
    return largest
