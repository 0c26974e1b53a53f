"""A real scan at a second date: moved, turned and bent by a known smooth field, its lesions changed in known ways."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt, map_coordinates
from scipy.spatial.transform import Rotation

from app.imaging.lesions import number_lesions
from app.imaging.volume import Float64, Geometry, Segmentation, Volume

KNOTS_MM = 60.0
MOST_DEGREES, MOST_SHIFT_MM = 8.0, 20.0
#: The later scan's voxels and axes: others than the earlier one's.
LATER_SPACING_MM, LATER_AXES = (1.4, 1.5, 3.0), "PIR"
ROOM_MM = 20.0
#: A lesion's change in mm along its whole surface, as a share of the radius of the ball of its volume.
GROWN, SHRUNK = 0.4, -0.4
FATES = ("unchanged", "grown", "shrunk", "gone")
NEW = 3
ADDED_RADII_MM = (4.0, 5.0, 6.5, 8.0, 10.0, 12.0)

Into = Callable[[Float64], Float64]


class Field:
    """Points of the later scan → where they were, RAS+ mm: a B-spline of random coefficients, then a rigid step.

    most_mm: how far the bending goes at most, of all points within 150 mm of the centre.
    """

    def __init__(self, seed: int, centre_mm: Float64, most_mm: float) -> None:
        rng = np.random.default_rng(seed)
        self._centre = centre_mm
        self._turn = Rotation.from_euler("xyz", rng.uniform(-MOST_DEGREES, MOST_DEGREES, 3), degrees=True).as_matrix()
        self._shift = rng.uniform(-MOST_SHIFT_MM, MOST_SHIFT_MM, 3)
        self._knots = rng.normal(size=(3, 12, 12, 12))
        within = np.stack(np.meshgrid(*[np.linspace(-150, 150, 41)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
        self._knots *= most_mm / np.linalg.norm(self._bend(within + centre_mm), axis=1).max()

    def __call__(self, points_mm: Float64) -> Float64:
        """Where points (n, 3) were."""
        moved: Float64 = (points_mm + self._bend(points_mm) - self._centre) @ self._turn.T + self._centre + self._shift
        return moved

    def _bend(self, points_mm: Float64) -> Float64:
        at = ((points_mm - self._centre) / KNOTS_MM + 5.5).T
        return np.stack([map_coordinates(k, at, order=3, prefilter=False, mode="nearest") for k in self._knots], -1)


@dataclass(frozen=True, eq=False)
class TwoDates:
    """What is compared, and the truth: links, pairs of (prior id, current id); fates, by prior id; the field."""

    prior: Segmentation
    current: Segmentation
    links: frozenset[tuple[int, int]]
    fates: dict[int, str]
    field: Field


class _Painter:
    """Paints balls into healthy liver, clear of every lesion and of each other."""

    def __init__(self, labels: np.ndarray, prior: Segmentation, rng: np.random.Generator) -> None:
        assert prior.box is not None
        self._where, self._spacing, self._rng = prior.box.slices, prior.geometry.spacing_mm, rng
        self._labels = labels
        self._room_mm = distance_transform_edt(np.pad(labels[self._where] == 1, 1), sampling=self._spacing)
        self._room_mm = self._room_mm[1:-1, 1:-1, 1:-1]

    def ball(self, radius_mm: float) -> np.ndarray:
        """Where the ball is, bool on the grid: nowhere if there is no room for it."""
        ball = np.zeros(self._labels.shape, dtype=bool)
        places = np.argwhere(self._room_mm > radius_mm + 5)
        if len(places):
            centre = self._rng.choice(places)
            index = np.indices(self._room_mm.shape, sparse=True)
            steps = ((axis - c) * mm for axis, c, mm in zip(index, centre, self._spacing, strict=True))
            away_mm = np.sqrt(sum(step**2 for step in steps))
            ball[self._where] = away_mm < radius_mm
            self._labels[ball] = 2
            self._room_mm = np.minimum(self._room_mm, away_mm - radius_mm)
        return ball


def with_more_lesions(real: Segmentation, seed: int) -> Segmentation:
    """The real labels, and balls of `ADDED_RADII_MM` in healthy liver."""
    labels = real.labels.copy(order="F")
    painter = _Painter(labels, real, np.random.default_rng(seed))
    for radius in ADDED_RADII_MM:
        painter.ball(radius)
    return Segmentation(labels, real.geometry)


def two_dates(prior: Segmentation, seed: int, most_mm: float) -> TwoDates:
    """The second date of `prior`; same seed, same voxels."""
    rng = np.random.default_rng(seed + 1000)
    assert prior.box is not None
    numbered = number_lesions(prior)
    ids = rng.permutation(np.arange(1, len(numbered.boxes) + 1)).tolist()
    fates = {number: FATES[n % len(FATES)] for n, number in enumerate(ids)}
    middle = prior.geometry.to_mm((np.array(prior.box.start) + prior.box.stop) / 2)
    field = Field(seed, middle, most_mm)
    later = _grid_around(prior, field, middle)
    points = later.to_mm(np.moveaxis(np.indices(later.shape), 0, -1).reshape(-1, 3))
    ijk = _ijk(prior.geometry, field(points))
    liver = map_coordinates((prior.labels > 0).astype(np.float32), ijk, order=1) >= 0.5
    origin = np.zeros(len(points), dtype=np.uint16)
    painter = _Painter(prior.labels.copy(order="F"), prior, rng)
    for number, fate in fates.items():
        origin[_changed(prior, number, fate, ijk) & liver] = number
    for number in range(len(ids) + 1, len(ids) + 1 + NEW):
        ball = painter.ball(float(rng.uniform(5, 9)))
        origin[liver & (map_coordinates(ball, ijk, order=0))] = number
    labels = np.where(origin > 0, 2, liver).astype(np.uint8).reshape(later.shape)
    current = Segmentation(np.asfortranarray(labels), later)
    now = number_lesions(current).on_grid.ravel()
    pairs = np.unique(np.stack([origin, now])[:, (origin > 0) & (origin <= len(ids))], axis=1).T
    return TwoDates(prior, current, frozenset((int(p), int(c)) for p, c in pairs), fates, field)


def deformed(volume: Volume, field: Into, later: Geometry) -> Volume:
    """The grey values at the second date, on its grid; air beyond the scan."""
    out = np.empty(later.shape, dtype=np.int16, order="F")
    for k in range(later.shape[2]):
        at = np.stack(np.meshgrid(np.arange(later.shape[0]), np.arange(later.shape[1]), [k], indexing="ij"), -1)
        ijk = _ijk(volume.geometry, field(later.to_mm(at.reshape(-1, 3))))
        lowest = int(volume.voxels.min())
        out[..., k] = np.rint(map_coordinates(volume.voxels, ijk, order=1, cval=lowest, output=np.float32)).reshape(
            later.shape[:2]
        )
    return Volume(out, later)


def _ijk(geometry: Geometry, points_mm: Float64) -> Float64:
    return ((points_mm - geometry.affine[:3, 3]) @ np.linalg.inv(geometry.affine[:3, :3]).T).T


def _grid_around(prior: Segmentation, field: Into, middle_mm: Float64) -> Geometry:
    """A grid that holds the liver at the second date."""
    coarse = np.stack(np.meshgrid(*[np.arange(-260, 261, 10.0)] * 3, indexing="ij"), -1).reshape(-1, 3) + middle_mm
    inside = map_coordinates((prior.labels > 0).astype(np.uint8), _ijk(prior.geometry, field(coarse)), order=0) > 0
    start, end = coarse[inside].min(axis=0) - ROOM_MM, coarse[inside].max(axis=0) + ROOM_MM
    shape = tuple(int(n) for n in np.ceil((end - start) / LATER_SPACING_MM))
    affine = np.diag([*LATER_SPACING_MM, 1.0])
    affine[:3, 3] = start
    return Geometry((shape[0], shape[1], shape[2]), affine).reoriented(LATER_AXES)


def _changed(prior: Segmentation, number: int, fate: str, ijk: Float64) -> np.ndarray:
    """Where a lesion is at the second date: points (n,)."""
    if fate == "gone":
        return np.zeros(ijk.shape[1], dtype=bool)
    numbered, spacing = number_lesions(prior), prior.geometry.spacing_mm
    radius = (numbered.voxel_counts[number - 1] * prior.geometry.voxel_volume_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3)
    pad = [int(np.ceil((GROWN * radius + 10) / mm)) for mm in spacing]
    mask = np.pad(numbered.mask(number), [(n, n) for n in pad])
    signed = distance_transform_edt(~mask, sampling=spacing) - distance_transform_edt(mask, sampling=spacing)
    limit = {"unchanged": 0.0, "grown": GROWN, "shrunk": SHRUNK}[fate] * radius
    at = ijk - (np.array(numbered.boxes[number - 1].start) - pad)[:, None]
    return np.asarray(map_coordinates(signed, at, order=1, cval=1e3) < limit)
