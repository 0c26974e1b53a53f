"""Surfaces of masks, between the voxels: their corners, their area, and how far apart two of them are.

A voxel is a box; a surface consists of the faces between voxels inside and outside, and its corners are where voxels of
both kinds meet. The shortest distance between two such surfaces is one between two corners, so it is exact.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.spatial import SphericalVoronoi, cKDTree

from app.imaging.volume import Float64, Geometry, Mask, Segmentation

#: One of each pair of opposite directions from a voxel to its 26 neighbours.
DIRECTIONS = tuple(step for step in product((1, 0, -1), repeat=3) if step > (0, 0, 0))
#: A first look at every so-manieth corner tells the search for the shortest distance where it may stop.
_SAMPLE = 50
_ALL_BUT_LAST, _REST = slice(None, -1), slice(1, None)


def corners_mm(mask: Mask, geometry: Geometry, start: tuple[int, int, int]) -> Float64:
    """(n, 3) RAS+ mm: the corners of a mask's surface. mask: bool, the box of the grid that begins at voxel `start`.

    There is no surface at the edge of the array: pad the mask where there should be one.
    """
    everywhere = somewhere = mask
    for axis in range(3):
        near, far = (tuple(part if n == axis else slice(None) for n in range(3)) for part in (_ALL_BUT_LAST, _REST))
        everywhere, somewhere = everywhere[near] & everywhere[far], somewhere[near] | somewhere[far]
    # Transposed, for arrays are stored with their first index running fastest.
    kji = np.argwhere((everywhere ^ somewhere).T)
    return geometry.to_mm(kji[:, ::-1] + (np.array(start) + 0.5))


class Capsule:
    """The surface of the liver with its lesions. Where the scan cuts the liver off, there is none."""

    def __init__(self, segmentation: Segmentation) -> None:
        box, geometry = segmentation.box, segmentation.geometry
        if box is None:
            raise ValueError("without a liver there is no capsule")
        ends = zip(box.start, box.stop, geometry.shape, strict=True)
        (a, d), (b, e), (c, f) = ((max(first - 1, 0), min(end + 1, size)) for first, end, size in ends)
        # Beyond its edge the scan goes on as it ends there: so the edge itself is no surface.
        inside = np.pad(segmentation.labels[a:d, b:e, c:f] > 0, 1, mode="edge")
        corners = corners_mm(inside, geometry, (a - 1, b - 1, c - 1))
        # Neither is worth its time for one question about each lesion.
        self._tree = cKDTree(corners, balanced_tree=False, compact_nodes=False) if len(corners) else None

    def distance_mm(self, corners: Float64) -> float | None:
        """Shortest distance from a lesion's surface (n, 3); None if the scan shows no capsule."""
        if self._tree is None:
            return None
        nearest = np.min(self._tree.query(corners[::_SAMPLE])[0])
        nearer, _ = self._tree.query(corners, distance_upper_bound=float(nearest))
        return float(min(nearest, np.min(nearer)))


def sphericity(mask: Mask, geometry: Geometry, area_mm2: float) -> float:
    """Surface of the ball of equal volume over that of the mask: 1 for a ball, less for what is not.

    Of a few voxels the area is too rough to say; what it would put above 1 is 1.
    """
    volume_mm3 = int(np.count_nonzero(mask)) * geometry.voxel_volume_ml * 1000
    return min(1.0, float(np.cbrt(36 * np.pi * volume_mm3**2)) / area_mm2)


def direction_weights(geometry: Geometry) -> npt.NDArray[np.float64]:
    """(13,): the share of all directions in space that is nearest to each of `DIRECTIONS`; they sum to 1."""
    steps_mm = np.array(DIRECTIONS) @ geometry.affine[:3, :3].T
    units = steps_mm / np.linalg.norm(steps_mm, axis=1, keepdims=True)
    areas = SphericalVoronoi(np.concatenate([units, -units])).calculate_areas()
    weights: npt.NDArray[np.float64] = areas[: len(units)] / areas[: len(units)].sum()
    return weights


def area_mm2(mask: Mask, geometry: Geometry, weights: npt.NDArray[np.float64]) -> float:
    """Surface of a mask by Crofton's formula: how often lines in 13 directions enter it.

    Unlike the faces or a mesh of the voxels, which make a ball's surface half, or a tenth, too large. Lehmann and
    Legland, Efficient N-dimensional surface estimation using Crofton formula (2012).
    """
    voxel_mm3 = geometry.voxel_volume_ml * 1000
    count = int(np.count_nonzero(mask))
    total = 0.0
    for step, weight in zip(DIRECTIONS, weights, strict=True):
        near = tuple(slice(max(-d, 0), n - max(d, 0)) for d, n in zip(step, mask.shape, strict=True))
        far = tuple(slice(max(d, 0), n - max(-d, 0)) for d, n in zip(step, mask.shape, strict=True))
        entries = count - int(np.count_nonzero(mask[near] & mask[far]))
        length_mm = float(np.linalg.norm(geometry.affine[:3, :3] @ step))
        total += weight * entries * voxel_mm3 / length_mm
    return 4 * total
