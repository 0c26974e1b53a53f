"""Fat painted into and along livers that is no lesion: fissures, and the cleft to a spleen taken for liver.

Partial volume makes a thin cleft as dark as a lesion, and its likes are rare in the few patients whose lesions are
labelled. A cleft is a long bent leaf of fat with pointed ends; how much of a plane's thickness it fills, and where,
changes from plane to plane. Shapes: B slices, P planes, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.neighbourhood import away_from_one, widened
from training.preprocessing import PLANES_MM
from training.synthesis import Where, chosen_by_round, log_uniform, turned

ROUNDS = 3
FAT_HU = (-120.0, -60.0)
LENGTH_MM = (12.0, 80.0)
WIDTH_MM = (0.8, 10.0)
#: At the least so much longer than wide: rounder ones could be lesions.
SLENDER = 3.0
#: How much of a plane's thickness is fat in the middle of a cleft.
FILLED = (0.35, 1.0)
#: How often a cleft lies along the outline instead of anywhere in the liver.
AT_OUTLINE = 0.7
OUTLINE_PIXELS = 2
#: A pixel with so much fat in it is cleft.
SEEN = 0.1


@dataclass(frozen=True)
class _Leaf:
    """A leaf in each slice: pixels along and across its bent axis (B, H, W); half its length and width, and how far it
    moves across for every mm of height (B, 1, 1), pixels.
    """

    along: Tensor
    across: Tensor
    length: Tensor
    width: Tensor
    lean: Tensor

    def fat(self, z_mm: float) -> Tensor:
        """How much of each pixel lies in the leaf in the plane so far above the slice, 0..1 (B, H, W)."""
        left = (1.0 - (self.along / self.length) ** 2).clamp(min=0.0)
        inside = self.width * left.sqrt() - (self.across - self.lean * z_mm).abs()
        return torch.sigmoid(2.0 * inside) * (left > 0.0)


def _leaf(places_BHW: Tensor, pixel_mm_B: Tensor) -> _Leaf:
    count = len(places_BHW)
    along, across = turned(*away_from_one(places_BHW))
    pixel_mm = pixel_mm_B.view(-1, 1, 1)
    length_mm = log_uniform(count, LENGTH_MM)
    width_mm = torch.minimum(log_uniform(count, WIDTH_MM), length_mm / SLENDER)
    length = length_mm / pixel_mm / 2.0
    bend = (torch.rand(count, 1, 1) - 0.5) / length
    across = across + bend * along**2
    return _Leaf(along, across, length, width_mm / pixel_mm / 2.0, (torch.rand(count, 1, 1) - 0.5) / pixel_mm)


def _places(liver_BHW: Tensor) -> Tensor:
    """The chance of each pixel to be a cleft's middle."""
    outline = widened(liver_BHW, OUTLINE_PIXELS) & widened(~liver_BHW, OUTLINE_PIXELS)
    at_outline = torch.rand(len(liver_BHW), 1, 1) < AT_OUTLINE
    return torch.where(at_outline, outline, liver_BHW)


def paint_clefts(hounsfield_BPHW: Tensor, labels_BHW: Tensor, where: Where, chance: float) -> tuple[Tensor, Tensor]:
    """Paint up to three clefts into a slice and its neighbours, each slice with this chance, past its lesions.

    Returns the HU, and the pixels (bool) that have fat of a cleft in them.
    """
    planes = hounsfield_BPHW.shape[1]
    seen = torch.zeros_like(labels_BHW, dtype=torch.bool)
    result = hounsfield_BPHW.clone()
    for active in chosen_by_round(labels_BHW >= 1, chance, ROUNDS):
        leaf = _leaf(_places(labels_BHW[active] >= 1), where.of(active).pixel_mm)
        low, high = FILLED
        filled = low + (high - low) * torch.rand(len(active), planes, 1, 1)
        fat = torch.stack([leaf.fat(z_mm) for z_mm in PLANES_MM[:planes]], dim=1) * filled
        fat = fat * (labels_BHW[active] != 2)[:, None]
        fat_hu = FAT_HU[0] + (FAT_HU[1] - FAT_HU[0]) * torch.rand(len(active), 1, 1, 1)
        before = result[active]
        result[active] = torch.where(before > fat_hu, before + (fat_hu - before) * fat, before)
        seen[active] |= fat[:, 0] > SEEN
    return result, seen
