"""A synthetic abdominal CT whose truth is known voxel by voxel.

    python -m training.phantom OUT_DIR [--seed N] [--slices N] [--size N]

writes ct.nii.gz and labels.nii.gz. Made for the demonstration, for tests, and as extra training material; it is
no patient. With `noise_hu=0` every voxel has exactly the value that `HOUNSFIELD` gives its tissue, so that a test
can pick organs by a threshold:

- `LIVER_RANGE_HU` holds the liver with its vessels and lesions, and nothing else in the picture;
- `LESION_RANGE_HU` holds the lesions in the liver and nothing else;
- `LESION_LIKE_RANGE_HU` holds these and the bystander, a cyst in the spleen, as a careless network would.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from app.imaging.region import largest_component
from app.imaging.volume import Geometry, Label, Segmentation, Volume
from training.anatomy import paint
from training.habitus import HOUNSFIELD, Plan, PlannedLesion, random_plan, standard_plan
from training.tissue import LIVER_TISSUES, Body, Box, Float32, Point, Tissue, smooth_field

__all__ = [
    "HOUNSFIELD",
    "LESION_LIKE_RANGE_HU",
    "LESION_RANGE_HU",
    "LIVER_RANGE_HU",
    "Phantom",
    "PhantomLesion",
    "Tissue",
    "abdomen",
]

LIVER_RANGE_HU = (67, 129)
LESION_RANGE_HU = (67, 80)
LESION_LIKE_RANGE_HU = (60, 80)

#: The standard body needs this much room in mm (x, y, z); a smaller field of view gets a smaller body.
ROOM_MM = (350.0, 290.0, 200.0)
#: Where the middle of the picture lies in the patient, RAS mm: an odd place, so that a forgotten origin shows.
CENTRE_MM = (6.0, -14.0, -482.0)


@dataclass(frozen=True)
class PhantomLesion:
    """A lesion as it was put in: an ellipsoid, its centre in RAS mm, its half-axes along x, y, z in mm."""

    centre_mm: Point
    radii_mm: Point
    hu: float


@dataclass(frozen=True)
class Phantom:
    """A scan, its exact labels on the same grid, and its lesions, in the order in which they were put in."""

    volume: Volume
    truth: Segmentation
    lesions: tuple[PhantomLesion, ...]


def abdomen(
    seed: int = 0,
    shape: tuple[int, int, int] = (256, 256, 60),
    spacing_mm: Point = (1.5, 1.5, 3.0),
    *,
    noise_hu: float = 12.0,
    lesions: int = 3,
    randomise: bool = False,
) -> Phantom:
    """Make the phantom that belongs to a seed: same arguments, same voxels.

    shape, spacing_mm: of an LPS grid (columns to left, rows to posterior, slices to superior).
    noise_hu: standard deviation of the noise; 0 also leaves out texture and partial volumes, so that each voxel
    has exactly the HU of its tissue. lesions: how many. randomise: vary body, contrast phase, lesions (number,
    size, HU, shape), position and noise, as training wants; `lesions` is then the largest number.
    """
    rng = np.random.default_rng(seed)
    room = tuple(min(1.0, n * s / r) for n, s, r in zip(shape, spacing_mm, ROOM_MM, strict=True))
    plan = random_plan(rng, lesions) if randomise else standard_plan(lesions, spacing_mm, min(room))
    scale = (plan.scale[0] * min(room[:2]), plan.scale[1] * min(room[:2]), plan.scale[2] * room[2])
    body = _body(rng, shape, spacing_mm, replace(plan, scale=scale))
    paint(body, plan.habitus, rng)
    _in_one_piece(body)
    grid = _Grid(_geometry(shape, spacing_mm))
    _bystander(body, spacing_mm)
    placed = [found for wanted in plan.lesions if (found := _place(body, grid, wanted, rng)) is not None]
    hounsfield = _hounsfield(body, plan, placed)
    if noise_hu > 0:
        _acquire(hounsfield, body, grid, plan, noise_hu * (rng.uniform(0.5, 2.0) if randomise else 1.0), rng)
    labels = np.zeros(256, dtype=np.uint8)
    labels[[*LIVER_TISSUES]] = Label.LIVER
    labels[Tissue.LESION] = Label.LESION
    voxels = np.rint(np.clip(hounsfield, -1024, 3071)).astype(np.int16)
    return Phantom(
        Volume(voxels.T, grid.geometry),
        Segmentation(labels[body.tissue].T, grid.geometry),
        tuple(lesion.described for lesion in placed),
    )


def _geometry(shape: tuple[int, int, int], spacing_mm: Point) -> Geometry:
    affine = np.diag([-spacing_mm[0], -spacing_mm[1], spacing_mm[2], 1.0])
    affine[:3, 3] = np.array(CENTRE_MM) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Geometry(shape, affine)


class _Grid:
    """RAS millimetres along the axes of an LPS grid, float32 (K, 1, 1), (1, J, 1), (1, 1, I)."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        diagonal, origin = np.diag(geometry.affine)[:3], geometry.affine[:3, 3]
        x, y, z = (o + d * np.arange(n) for o, d, n in zip(origin, diagonal, geometry.shape, strict=True))
        self.z, self.y, self.x = z[:, None, None], y[None, :, None], x[None, None, :]

    def around(self, centre_mm: Point, reach_mm: Point) -> Box:
        """The slices (k, j, i) of the voxels at most `reach_mm` (x, y, z) from a point."""
        found = []
        for axis, c, r in zip((self.z, self.y, self.x), centre_mm[::-1], reach_mm[::-1], strict=True):
            inside = np.flatnonzero(np.abs(axis.ravel() - c) <= r)
            found.append(slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0))
        return found[0], found[1], found[2]

    def level(self, box: Box, centre_mm: Point, radii_mm: Point) -> npt.NDArray[np.float64]:
        """Squared distance from the centre of an ellipsoid, 1 on its surface."""
        x = (self.x[:, :, box[2]] - centre_mm[0]) / radii_mm[0]
        y = (self.y[:, box[1]] - centre_mm[1]) / radii_mm[1]
        z = (self.z[box[0]] - centre_mm[2]) / radii_mm[2]
        level: npt.NDArray[np.float64] = x**2 + y**2 + z**2
        return level


