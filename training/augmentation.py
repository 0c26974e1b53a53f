"""Random changes of a batch of slices in Hounsfield units, before the preprocessing: the order of serving.

All draws come from torch's global generator, which `loop.py` seeds per step. Shapes: B slices, P planes of a slice
(itself, and its neighbours where a network sees them), H rows, W columns. What happens to a slice happens to all its
planes, noise apart. Padding and everything outside the field of view is air.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from training.clefts import paint_clefts
from training.neighbourhood import blurred
from training.synthesis import Where, paint_lesions

AIR_HU = -1024.0
#: How far a copied neighbour's anatomy lies from the slice's own, in half slices (0.02: 2.5 pixels of 256).
TWIN_SHIFT = 0.02
#: What soft tissue without contrast agent has in common, HU.
PLAIN_TISSUE_HU = 45.0


@dataclass(frozen=True)
class Augmentation:
    """How far a slice may be changed. Fractions of the slice, degrees, HU; a chance per slice for the optional ones."""

    rotation_deg: float = 20.0
    scale: tuple[float, float] = (0.7, 1.35)
    aspect: float = 0.16
    shift: float = 0.12
    mirror: bool = False
    elastic: float = 0.02
    gain: float = 0.15
    offset_hu: float = 15.0
    liver_offset_hu: float = 18.0
    fatty: float = 0.06
    unenhanced: float = 0.25
    shading_hu: float = 0.0
    noise_hu: float = 30.0
    blur_pixels: float = 1.2
    field_of_view: float = 0.1
    arms: float = 0.1
    coarse: float = 0.1
    lesions: float = 0.25
    clefts: float = 0.0


#: The four of the preprint: rotation, mirror that keeps the vertical axis, shrinking, shift.
PAPER = Augmentation(
    rotation_deg=15.0, scale=(0.8, 1.0), aspect=0.0, shift=0.1, mirror=True, elastic=0.0, gain=0.0, offset_hu=0.0,
    liver_offset_hu=0.0, fatty=0.0, unenhanced=0.0, noise_hu=0.0, blur_pixels=0.0, field_of_view=0.0, arms=0.0,
    coarse=0.0, lesions=0.0,
)  # fmt: skip
NOTHING = Augmentation(
    rotation_deg=0.0, scale=(1.0, 1.0), aspect=0.0, shift=0.0, mirror=False, elastic=0.0, gain=0.0, offset_hu=0.0,
    liver_offset_hu=0.0, fatty=0.0, unenhanced=0.0, noise_hu=0.0, blur_pixels=0.0, field_of_view=0.0, arms=0.0,
    coarse=0.0, lesions=0.0,
)  # fmt: skip


def _symmetric(count: int, extent: float) -> Tensor:
    return (torch.rand(count) * 2.0 - 1.0) * extent


def _happens(count: int, chance: float) -> Tensor:
    return (torch.rand(count) < chance).to(torch.float32).view(-1, 1, 1, 1)


def _uniform(count: int) -> Tensor:
    return torch.rand(count, 1, 1, 1)


def sampling_grid(count: int, size: tuple[int, int], how: Augmentation) -> Tensor:
    """Where each output pixel is read from, (B, H, W, 2) in -1..1: affine, then a smooth elastic field."""
    angle = _symmetric(count, math.radians(how.rotation_deg))
    low, high = math.log(how.scale[0]), math.log(how.scale[1])
    scale = torch.exp(torch.rand(count) * (high - low) + low)
    aspect = torch.exp(_symmetric(count, how.aspect))
    mirror = torch.ones(count)
    if how.mirror:
        mirror = torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    across, down = mirror / (scale * aspect), aspect / scale
    matrix = torch.stack(
        (
            torch.stack((angle.cos() * across, -angle.sin() * down, _symmetric(count, 2 * how.shift)), dim=1),
            torch.stack((angle.sin() * across, angle.cos() * down, _symmetric(count, 2 * how.shift)), dim=1),
        ),
        dim=1,
    )
    grid = functional.affine_grid(matrix, [count, 1, *size], align_corners=False)
    if how.elastic > 0.0:
        coarse = torch.randn(count, 2, 6, 6) * how.elastic * torch.rand(count, 1, 1, 1)
        grid = grid + functional.interpolate(coarse, size=size, mode="bicubic").permute(0, 2, 3, 1)
    return grid


def _planes_moved(hounsfield_BPHW: Tensor, grid: Tensor, twin_B: Tensor) -> Tensor:
    """Each plane read at the grid. A twin's neighbours are copies of it and lie elsewhere by some pixels."""
    planes = []
    for n in range(hounsfield_BPHW.shape[1]):
        here = grid
        if n > 0 and bool(twin_B.any()):
            coarse = torch.randn(len(grid), 2, 8, 8) * TWIN_SHIFT * twin_B.view(-1, 1, 1, 1)
            size = (grid.shape[1], grid.shape[2])
            here = grid + functional.interpolate(coarse, size=size, mode="bicubic").permute(0, 2, 3, 1)
        plane = hounsfield_BPHW[:, n : n + 1] - AIR_HU
        planes.append(functional.grid_sample(plane, here, mode="bilinear", padding_mode="zeros", align_corners=False))
    return torch.cat(planes, dim=1) + AIR_HU


