"""Longest axial diameter of a lesion and the one perpendicular to it, as RECIST and the WHO measure them.

A lesion's outline in a slice runs midway between the voxels inside and those outside it, through the middles of the
voxels' edges. A lesion of one voxel is thus as long as the voxel and as wide, and a disc of 20 mm measures 20 mm
give or take a fraction of a voxel; between voxel centres it would be a voxel short.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull

from app.imaging.volume import Float64, Geometry, Mask

#: Lengths closer than this are equal: the same chord seen from another orientation differs by rounding.
SAME_LENGTH_MM = 1e-6


class Diameters(NamedTuple):
    """longest_mm: the longest chord within any one axial slice. perpendicular_mm: the longest across it there.

    Chords are those of the convex hull of the outline in the slice. Of several longest chords the one with the
    longest perpendicular counts, so that the orientation of the array does not decide.
    """

    longest_mm: float
    perpendicular_mm: float


def axial_axis(geometry: Geometry) -> int:
    """The array axis that comes closest to the patient's long axis; slices across it are called axial."""
    return next(axis for axis, code in enumerate(geometry.axis_codes) if code in "SI")


def axial_diameters(mask: Mask, geometry: Geometry) -> Diameters:
    """Measure the lesion in `mask` (bool, any box of the grid of `geometry`) in mm; an empty one has no extent.

    Lengths are right on anisotropic, oblique and sheared grids: they are taken in the plane of the slice.
    """
    through = axial_axis(geometry)
    plane = _plane_basis(geometry, through)
    slices = np.moveaxis(mask, through, 0)
    best = Diameters(0.0, 0.0)
    for inside in slices[slices.any(axis=(1, 2))]:
        corners = _outline(inside) @ plane
        if np.hypot(*np.ptp(corners, axis=0)) >= best.longest_mm - SAME_LENGTH_MM:
            best = _longer(best, _chords(corners))
    return best


def _plane_basis(geometry: Geometry, through: int) -> Float64:
    """(2, 2): steps along the two other array axes, in millimetres of a right-angled frame of the slice's plane."""
    a, b = (geometry.affine[:3, axis] for axis in range(3) if axis != through)
    u = a / np.linalg.norm(a)
    along = float(b @ u)
    return np.array([[np.linalg.norm(a), 0.0], [along, np.linalg.norm(b - along * u)]])


def _outline(inside: Mask) -> Float64:
    """(n, 2): points of the outline of a slice, in voxels, that its convex hull can have as corners.

    In each row only the first and the last voxel can be one.
    """
    rows = np.flatnonzero(inside.any(axis=1))
    first = inside[rows].argmax(axis=1)
    last = inside.shape[1] - 1 - inside[rows, ::-1].argmax(axis=1)
    ends = np.concatenate([np.stack([rows, first], axis=1), np.stack([rows, last], axis=1)])
    middles_of_edges = np.array([[0.5, 0.0], [-0.5, 0.0], [0.0, 0.5], [0.0, -0.5]])
    points: Float64 = (ends[:, None, :] + middles_of_edges).reshape(-1, 2)
    return points


def _longer(one: Diameters, other: Diameters) -> Diameters:
    if abs(one.longest_mm - other.longest_mm) <= SAME_LENGTH_MM:
        return one if one.perpendicular_mm >= other.perpendicular_mm else other
    return max(one, other)


def _chords(points_mm: Float64) -> Diameters:
    """Longest chord of the convex hull of points (n, 2) and the longest chord of the hull perpendicular to it."""
    hull = points_mm[ConvexHull(points_mm).vertices]
    between = hull[:, None, :] - hull[None, :, :]
    lengths = np.hypot(between[..., 0], between[..., 1])
    longest = float(lengths.max())
    best = Diameters(longest, 0.0)
    for i, j in np.argwhere(np.triu(lengths >= longest - SAME_LENGTH_MM)):
        best = _longer(best, Diameters(longest, _widest_across(hull, between[i, j] / longest)))
    return best


def _widest_across(hull: Float64, direction: npt.NDArray[np.float64]) -> float:
    """Longest chord of a convex polygon (n, 2) perpendicular to a unit vector.

    The length of such chords is concave and piecewise linear along the direction: it peaks at a corner.
    """
    t = hull @ direction
    s = hull @ np.array([-direction[1], direction[0]])
    ahead_t, ahead_s = np.roll(t, -1), np.roll(s, -1)
    span = ahead_t - t
    span[np.abs(span) <= SAME_LENGTH_MM] = np.nan  # a side across the direction: its two corners stand for it
    where = (t[:, None] - t) / span  # (corner, side): how far along the side the line through the corner meets it
    meets = np.abs(where - 0.5) * np.abs(span) <= np.abs(span) / 2 + SAME_LENGTH_MM
    met = s + np.clip(where, 0, 1) * (ahead_s - s)
    high = np.maximum(np.where(meets, met, -np.inf).max(axis=1), s)
    low = np.minimum(np.where(meets, met, np.inf).min(axis=1), s)
    return float((high - low).max())
