"""Longest axial diameter of a lesion and the one perpendicular to it, as RECIST and the WHO measure them.

A lesion's outline in a slice runs midway between the voxels inside and those outside it, through the middles of the
voxels' edges. A lesion of one voxel is thus as long as the voxel and as wide, and a disc of 20 mm measures 20 mm
give or take a fraction of a voxel; between voxel centres it would be a voxel short.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull

from app.imaging.volume import Float64, Geometry, Mask

#: Lengths closer than this are equal: the same chord seen from another orientation differs by rounding.
SAME_LENGTH_MM = 1e-6

Point = tuple[float, float, float]
Chord = tuple[Point, Point]


class Diameters(NamedTuple):
    """longest_mm: the longest chord within any one axial slice. perpendicular_mm: the longest across it there.

    Chords are those of the convex hull of the outline in the slice; they cross. The ends of the longest lie on the
    outline, those of the perpendicular on the hull, which spans the bays of a lesion that is not convex. slice: the
    number of the slice along the array axis across it. ends: RAS+ mm, the one nearer to the head first, then the one
    nearer to the front, then to the right.

    Of several longest chords the one with the longest perpendicular counts, of several of these the one whose ends
    come first in the order above; of several longest perpendiculars, the one nearest to the middle of the chord. So the
    orientation of the array decides nothing.
    """

    longest_mm: float
    perpendicular_mm: float
    slice: int
    longest_ends_mm: Chord
    perpendicular_ends_mm: Chord


class _Cross(NamedTuple):
    """Two crossing chords in one slice: their ends (2, 2) each, in mm of the slice's plane."""

    longest_mm: float
    perpendicular_mm: float
    slice: int
    longest: Float64
    perpendicular: Float64


def axial_axis(geometry: Geometry) -> int:
    """The array axis that comes closest to the patient's long axis; slices across it are called axial."""
    return next(axis for axis, code in enumerate(geometry.axis_codes) if code in "SI")


def axial_diameters(mask: Mask, geometry: Geometry, start: tuple[int, int, int] = (0, 0, 0)) -> Diameters:
    """Measure the lesion in `mask`: bool, the box of the grid of `geometry` that begins at voxel `start`.

    Lengths are right on anisotropic, oblique and sheared grids: they are taken in the plane of the slice. Raises
    ValueError if the mask is empty.
    """
    through = axial_axis(geometry)
    plane = _plane_basis(geometry, through)
    crosses: list[_Cross] = []
    longest_mm = 0.0
    slices = np.moveaxis(mask, through, 0)
    for k in np.flatnonzero(slices.any(axis=(1, 2))):
        corners = _outline(slices[k]) @ plane
        if np.hypot(*np.ptp(corners, axis=0)) >= longest_mm - SAME_LENGTH_MM:
            crosses += _crosses(corners, int(k))
            longest_mm = max(longest_mm, crosses[-1].longest_mm)
    if not crosses:
        raise ValueError("an empty mask has no diameters")
    crosses = [each for each in crosses if each.longest_mm >= longest_mm - SAME_LENGTH_MM]
    widest_mm = max(each.perpendicular_mm for each in crosses)
    equal = [each for each in crosses if each.perpendicular_mm >= widest_mm - SAME_LENGTH_MM]
    in_patient = _InPatient(geometry, start, through, np.linalg.inv(plane).astype(np.float64))
    return max((in_patient.diameters(each) for each in equal), key=lambda found: _order(found.longest_ends_mm))


class _InPatient(NamedTuple):
    """The way from a slice's plane back to RAS+ mm."""

    geometry: Geometry
    start: tuple[int, int, int]
    through: int
    to_voxels: Float64

    def diameters(self, cross: _Cross) -> Diameters:
        number = cross.slice + self.start[self.through]
        longest, perpendicular = (self._chord(ends, cross.slice) for ends in (cross.longest, cross.perpendicular))
        return Diameters(cross.longest_mm, cross.perpendicular_mm, number, longest, perpendicular)

    def _chord(self, ends: Float64, k: int) -> Chord:
        ijk = np.insert(ends @ self.to_voxels, self.through, k, axis=1) + self.start
        (a, b, c), (d, e, f) = self.geometry.to_mm(ijk).tolist()
        one, other = (a, b, c), (d, e, f)
        return (one, other) if _order((one,)) >= _order((other,)) else (other, one)


def _order(points_mm: tuple[Point, ...]) -> tuple[float, ...]:
    """What is largest for points near to the head, then to the front, then to the right."""
    return tuple(round(axis, 3) for x, y, z in points_mm for axis in (z, y, x))


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


def _crosses(points_mm: Float64, k: int) -> Iterator[_Cross]:
    """Every longest chord of the convex hull of points (n, 2) in slice k, and the longest perpendicular to it."""
    hull = points_mm[ConvexHull(points_mm).vertices]
    between = hull[:, None, :] - hull[None, :, :]
    lengths = np.hypot(between[..., 0], between[..., 1])
    longest_mm = float(lengths.max())
    for i, j in np.argwhere(np.triu(lengths >= longest_mm - SAME_LENGTH_MM)):
        across = _widest_across(hull, hull[[i, j]])
        yield _Cross(longest_mm, float(np.hypot(*(across[1] - across[0]))), k, hull[[i, j]], across)


def _widest_across(hull: Float64, chord: Float64) -> Float64:
    """Ends (2, 2) of the longest chord of a convex polygon (n, 2) perpendicular to a chord (2, 2) of it.

    The length of such chords is concave and piecewise linear along the direction: it peaks at a corner, and where it
    stays at its peak, it does so in one piece. Of these the chord nearest to the middle is taken.
    """
    direction = (chord[1] - chord[0]) / np.hypot(*(chord[1] - chord[0]))
    normal = np.array([-direction[1], direction[0]])
    t, s = hull @ direction, hull @ normal
    middle = float(chord.mean(axis=0) @ direction)
    places = np.append(t, middle)
    low, high = _cut(t, s, places)
    widest = np.flatnonzero(high - low >= (high - low).max() - SAME_LENGTH_MM)
    best = widest[np.abs(places[widest] - middle).argmin()]
    foot = places[best] * direction
    return np.stack([foot + low[best] * normal, foot + high[best] * normal])


def _cut(t: Float64, s: Float64, places: Float64) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The lowest and highest s of a convex polygon with corners (t, s) at each of some places along t."""
    ahead_t, ahead_s = np.roll(t, -1), np.roll(s, -1)
    span = ahead_t - t
    beside = np.abs(span) <= SAME_LENGTH_MM  # a side across the direction: its two corners stand for it
    where = (places[:, None] - t) / np.where(beside, np.nan, span)  # how far along a side its line meets the place
    meets = np.abs(where - 0.5) * np.abs(span) <= np.abs(span) / 2 + SAME_LENGTH_MM
    met = s + np.clip(where, 0, 1) * (ahead_s - s)
    corner = np.abs(places[:, None] - t) <= SAME_LENGTH_MM
    high = np.maximum(np.where(meets, met, -np.inf).max(axis=1), np.where(corner, s, -np.inf).max(axis=1))
    low = np.minimum(np.where(meets, met, np.inf).min(axis=1), np.where(corner, s, np.inf).min(axis=1))
    return low, high
