"""A liver as signed distances to its surface, on a coarse grid along the patient's axes: what registration looks at."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import affine_transform, distance_transform_edt

from app.imaging.volume import Float64, Geometry, Mask, Segmentation

#: Fine enough for an error of a few mm, coarse enough for seconds.
SPACING_MM = 4.0
MARGIN_MM = 24.0
#: Farther away than this nothing pulls any more.
REACH_MM = 30.0

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class DistanceMap:
    """signed_mm: float32 (X, Y, Z), negative inside, up to `REACH_MM`, on `geometry`, whose axes are RAS+."""

    signed_mm: Float32
    geometry: Geometry

    @property
    def inside(self) -> Mask:
        """The liver on this grid."""
        inside: Mask = self.signed_mm < 0
        return inside

    @property
    def centre_mm(self) -> Float64:
        """The middle of the liver, RAS+ mm."""
        return self.geometry.to_mm(np.argwhere(self.inside).mean(axis=0))


def distance_map(segmentation: Segmentation) -> DistanceMap:
    """The liver of a segmentation, whatever its grid. Raises ValueError without a liver."""
    box, source = segmentation.box, segmentation.geometry
    if box is None:
        raise ValueError("without a liver there are no distances")
    grid = _around(source.to_mm(list(itertools.product(*zip(box.start, box.stop, strict=True)))))
    to_source = np.linalg.inv(source.affine) @ grid.affine
    # One voxel of background around it, so that the surface is closed at the edge of the scan too.
    offset = to_source[:3, 3] - np.array(box.start) + 1
    liver = np.pad((segmentation.labels[box.slices] > 0).view(np.uint8), 1)
    share = np.empty(grid.shape, dtype=np.float32)
    affine_transform(liver, to_source[:3, :3], offset, output=share, order=1)
    inside = share >= 0.5
    if not inside.any():
        # A liver of a few voxels: registration will find that it does not fit.
        inside[tuple(n // 2 for n in grid.shape)] = True
    # From the middles of voxels to the surface between them.
    signed = np.where(inside, 0.5 - _depth(inside), _depth(~inside) - 0.5) * SPACING_MM
    return DistanceMap(np.minimum(signed, REACH_MM).astype(np.float32), grid)


def _depth(mask: Mask) -> Float64:
    return np.asarray(distance_transform_edt(mask), dtype=np.float64)


def _around(corners_mm: Float64) -> Geometry:
    start = corners_mm.min(axis=0) - MARGIN_MM
    a, b, c = (math.ceil(length / SPACING_MM) + 1 for length in corners_mm.max(axis=0) + MARGIN_MM - start)
    affine = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    affine[:3, 3] = start
    return Geometry((a, b, c), affine)
