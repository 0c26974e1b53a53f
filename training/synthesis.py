"""Synthetic lesions painted into real livers: lesion labels come from few patients, livers from many.

Blobs are ellipsoids bent by low-frequency noise, 4 to 60 mm across, with a soft edge; most are darker than the liver,
some brighter, some with an enhancing rim. A slice cuts one anywhere, and its neighbours cut it where they lie.
Shapes: B slices, P planes, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from training.neighbourhood import away_from_one
from training.preprocessing import PLANES_MM, SLAB_MM

ROUNDS = 4
#: Slices with no more liver than this are not painted into.
SMALLEST_LIVER_PIXELS = 60
DIAMETER_MM = (4.0, 60.0)
#: A plane is as thick as a slab: a blob is averaged over these heights in it, mm.
HEIGHTS_MM = (-SLAB_MM, 0.0, SLAB_MM)


@dataclass(frozen=True)
class Where:
    """Of each slice: the size of its pixels in mm (B,), and whether its neighbours are copies of itself (bool, B)."""

    pixel_mm: Tensor
    twin: Tensor

    def of(self, chosen: Tensor) -> Where:
        """The same for some of the slices."""
        return Where(self.pixel_mm[chosen], self.twin[chosen])


def disc_diameter_mm(pixels: npt.ArrayLike, pixel_mm: float) -> npt.NDArray[np.float64]:
    """The size of an area of so many pixels, each of this many mm: the diameter of a disc as large."""
    return np.asarray(2.0 * np.sqrt(np.asarray(pixels) / np.pi) * pixel_mm)


def log_uniform(count: int, between: tuple[float, float], skew: float = 1.0) -> Tensor:
    """Random sizes (B, 1, 1) whose logarithms are spread evenly, or with a `skew` over 1 towards the small ones."""
    low, high = math.log(between[0]), math.log(between[1])
    return torch.exp(low + (high - low) * torch.rand(count, 1, 1) ** skew)


def turned(y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The same offsets along and across an axis of random direction, pixels (B, H, W) each."""
    angle = torch.rand(len(y), 1, 1) * math.pi
    return x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()


def chosen_by_round(liver_BHW: Tensor, chance: float, most: int) -> Iterator[Tensor]:
    """For each of `most` rounds the slices that are painted into, their numbers (n,); a round without any is left out.

    A slice is chosen with this chance, if there is liver in it, and has one to `most` rounds.
    """
    count = len(liver_BHW)
    chosen = (torch.rand(count) < chance) & (liver_BHW.flatten(1).sum(dim=1) > SMALLEST_LIVER_PIXELS)
    rounds = torch.randint(1, most + 1, (count,))
    for n in range(most):
        active = (chosen & (rounds > n)).nonzero()[:, 0]
        if len(active):
            yield active


@dataclass(frozen=True)
class _Blob:
    """An ellipsoid in each slice: half its size in pixels and mm, its height over the slice, and its outline.

    flat: relative distance from the axis through its centre, 1 on the outline of the middle (B, H, W).
    """

    radius: Tensor
    radius_mm: Tensor
    height_mm: Tensor
    flat: Tensor

    def distance(self, z_mm: float) -> Tensor:
        """Relative distance from the centre, 1 on the surface, in the plane so far above the slice; (B, H, W)."""
        return torch.sqrt(self.flat**2 + ((z_mm - self.height_mm) / self.radius_mm) ** 2 + 1e-6)


def _blob(liver_BHW: Tensor, pixel_mm_B: Tensor) -> _Blob:
    count, rows, columns = liver_BHW.shape
    y, x = away_from_one(liver_BHW)
    pixel_mm = pixel_mm_B.view(-1, 1, 1)
    radius = (log_uniform(count, DIAMETER_MM, 1.3) / pixel_mm / 2.0).clamp(1.2, 60.0)
    stretch = torch.exp((torch.rand(count, 1, 1) - 0.5) * 0.8)
    along, across = turned(y, x)
    along, across = along / (radius * stretch), across / (radius / stretch)
    bumps = functional.interpolate(torch.randn(count, 1, 20, 20), size=(rows, columns), mode="bicubic")[:, 0]
    flat = torch.sqrt(along**2 + across**2 + 1e-6) * (1.0 + 0.18 * bumps).clamp(0.6, 1.6)
    radius_mm = radius * pixel_mm
    height_mm = (torch.rand(count, 1, 1) * 1.6 - 0.8) * radius_mm
    return _Blob(radius, radius_mm, height_mm, flat)


@dataclass(frozen=True)
class _Looks:
    """What a blob adds to the liver: a plateau in HU, a rim in HU (0 for none), and how soft its edge is in pixels."""

    level_hu: Tensor
    rim_hu: Tensor
    softness: Tensor

    def change_hu(self, blob: _Blob, z_mm: float) -> Tensor:
        """What is added in one plane, (B, H, W)."""
        distance = blob.distance(z_mm)
        inside = torch.sigmoid((1.0 - distance) * blob.radius / self.softness)
        return inside * self.level_hu + torch.exp(-0.5 * ((distance - 0.9) / 0.15) ** 2) * self.rim_hu


def _looks(count: int) -> _Looks:
    softness = 0.4 + 1.6 * torch.rand(count, 1, 1)
    kind = torch.rand(count, 1, 1)
    level = -(15.0 + 50.0 * torch.rand(count, 1, 1) ** 1.5)
    level = torch.where(kind > 0.9, 15.0 + 40.0 * torch.rand(count, 1, 1), level)
    level = torch.where(kind < 0.08, level - 40.0, level)
    has_rim = (kind > 0.7) & (kind < 0.85)
    return _Looks(level, has_rim * (25.0 + 25.0 * torch.rand(count, 1, 1)), softness)


def paint_lesions(
    hounsfield_BPHW: Tensor, labels_BHW: Tensor, where: Where, chance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Paint up to four lesions into a slice and its neighbours, each slice with this chance, only where there is liver.

    Returns the HU, the labels with 2 where a lesion was painted, and the painted pixels (bool).
    """
    planes = hounsfield_BPHW.shape[1]
    liver = labels_BHW >= 1
    painted = torch.zeros_like(liver)
    for active in chosen_by_round(liver, chance, ROUNDS):
        blob, looks = _blob(liver[active], where.of(active).pixel_mm), _looks(len(active))
        change = torch.stack([
            torch.stack([looks.change_hu(blob, plane_mm + z_mm) for z_mm in HEIGHTS_MM]).mean(dim=0)
            for plane_mm in PLANES_MM[:planes]
        ], dim=1)  # fmt: skip
        hounsfield_BPHW = hounsfield_BPHW.index_add(0, active, change * liver[active, None])
        painted[active] |= (blob.distance(0.0) < 1.0) & liver[active]
    labels = torch.where(painted, torch.full_like(labels_BHW, 2), labels_BHW)
    return hounsfield_BPHW, labels, painted