def _body(rng: np.random.Generator, shape: tuple[int, int, int], spacing_mm: Point, plan: Plan) -> Body:
    """An empty body whose coordinates are already scaled, moved, turned and bent."""
    axes = [
        ((np.arange(n) - (n - 1) / 2) * s - shift).astype(np.float32) / np.float32(scale)
        for n, s, shift, scale in zip(shape, spacing_mm, plan.shift_mm, plan.scale, strict=True)
    ]
    zyx = (axes[2], axes[1], axes[0])
    open_z, open_y, open_x = zyx[0][:, None, None], zyx[1][None, :, None], zyx[2][None, None, :]
    cos, sin = np.float32(np.cos(plan.rotation_rad)), np.float32(np.sin(plan.rotation_rad))
    bend = np.float32(plan.bend_mm)
    x = bend * smooth_field(rng, zyx, 75.0) + (cos * open_x - sin * open_y)
    y = bend * smooth_field(rng, zyx, 75.0) + (sin * open_x + cos * open_y)
    z = bend * smooth_field(rng, zyx, 75.0) + open_z
    slack = tuple(float(np.abs(bent - flat).max()) for bent, flat in ((z, open_z), (y, open_y), (x, open_x)))
    return Body(x, y, z, zyx, (slack[0], slack[1], slack[2]), np.zeros(x.shape, dtype=np.uint8))


def _in_one_piece(body: Body) -> None:
    """Turn crumbs that neighbours cut off from the liver into fat: what is left is 6-connected."""
    liver = np.isin(body.tissue, LIVER_TISSUES)
    body.tissue[liver & ~largest_component(liver)] = Tissue.VISCERAL_FAT


def _bystander(body: Body, spacing_mm: Point) -> None:
    """A cyst in the middle of the spleen, large enough to hold a voxel on any grid."""
    spleen = np.argwhere(body.tissue == Tissue.SPLEEN)
    if not len(spleen):
        return
    middle = spleen[np.argmin(((spleen - spleen.mean(axis=0)) ** 2).sum(axis=1))]
    k, j, i = (int(n) for n in middle)
    centre = (float(body.x[k, j, i]), float(body.y[k, j, i]), float(body.z[k, j, i]))
    radius = max(13.0, 1.1 * max(spacing_mm))
    body.ellipsoid(Tissue.BYSTANDER, centre, (radius, radius, radius), (Tissue.SPLEEN,))


@dataclass(frozen=True, eq=False)
class _Placed:
    described: PhantomLesion
    wanted: PlannedLesion
    box: Box
    level: npt.NDArray[np.float64]


def _place(body: Body, grid: _Grid, wanted: PlannedLesion, rng: np.random.Generator) -> _Placed | None:
    """Find room for a lesion and paint it; it shrinks as long as there is none. None if there is no liver."""
    liver = np.flatnonzero(body.tissue == Tissue.LIVER)
    for _ in range(12 if len(liver) else 0):
        for voxel in rng.choice(liver, size=40):
            k, j, i = np.unravel_index(voxel, body.tissue.shape)
            centre = (float(grid.x[0, 0, i]), float(grid.y[0, j, 0]), float(grid.z[k, 0, 0]))
            placed = _try(body, grid, wanted, centre, rng)
            if placed is not None:
                return placed
        x, y, z = wanted.radii_mm
        wanted = replace(wanted, radii_mm=(0.85 * x, 0.85 * y, 0.85 * z))
    return None


