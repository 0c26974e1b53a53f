"""The paint and the brush of `training.anatomy`: tissues, and a body whose voxels are painted with them.

Coordinates are millimetres of a standard body in LPS directions: x to the patient's left, y to posterior,
z to superior, the origin in the middle of the body at the height of the porta hepatis. Arrays are (K, J, I):
slices, rows to posterior, columns to left.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt
from scipy.interpolate import BSpline

Float32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Point = tuple[float, float, float]
Box = tuple[slice, slice, slice]

EVERYWHERE: Box = (slice(None), slice(None), slice(None))


class Tissue(IntEnum):
    """What a voxel of the body consists of."""

    AIR = 0
    TABLE = 1
    SKIN = 2
    FAT = 3
    MUSCLE = 4
    VISCERAL_FAT = 5
    LUNG = 6
    CORTICAL_BONE = 7
    MARROW = 8
    DISC = 9
    CANAL = 10
    AORTA = 11
    VENA_CAVA = 12
    HEART = 13
    LIVER = 14
    LIVER_VESSEL = 15
    LESION = 16
    GALLBLADDER = 17
    SPLEEN = 18
    BYSTANDER = 19  # a cyst in the spleen that looks like a lesion of the liver
    KIDNEY_CORTEX = 20
    KIDNEY_MEDULLA = 21
    BOWEL_WALL = 22
    BOWEL_CONTENT = 23
    BOWEL_CONTRAST = 24
    GAS = 25
    PANCREAS = 26
    VESSEL = 27
    ADRENAL = 28


#: The liver without its lesions.
LIVER_TISSUES = (Tissue.LIVER, Tissue.LIVER_VESSEL)


@dataclass(frozen=True, eq=False)
class Body:
    """A tissue map being painted.

    x, y, z: float32 (K, J, I), where each voxel lies in the standard body, bends included.
    axes: the same without the bends, one array per axis (z, y, x). slack_mm: how far the bends reach.
    """

    x: Float32
    y: Float32
    z: Float32
    axes: tuple[Float32, Float32, Float32]
    slack_mm: tuple[float, float, float]
    tissue: npt.NDArray[np.uint8]

    def box(self, low: Point, high: Point) -> Box:
        """The slices (k, j, i) that hold every voxel between the corners `low` and `high` (x, y, z)."""
        found = []
        for axis, slack, a, b in zip(self.axes, self.slack_mm, low[::-1], high[::-1], strict=True):
            inside = np.flatnonzero((axis >= a - slack) & (axis <= b + slack))
            found.append(slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0))
        return found[0], found[1], found[2]

    def around(self, centre: Point, reach: Point) -> Box:
        """The box of `reach` (x, y, z) to each side of `centre`."""
        (cx, cy, cz), (rx, ry, rz) = centre, reach
        return self.box((cx - rx, cy - ry, cz - rz), (cx + rx, cy + ry, cz + rz))

    def level(self, box: Box, centre: Point, radii: Point) -> Float32:
        """Squared distance from the centre of an ellipsoid, 1 on its surface."""
        q: Float32 = ((self.x[box] - np.float32(centre[0])) / np.float32(radii[0])) ** 2
        q += ((self.y[box] - np.float32(centre[1])) / np.float32(radii[1])) ** 2
        q += ((self.z[box] - np.float32(centre[2])) / np.float32(radii[2])) ** 2
        return q

    def fill(self, box: Box, inside: Mask, tissue: Tissue, onto: Collection[Tissue] | None = None) -> None:
        """Make the voxels `inside` of a box `tissue`, if what they were is among `onto`."""
        view = self.tissue[box]
        if onto is not None:
            allowed = np.zeros(256, dtype=bool)
            allowed[list(onto)] = True
            inside = inside & allowed[view]
        view[inside] = tissue

    def ellipsoid(self, tissue: Tissue, centre: Point, radii: Point, onto: Collection[Tissue] | None = None) -> None:
        """Paint an ellipsoid with its axes along x, y, z."""
        box = self.around(centre, radii)
        self.fill(box, self.level(box, centre, radii) < 1, tissue, onto)

    def tube(
        self,
        tissue: Tissue,
        path: list[Point],
        radii: tuple[float, float],
        onto: Collection[Tissue] | None = None,
    ) -> None:
        """Paint a tube along the corners of `path`; its radius goes from the first to the second of `radii`."""
        widths = np.linspace(radii[0], radii[1], len(path))
        for start, end, r0, r1 in zip(path[:-1], path[1:], widths[:-1], widths[1:], strict=True):
            self._segment(tissue, (start, end), (float(r0), float(r1)), onto)

    def _segment(
        self,
        tissue: Tissue,
        ends: tuple[Point, Point],
        radii: tuple[float, float],
        onto: Collection[Tissue] | None,
    ) -> None:
        a, b = np.array(ends[0]), np.array(ends[1])
        low, high = np.minimum(a, b) - max(radii), np.maximum(a, b) + max(radii)
        box = self.box((low[0], low[1], low[2]), (high[0], high[1], high[2]))
        d = (b - a).astype(np.float32)
        px, py, pz = self.x[box] - a[0], self.y[box] - a[1], self.z[box] - a[2]
        t = np.clip((px * d[0] + py * d[1] + pz * d[2]) / max(float(d @ d), 1e-6), 0, 1)
        distance2 = (px - t * d[0]) ** 2 + (py - t * d[1]) ** 2 + (pz - t * d[2]) ** 2
        self.fill(box, distance2 < (radii[0] + t * (radii[1] - radii[0])) ** 2, tissue, onto)


def smooth_field(rng: np.random.Generator, axes_mm: tuple[Float32, Float32, Float32], wavelength_mm: float) -> Float32:
    """A random smooth field, float32 over the product of three axes, of unit variance or somewhat less."""
    bases = []
    for axis in axes_mm:
        first, last = float(axis.min()), float(axis.max())
        count = int(np.ceil((last - first) / wavelength_mm)) + 4
        knots = first + wavelength_mm * (np.arange(count + 4) - 3.5)
        bases.append(BSpline.design_matrix(axis.astype(np.float64), knots, 3).toarray().astype(np.float32))
    lattice = rng.standard_normal([basis.shape[1] for basis in bases], dtype=np.float32) * np.float32(3.0)
    for basis in bases:  # each turn contracts the first axis and appends the fine one
        lattice = np.tensordot(lattice, basis, axes=(0, 1))
    return lattice