def moved(hounsfield_BPHW: Tensor, labels_BHW: Tensor, twin_B: Tensor, how: Augmentation) -> tuple[Tensor, Tensor]:
    """Rotate, scale, shift and bend; labels (0, 1, 2) by majority through their two masks."""
    size = (labels_BHW.shape[1], labels_BHW.shape[2])
    grid = sampling_grid(len(labels_BHW), size, how)
    masks = torch.stack(((labels_BHW >= 1).to(torch.float32), (labels_BHW == 2).to(torch.float32)), dim=1)
    masks = functional.grid_sample(masks, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    liver, lesion = masks[:, 0] > 0.5, masks[:, 1] > 0.5
    labels = liver.to(torch.uint8) + (liver & lesion).to(torch.uint8)
    return _planes_moved(hounsfield_BPHW, grid, twin_B), labels


def _with_arms(hounsfield: Tensor, how: Augmentation) -> Tensor:
    """Soft-tissue ellipses with a bone in the air beside the trunk."""
    count, _, rows, columns = hounsfield.shape
    y = torch.linspace(-1, 1, rows).view(1, 1, -1, 1)
    x = torch.linspace(-1, 1, columns).view(1, 1, 1, -1)
    for side in (-1.0, 1.0):
        centre_x = side * (0.8 + 0.2 * _uniform(count))
        centre_y = _uniform(count) * 1.2 - 0.6
        radius = 0.08 + 0.12 * _uniform(count)
        distance = torch.sqrt((x - centre_x) ** 2 + ((y - centre_y) * (0.6 + 0.6 * _uniform(count))) ** 2) / radius
        arm = torch.where(distance < 0.3, 400.0, torch.where(distance < 0.8, 55.0, -90.0))
        visible = (distance < 1.0) & (hounsfield < -150.0) & (_happens(count, how.arms) > 0)
        hounsfield = torch.where(visible, arm, hounsfield)
    return hounsfield


def _contrast(hounsfield: Tensor, labels: Tensor, how: Augmentation) -> Tensor:
    """Gain and offset for all, and an offset of the liver alone: contrast phase and fat content. Air stays air."""
    count = len(hounsfield)
    if how.unenhanced > 0.0:
        hounsfield = _less_enhanced(hounsfield, how.unenhanced)
    tissue = (hounsfield > 0.0).to(torch.float32)
    gain = torch.exp(_symmetric(count, how.gain)).view(-1, 1, 1, 1)
    offset = _symmetric(count, how.offset_hu).view(-1, 1, 1, 1)
    hounsfield = torch.where(hounsfield > 0.0, hounsfield * gain + offset, hounsfield)
    if how.liver_offset_hu > 0.0:
        liver = blurred((labels >= 1).to(torch.float32)[:, None], torch.full((count,), 1.0))
        change = torch.randn(count, 1, 1, 1) * how.liver_offset_hu * _happens(count, 0.5)
        if how.fatty > 0.0:
            change = change - (20.0 + 40.0 * _uniform(count)) * _happens(count, how.fatty)
        hounsfield = hounsfield + change * liver * tissue
    if how.shading_hu > 0.0:
        hounsfield = hounsfield + _shading(hounsfield.shape[2:], torch.rand(count) * how.shading_hu) * tissue
    return hounsfield


def _less_enhanced(hounsfield: Tensor, chance: float) -> Tensor:
    """Soft tissue and vessels drawn towards what they have in common without contrast agent, some slices only."""
    count = len(hounsfield)
    left = torch.where(_happens(count, chance) > 0, 0.2 + 0.8 * _uniform(count), 1.0)
    drawn = PLAIN_TISSUE_HU + (hounsfield - PLAIN_TISSUE_HU) * left
    return torch.where((hounsfield > 0.0) & (hounsfield < 300.0), drawn, hounsfield)


def _shading(size: tuple[int, ...], strength_hu_B: Tensor) -> Tensor:
    """A smooth field over the slice, (B, 1, H, W): perfusion and beam hardening, which are no lesions."""
    coarse = torch.randn(len(strength_hu_B), 1, 4, 4) * strength_hu_B.view(-1, 1, 1, 1)
    return functional.interpolate(coarse, size=(size[0], size[1]), mode="bicubic")


def _texture(hounsfield: Tensor, how: Augmentation) -> Tensor:
    """Blur or coarse pixels first, then noise, partly correlated between neighbours as a reconstruction's is."""
    count = len(hounsfield)
    rows, columns = hounsfield.shape[2:]
    if how.blur_pixels > 0.0:
        hounsfield = blurred(hounsfield, torch.rand(count) * how.blur_pixels)
    if how.coarse > 0.0:
        small = functional.interpolate(hounsfield, size=(rows // 2, columns // 2), mode="area")
        large = functional.interpolate(small, size=(rows, columns), mode="bilinear")
        hounsfield = torch.where(_happens(count, how.coarse) > 0, large, hounsfield)
    if how.noise_hu > 0.0:
        noise = torch.randn_like(hounsfield)
        noise = torch.where(_happens(count, 0.5) > 0, blurred(noise, torch.full((count,), 0.8)) * 2.5, noise)
        strength = (torch.rand(count) ** 2 * how.noise_hu).view(-1, 1, 1, 1)
        hounsfield = hounsfield + noise * strength * (hounsfield > 0.0)
    return hounsfield


def _field_of_view(hounsfield: Tensor, how: Augmentation) -> Tensor:
    """Air outside a circle, as a scanner with a small reconstruction circle leaves it."""
    count, _, rows, columns = hounsfield.shape
    y = torch.linspace(-1, 1, rows).view(1, 1, -1, 1)
    x = torch.linspace(-1, 1, columns).view(1, 1, 1, -1)
    outside = x**2 + y**2 > (0.75 + 0.35 * _uniform(count)) ** 2
    return torch.where(outside & (_happens(count, how.field_of_view) > 0), AIR_HU, hounsfield)


def augmented(
    hounsfield_BPHW: Tensor, labels_BHW: Tensor, where: Where, how: Augmentation
) -> tuple[Tensor, Tensor, Tensor]:
    """A changed copy: HU float32 (B, P, H, W); labels uint8 and what was painted (bool), both (B, H, W).

    Of what was painted, lesions and clefts, is known what it is, whether the source labels lesions or not.
    """
    hounsfield, labels = moved(hounsfield_BPHW, labels_BHW, where.twin, how)
    painted = torch.zeros_like(labels, dtype=torch.bool)
    if how.gain > 0.0 or how.offset_hu > 0.0:
        hounsfield = _contrast(hounsfield, labels, how)
    if how.lesions > 0.0:
        hounsfield, labels, painted = paint_lesions(hounsfield, labels, where, how.lesions)
    if how.clefts > 0.0:
        hounsfield, clefts = paint_clefts(hounsfield, labels, where, how.clefts)
        painted = painted | clefts
    if how.arms > 0.0:
        hounsfield = _with_arms(hounsfield, how)
    hounsfield = _texture(hounsfield, how)
    if how.field_of_view > 0.0:
        hounsfield = _field_of_view(hounsfield, how)
    return hounsfield, labels, painted