def _try(body: Body, grid: _Grid, wanted: PlannedLesion, centre_mm: Point, rng: np.random.Generator) -> _Placed | None:
    gap = [2.1 * s for s in grid.geometry.spacing_mm]
    rx, ry, rz = wanted.radii_mm
    wide = (rx + gap[0], ry + gap[1], rz + gap[2])
    neighbourhood = grid.around(centre_mm, wide)
    if (body.tissue[neighbourhood] == Tissue.LESION).any():
        return None  # a gap of at least a voxel keeps lesions apart, corners included
    box = grid.around(centre_mm, wanted.radii_mm)
    level = grid.level(box, centre_mm, wanted.radii_mm)
    if wanted.ragged:
        axes = (grid.z[box[0]].ravel(), grid.y[:, box[1]].ravel(), grid.x[:, :, box[2]].ravel())
        a, b, c = (axis.astype(np.float32) for axis in axes)
        level = level * (1 + wanted.ragged * np.abs(smooth_field(rng, (a, b, c), 0.7 * min(rx, ry, rz))))
    inside = level < 1
    liver = np.isin(body.tissue[box], LIVER_TISSUES)
    if not inside.any() or (inside & liver).sum() < wanted.inside * inside.sum():
        return None
    body.fill(box, inside, Tissue.LESION, LIVER_TISSUES)
    return _Placed(PhantomLesion(centre_mm, wanted.radii_mm, wanted.hu), wanted, box, level)


def _hounsfield(body: Body, plan: Plan, placed: Sequence[_Placed]) -> Float32:
    """HU of each voxel before any imaging: float32 (K, J, I)."""
    table = np.zeros(256, dtype=np.float32)
    for tissue, hu in plan.hounsfield.items():
        table[tissue] = hu
    hounsfield: Float32 = table[body.tissue]
    for lesion in placed:
        wanted, view = lesion.wanted, hounsfield[lesion.box]
        mine = (lesion.level < 1) & (body.tissue[lesion.box] == Tissue.LESION)
        core = np.full(lesion.level.shape, wanted.hu)
        if wanted.rim_hu is not None:
            core[lesion.level > 0.6] = wanted.rim_hu
        weight = 1 - wanted.soft * np.clip(lesion.level, 0, 1) ** 2
        view[mine] = (weight * core + (1 - weight) * table[Tissue.LIVER])[mine]
    return hounsfield


def _acquire(
    hounsfield: Float32, body: Body, grid: _Grid, plan: Plan, noise_hu: float, rng: np.random.Generator
) -> None:
    """Turn HU into a picture in place: texture, partial volumes, and noise with a kernel's grain."""
    fine = smooth_field(rng, body.axes, 9.0)
    strength = np.full(256, plan.texture_hu, dtype=np.float32)
    strength[Tissue.VISCERAL_FAT], strength[Tissue.MARROW] = 4 * plan.texture_hu, 14 * plan.texture_hu
    fine *= strength[body.tissue]
    hounsfield += fine
    del fine
    in_plane, through = plan.blur_voxels
    ndimage.gaussian_filter(hounsfield, (through, in_plane, in_plane), output=hounsfield, mode="nearest")
    noise = rng.standard_normal(hounsfield.shape, dtype=np.float32)
    sx, sy, _ = grid.geometry.spacing_mm
    ndimage.gaussian_filter(noise, (0.0, plan.grain_mm / sy, plan.grain_mm / sx), output=noise, truncate=3.0)
    noise *= np.float32(noise_hu / max(float(noise[noise.shape[0] // 2].std()), 1e-6))
    hounsfield += noise


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a phantom and its labels as NIfTI."""
    from app.imaging.nifti import write_labels, write_volume

    parser = argparse.ArgumentParser(prog="python -m training.phantom", description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path, metavar="OUT_DIR")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slices", type=int, default=60)
    parser.add_argument("--size", type=int, default=256, help="rows and columns")
    chosen = parser.parse_args(arguments)
    spacing = (384.0 / chosen.size, 384.0 / chosen.size, 180.0 / chosen.slices)
    phantom = abdomen(chosen.seed, (chosen.size, chosen.size, chosen.slices), spacing)
    chosen.output.mkdir(parents=True, exist_ok=True)
    write_volume(chosen.output / "ct.nii.gz", phantom.volume)
    labels = phantom.truth.labels
    write_labels(chosen.output / "labels.nii.gz", labels, phantom.truth.geometry, header_of=None)


if __name__ == "__main__":
    main()
