"""Distances between the surfaces of two masks, weighted by area.

Surfaces and their areas are those of DeepMind's `surface-distance`: elements at the corners between voxels, so that on
an anisotropic grid a surface counts by its area and not by its voxels. A surface is closed: it also runs along the edge
of the scan.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree
from surface_distance import lookup_tables

from app.imaging.region import bounding_box
from app.imaging.volume import Float64, Geometry, Mask

#: A distance that is the tolerance but for rounding is within it.
ROUNDING_MM = 1e-6


class Surface(NamedTuple):
    """Where a surface runs: points_mm (n, 3) RAS+, and the area in mm² that each stands for (n,)."""

    points_mm: Float64
    areas_mm2: Float64


class SurfaceDistances(NamedTuple):
    """How far each point of two surfaces is from the other surface: mm and mm², both ways."""

    there_mm: Float64
    there_mm2: Float64
    back_mm: Float64
    back_mm2: Float64

    @property
    def area_mm2(self) -> float:
        """Of both surfaces together."""
        return float(self.there_mm2.sum() + self.back_mm2.sum())

    def mean_mm(self) -> float:
        """ASSD: mean over both surfaces together, by area."""
        return float((self.there_mm @ self.there_mm2 + self.back_mm @ self.back_mm2) / self.area_mm2)

    def root_mean_square_mm(self) -> float:
        """RMSD: root of the mean square over both surfaces together, by area."""
        squares = self.there_mm**2 @ self.there_mm2 + self.back_mm**2 @ self.back_mm2
        return float(np.sqrt(squares / self.area_mm2))

    def percentile_mm(self, share: float) -> float:
        """The larger of the two directed percentiles: the distance that `share` of the area does not exceed."""
        there = _percentile(self.there_mm, self.there_mm2, share)
        return max(there, _percentile(self.back_mm, self.back_mm2, share))

    def within(self, tolerance_mm: float) -> float:
        """NSD, the surface Dice: the share of both surfaces' area that lies within a tolerance of the other."""
        near = self.there_mm2[self.there_mm <= tolerance_mm + ROUNDING_MM].sum()
        return float((near + self.back_mm2[self.back_mm <= tolerance_mm + ROUNDING_MM].sum()) / self.area_mm2)


def surface_distances(mask: Mask, reference: Mask, geometry: Geometry) -> SurfaceDistances:
    """Compare two masks: bool, not empty, of one shape, any box of the grid of `geometry` that holds both."""
    one, other = surface_of(mask, geometry), surface_of(reference, geometry)
    return SurfaceDistances(_nearest(one, other), one.areas_mm2, _nearest(other, one), other.areas_mm2)


def surface_of(mask: Mask, geometry: Geometry) -> Surface:
    """The surface of a mask: bool, not empty. Its points are right but for a shift that is the same for any mask."""
    box = bounding_box(mask, geometry.spacing_mm, 0.0)
    padded = np.pad(mask[box.slices].astype(np.uint8), 1)
    a, b, c = (n - 1 for n in padded.shape)
    code = np.zeros((a, b, c), dtype=np.uint8)
    for (i, j, k), bit in np.ndenumerate(lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL):
        code += np.uint8(bit) * padded[i : i + a, j : j + b, k : k + c]
    corners = np.argwhere((code != 0) & (code != 255))
    area_of = lookup_tables.create_table_neighbour_code_to_surface_area(geometry.spacing_mm)
    areas: npt.NDArray[np.float64] = area_of[code[tuple(corners.T)]]
    return Surface(geometry.to_mm(corners + box.start - 0.5), areas)


def _nearest(surface: Surface, other: Surface) -> Float64:
    """Distance in mm from each point of a surface to the nearest point of the other."""
    distances, _ = cKDTree(other.points_mm).query(surface.points_mm, workers=-1)
    return np.asarray(distances, dtype=np.float64)


def _percentile(distances_mm: Float64, areas_mm2: Float64, share: float) -> float:
    order = np.argsort(distances_mm)
    reached = np.cumsum(areas_mm2[order]) / areas_mm2.sum()
    # Rounding must not decide where exactly that share is reached.
    at = min(int(np.searchsorted(reached, share - 1e-9)), len(order) - 1)
    return float(distances_mm[order[at]])
