"""Synthetic lesions painted into real livers: lesion labels come from few patients, livers from many.

Blobs are ellipses bent by low-frequency noise, 4 to 60 mm across, with a soft edge; most are darker than the liver,
some brighter, some with an enhancing rim. Shapes: B slices, H rows, W columns.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

ROUNDS = 4
DIAMETER_MM = (4.0, 60.0)


def _centres(liver_BHW: Tensor) -> tuple[Tensor, Tensor]:
    """A random pixel of each slice's liver (row, column), (B, 1, 1) each; any pixel where there is no liver."""
    columns = liver_BHW.shape[2]
    chance_BN = liver_BHW.flatten(1).to(torch.float32) + 1e-9
    at = torch.multinomial(chance_BN, 1).view(-1, 1, 1)
    return torch.div(at, columns, rounding_mode="floor").to(torch.float32), (at % columns).to(torch.float32)


def _blob(liver_BHW: Tensor, pixel_mm_B: Tensor) -> tuple[Tensor, Tensor]:
    """Signed depth in pixels (positive inside) and relative distance (1 on the edge) of one blob in each slice."""
    count, rows, columns = liver_BHW.shape
    row, column = _centres(liver_BHW)
    low, high = math.log(DIAMETER_MM[0]), math.log(DIAMETER_MM[1])
    diameter_mm = torch.exp(low + (high - low) * torch.rand(count) ** 1.3)
    radius = (diameter_mm / pixel_mm_B / 2.0).clamp(1.2, 60.0).view(-1, 1, 1)
    stretch = torch.exp((torch.rand(count, 1, 1) - 0.5) * 0.8)
    angle = torch.rand(count, 1, 1) * math.pi
    y = torch.arange(rows, dtype=torch.float32).view(1, -1, 1) - row
    x = torch.arange(columns, dtype=torch.float32).view(1, 1, -1) - column
    along = (x * angle.cos() + y * angle.sin()) / (radius * stretch)
    across = (y * angle.cos() - x * angle.sin()) / (radius / stretch)
    bumps = functional.interpolate(torch.randn(count, 1, 20, 20), size=(rows, columns), mode="bicubic")[:, 0]
    distance = torch.sqrt(along**2 + across**2 + 1e-6) * (1.0 + 0.18 * bumps).clamp(0.6, 1.6)
    return (1.0 - distance) * radius, distance


def _change_hu(depth: Tensor, distance: Tensor) -> Tensor:
    """What a blob adds to the liver in HU: a plateau with a soft edge, sometimes a rim, sometimes bright."""
    count = len(depth)
    softness = 0.4 + 1.6 * torch.rand(count, 1, 1)
    inside = torch.sigmoid(depth / softness)
    kind = torch.rand(count, 1, 1)
    level = -(15.0 + 50.0 * torch.rand(count, 1, 1) ** 1.5)
    level = torch.where(kind > 0.9, 15.0 + 40.0 * torch.rand(count, 1, 1), level)
    level = torch.where(kind < 0.08, level - 40.0, level)
    rim = torch.exp(-0.5 * ((distance - 0.9) / 0.15) ** 2) * (25.0 + 25.0 * torch.rand(count, 1, 1))
    has_rim = (kind > 0.7) & (kind < 0.85)
    return inside * level + torch.where(has_rim, rim, torch.zeros_like(rim))


def paint_lesions(
    hounsfield_BHW: Tensor, labels_BHW: Tensor, pixel_mm_B: Tensor, chance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Paint up to four lesions into a slice, each slice with this chance, only where there is liver.

    Returns the HU, the labels with 2 where a lesion was painted, and the painted pixels (bool).
    """
    count = len(hounsfield_BHW)
    liver = labels_BHW >= 1
    painted = torch.zeros_like(liver)
    chosen = (torch.rand(count) < chance) & (liver.flatten(1).sum(dim=1) > 60)
    rounds = torch.randint(1, ROUNDS + 1, (count,))
    for n in range(ROUNDS):
        active = (chosen & (rounds > n)).nonzero()[:, 0]
        if len(active) == 0:
            continue
        depth, distance = _blob(liver[active], pixel_mm_B[active])
        change = _change_hu(depth, distance) * liver[active]
        hounsfield_BHW = hounsfield_BHW.index_add(0, active, change)
        painted[active] |= (depth > 0.0) & liver[active]
    labels = torch.where(painted, torch.full_like(labels_BHW, 2), labels_BHW)
    return hounsfield_BHW, labels, painted
