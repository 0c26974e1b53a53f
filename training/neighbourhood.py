"""What lies around a pixel of its slice. Shapes: B slices, P planes, H rows, W columns."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def blurred(image_BPHW: Tensor, sigma_B: Tensor) -> Tensor:
    """Gaussian blur with its own width, in pixels, for each slice; (B, P, H, W)."""
    count, planes, rows, columns = image_BPHW.shape
    offset = torch.arange(-4, 5, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offset / sigma_B.clamp(min=1e-3)[:, None]) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(planes, dim=0)
    image = functional.pad(image_BPHW.reshape(1, count * planes, rows, columns), (4, 4, 4, 4), mode="replicate")
    image = functional.conv2d(image, kernel.view(-1, 1, 1, 9), groups=count * planes)
    image = functional.conv2d(image, kernel.view(-1, 1, 9, 1), groups=count * planes)
    return image.view(count, planes, rows, columns)


def widened(mask_BHW: Tensor, pixels: int) -> Tensor:
    """The mask and what lies within a square of `pixels` around each of its own, bool (B, H, W)."""
    mask_B1HW = mask_BHW.to(torch.float32)[:, None]
    return functional.max_pool2d(mask_B1HW, 2 * pixels + 1, stride=1, padding=pixels)[:, 0] > 0


def away_from_one(chance_BHW: Tensor) -> tuple[Tensor, Tensor]:
    """How many rows (B, H, 1) and columns (B, 1, W) each pixel lies from a random one of its slice.

    chance_BHW: how likely each is to be drawn, a mask or weights; where all are 0, any is.
    """
    rows, columns = chance_BHW.shape[1:]
    at = torch.multinomial(chance_BHW.flatten(1).to(torch.float32) + 1e-9, 1).view(-1, 1, 1)
    row, column = torch.div(at, columns, rounding_mode="floor"), at % columns
    y = torch.arange(rows, dtype=torch.float32).view(1, -1, 1) - row
    x = torch.arange(columns, dtype=torch.float32).view(1, 1, -1) - column
    return y, x
