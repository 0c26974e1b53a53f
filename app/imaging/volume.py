"""Volume and Segmentation: voxels that never travel without their Geometry.

World coordinates are RAS+ millimetres, NiBabel's convention: x grows to the patient's right, y to anterior,
z to superior. DICOM's are LPS: the signs of x and y differ. Index coordinates are `(i, j, k)` of the array as
stored.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import nibabel as nib
import numpy as np
import numpy.typing as npt

from app.errors import InvalidGeometry
from app.imaging.evidence import Evidence
from app.imaging.region import Box, Mask, bounding_box

__all__ = ["Float64", "Geometry", "Label", "Mask", "Segmentation", "Volume"]

#: Cosine between two grid axes above which the grid counts as sheared (about 0.06 degrees).
SHEAR_TOLERANCE = 1e-3

#: Two grids are the same if no corner voxel lies farther apart than this: room for rounding.
SAME_GRID_MM = 0.01

Float64 = npt.NDArray[np.float64]


class Label(IntEnum):
    """What a voxel of a `Segmentation` is."""

    BACKGROUND = 0
    LIVER = 1
    LESION = 2


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where the voxels of an array lie in the patient.

    shape: voxels along `(i, j, k)`. affine: (4, 4), `(i, j, k, 1)` → RAS+ mm. Everything else is derived.
    Raises InvalidGeometry if the affine is not finite, not affine, or has an axis of no length.
    """

    shape: tuple[int, int, int]
    affine: Float64

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        shape = tuple(int(n) for n in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise InvalidGeometry(f"A scan has three axes with at least one voxel each, not {shape}.")
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise InvalidGeometry("The affine of the scan must be a 4x4 matrix of finite numbers.")
        if not np.array_equal(affine[3], [0, 0, 0, 1]):
            raise InvalidGeometry("The last row of the affine must be 0 0 0 1.")
        if abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise InvalidGeometry("The affine gives voxels no volume: an axis is zero or two are parallel.")
        affine.flags.writeable = False
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Geometry) and self.shape == other.shape and np.array_equal(self.affine, other.affine)

    def __hash__(self) -> int:
        return hash((self.shape, self.affine.tobytes()))

    @cached_property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along i, j, k in mm."""
        i, j, k = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return float(i), float(j), float(k)

    @cached_property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    @cached_property
    def axis_codes(self) -> str:
        """The anatomical direction that i, j and k come closest to, such as "LPS"."""
        return "".join(nib.orientations.aff2axcodes(self.affine))

    @cached_property
    def is_sheared(self) -> bool:
        """Whether two grid axes are not perpendicular, as after an uncorrected gantry tilt."""
        directions = self.affine[:3, :3] / np.array(self.spacing_mm)
        off_diagonal = directions.T @ directions - np.eye(3)
        return bool(np.abs(off_diagonal).max() > SHEAR_TOLERANCE)

    def to_mm(self, ijk: npt.ArrayLike) -> Float64:
        """Index coordinates (..., 3) → RAS+ millimetres (..., 3)."""
        moved: Float64 = np.asarray(ijk, dtype=np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3]
        return moved

    def apart_mm(self, other: Geometry) -> float:
        """How far apart the two grids place this one's corner voxels at most, in mm."""
        corners = np.array(list(itertools.product(*((0, n - 1) for n in self.shape))))
        return float(np.linalg.norm(self.to_mm(corners) - other.to_mm(corners), axis=1).max())

    def matches(self, other: Geometry) -> bool:
        """Whether both are the same grid: equal shape, and corners within SAME_GRID_MM."""
        return self.shape == other.shape and self.apart_mm(other) <= SAME_GRID_MM

    def orientation_to(self, axis_codes: str) -> Float64:
        """NiBabel's (3, 2) orientation transform from this grid to one along `axis_codes`."""
        start = nib.orientations.io_orientation(self.affine)
        end = nib.orientations.axcodes2ornt(tuple(axis_codes))
        return np.asarray(nib.orientations.ornt_transform(start, end), dtype=np.float64)

    def reoriented(self, axis_codes: str) -> Geometry:
        """The same grid with its axes flipped and permuted to `axis_codes`; nothing is resampled."""
        transform = self.orientation_to(axis_codes)
        shape = [0, 0, 0]
        for axis, (target, _) in enumerate(transform):
            shape[int(target)] = self.shape[axis]
        affine = self.affine @ nib.orientations.inv_ornt_aff(transform, self.shape)
        return Geometry((shape[0], shape[1], shape[2]), affine)


def _on_grid(array: npt.NDArray[np.generic], geometry: Geometry, dtype: type[np.generic]) -> None:
    if array.dtype != dtype or array.shape != geometry.shape:
        raise ValueError(f"expected {dtype.__name__} {geometry.shape}, got {array.dtype} {array.shape}")


def _read_only(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    view = array.view()
    view.flags.writeable = False
    return view


@dataclass(frozen=True, eq=False)
class Volume:
    """Hounsfield units on a grid.

    voxels: int16 (I, J, K), read-only. In "LPS" orientation and Fortran order, `voxels.T` is without a copy
    the stack of slices (K, J, I), rows to posterior and columns to left, that DICOM and the networks speak.
    """

    voxels: npt.NDArray[np.int16]
    geometry: Geometry

    def __post_init__(self) -> None:
        _on_grid(self.voxels, self.geometry, np.int16)
        object.__setattr__(self, "voxels", _read_only(self.voxels))

    def __repr__(self) -> str:
        spacing = "x".join(f"{s:.3g}" for s in self.geometry.spacing_mm)
        return f"Volume({self.geometry.shape}, {spacing} mm, {self.geometry.axis_codes})"

    def reoriented(self, axis_codes: str) -> Volume:
        """The same voxels with the axes flipped and permuted to `axis_codes`; a view where possible."""
        transform = self.geometry.orientation_to(axis_codes)
        voxels = nib.orientations.apply_orientation(self.voxels, transform)
        return Volume(voxels, self.geometry.reoriented(axis_codes))


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Labels on a grid: uint8 (I, J, K) of `Label`. A lesion lies in the liver by construction.

    evidence: the probabilities that the lesions were drawn from; None if nobody kept them, as of a reference.
    split_lesions: whether lesions that touch count as several where `app.imaging.touching` says so.
    """

    labels: npt.NDArray[np.uint8]
    geometry: Geometry
    evidence: Evidence | None = None
    split_lesions: bool = False

    def __post_init__(self) -> None:
        _on_grid(self.labels, self.geometry, np.uint8)
        object.__setattr__(self, "labels", _read_only(self.labels))

    @property
    def liver(self) -> Mask:
        """The organ with its lesions: bool (I, J, K)."""
        liver: Mask = self.labels >= Label.LIVER
        return liver

    @property
    def lesions(self) -> Mask:
        """All lesions together: bool (I, J, K)."""
        lesions: Mask = self.labels == Label.LESION
        return lesions

    @cached_property
    def box(self) -> Box | None:
        """The smallest box that holds every label; None without any. Most questions are about it alone."""
        labelled = self.liver
        return bounding_box(labelled, self.geometry.spacing_mm, 0.0) if labelled.any() else None

    def reoriented(self, axis_codes: str) -> Segmentation:
        """The same labels with the axes flipped and permuted to `axis_codes`."""
        transform = self.geometry.orientation_to(axis_codes)
        labels = nib.orientations.apply_orientation(self.labels, transform)
        evidence = None if self.evidence is None else self.evidence.reoriented(transform, self.geometry.shape)
        return Segmentation(labels, self.geometry.reoriented(axis_codes), evidence, self.split_lesions)
