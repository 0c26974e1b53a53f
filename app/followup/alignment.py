"""Where a point of the current scan was in the prior one, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates

from app.imaging.volume import Float64, Geometry

#: The way back is found step by step; each is shorter than the one before wherever nothing folds.
_STEPS = 50


@dataclass(frozen=True, eq=False)
class Alignment:
    """First the elastic step, then the rigid one. Points are RAS+ mm, (n, 3).

    rigid: (4, 4), mm → mm. elastic_mm: float32 (X, Y, Z, 3), what is added to a point, on the grid of `geometry`;
    beyond it, what is added at its edge.
    """

    rigid: Float64
    elastic_mm: npt.NDArray[np.float32]
    geometry: Geometry

    def to_prior(self, points_mm: Float64) -> Float64:
        """Points of the current scan as they lay in the prior one."""
        moved: Float64 = (points_mm + self._elastic(points_mm)) @ self.rigid[:3, :3].T + self.rigid[:3, 3]
        return moved

    def to_current(self, points_mm: Float64) -> Float64:
        """Points of the prior scan as they lie in the current one."""
        target = (points_mm - self.rigid[:3, 3]) @ np.linalg.inv(self.rigid[:3, :3]).T
        found = target
        for _ in range(_STEPS):
            found = target - self._elastic(found)
        return np.asarray(found, dtype=np.float64)

    def _elastic(self, points_mm: Float64) -> Float64:
        return np.stack([sample(self.elastic_mm[..., axis], self.geometry, points_mm) for axis in range(3)], axis=-1)


def sample(
    values: npt.NDArray[Any],
    geometry: Geometry,
    points_mm: Float64,
    beyond: float | None = None,
    order: Literal[0, 1] = 1,
) -> Float64:
    """Values on a grid at points (n, 3) in mm; between voxels linear, or with order 0 those of the nearest.

    beyond: what is outside the grid; None goes on as it ends there.
    """
    ijk = (points_mm - geometry.affine[:3, 3]) @ np.linalg.inv(geometry.affine[:3, :3]).T
    mode: Literal["nearest", "constant"] = "nearest" if beyond is None else "constant"
    found = map_coordinates(values, ijk.T, order=order, mode=mode, cval=beyond or 0.0)
    return np.asarray(found, dtype=np.float64)
