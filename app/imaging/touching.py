"""Lesions that touch: one component of a mask becomes several where its depth clearly says so.

The depth of a voxel is its distance in mm to what is outside the component. Two parts are two lesions if the way from
one to the other leads through a neck at most `NECK` times as deep as the deepest voxel of either: two balls of equal
size are split if their centres lie more than 1.73 radii apart. Necks are looked for at depths a `STEP` apart. Each
voxel then goes to the part whose core, what is deeper than the neck, is nearest; of two equally near, to that with the
deeper core.

What is lobed in truth is split too, and balls that overlap more are not: no rule can tell these by shape alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt, find_objects

from app.imaging.region import Mask, touching_components
from app.imaging.volume import Float64, Geometry

NECK = 0.5
#: Ratio of the depths at which necks are looked for.
STEP = 2 ** (1 / 8)
#: Depths closer than this are equal: the same depth computed along other axes differs by rounding.
SAME_DEPTH_MM = 1e-6

Components = npt.NDArray[np.unsignedinteger]


class _Core(NamedTuple):
    """The inside of one lesion: its deepest voxel's depth, and where it is."""

    depth_mm: float
    mask: Mask


def split_touching(components: Components, geometry: Geometry) -> Components:
    """Split each component (1..n, 0 is background) that has cores divided by necks; the others keep their number."""
    result = components.astype(np.uint32)
    last = int(components.max())
    for number, where in enumerate(find_objects(components.astype(np.int32)), start=1):
        parts = _parts(np.pad(components[where] == number, 1), geometry)
        for part in parts[1:]:
            last += 1
            result[where][part[1:-1, 1:-1, 1:-1]] = last
    return result


def _parts(mask: Mask, geometry: Geometry) -> list[Mask]:
    depth = np.round(distance_transform_edt(mask, sampling=geometry.spacing_mm) / SAME_DEPTH_MM) * SAME_DEPTH_MM
    cores = _cores(_Core(float(depth.max()), mask), depth, 0.0)
    if len(cores) == 1:
        return [mask]
    cores.sort(key=lambda core: (-core.depth_mm, *_place(core, geometry)))
    away = [distance_transform_edt(~core.mask, sampling=geometry.spacing_mm) for core in cores]
    nearest = np.round(np.stack(away) / SAME_DEPTH_MM).argmin(axis=0)
    return [mask & (nearest == n) for n in range(len(cores))]


def _cores(core: _Core, depth: Float64, level_mm: float) -> list[_Core]:
    """Raise the level until what is deeper falls apart into deep parts, and go on in each of these."""
    level = max(level_mm, float(depth[core.mask].min()))
    while level <= NECK * core.depth_mm:
        pieces = touching_components(core.mask & (depth > level))
        found = [_Core(float(depth[pieces == n].max()), pieces == n) for n in range(1, int(pieces.max()) + 1)]
        deep = [each for each in found if level <= NECK * each.depth_mm]
        if len(deep) > 1:
            return [inner for each in deep for inner in _cores(each, depth, level)]
        level *= STEP
    return [core]


def _place(core: _Core, geometry: Geometry) -> tuple[float, float, float]:
    """Head to foot, front to back, right to left: the order of lesions of equal size."""
    x, y, z = np.round(geometry.to_mm(np.argwhere(core.mask).mean(axis=0)), 3)
    return -float(z), -float(y), -float(x)
