"""The liver that a lesion network is shown: drawn as the liver network in front of it would draw it, mistakes included.

What it takes for liver beside the true one, gall bladder, fissures, heart and muscle, counts in full as no lesion: it
is there in every labelled slice, also where the lesions are not labelled. Shapes: B slices, H rows, W columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.neighbourhood import away_from_one, blurred, widened

#: What a mistake takes in, HU: soft tissue alone, or the fat of fissures too.
SOFT_HU, FAT_HU = -20.0, -150.0
#: What lies in a gall bladder, in fissures and beside them, HU; mistakes begin there eight times as often.
FLUID_HU = (-30.0, 50.0)
OFTEN = 8.0
#: How far fissures and bays are filled, pixels.
FILLED_PIXELS = (3, 12)


def shown(liver_BHW: Tensor, hounsfield_BHW: Tensor) -> Tensor:
    """The mask with its outline moved, bays filled in some slices, and a piece of what lies beside it in others."""
    least_hu = torch.where(torch.rand(len(liver_BHW)) < 0.5, SOFT_HU, FAT_HU).view(-1, 1, 1)
    return overflowing(filled(redrawn(liver_BHW), hounsfield_BHW > least_hu), hounsfield_BHW, least_hu)


def redrawn(liver_BHW: Tensor) -> Tensor:
    """The mask with its outline moved in or out by a few pixels, corners rounded."""
    count = len(liver_BHW)
    soft = blurred(liver_BHW.to(torch.float32)[:, None], 0.5 + 3.0 * torch.rand(count))[:, 0]
    return soft > (0.25 + 0.5 * torch.rand(count)).view(-1, 1, 1)


def filled(liver_BHW: Tensor, tissue_BHW: Tensor, chance: float = 0.4) -> Tensor:
    """The mask with its fissures and bays closed, where there is tissue in them, in some slices."""
    result = liver_BHW.clone()
    for n in (torch.rand(len(liver_BHW)) < chance).nonzero()[:, 0].tolist():
        reach = int(torch.randint(FILLED_PIXELS[0], FILLED_PIXELS[1] + 1, ()))
        closed = ~widened(~widened(liver_BHW[n : n + 1], reach), reach)[0]
        result[n] |= closed & tissue_BHW[n]
    return result


def overflowing(
    liver_BHW: Tensor, hounsfield_BHW: Tensor, least_hu: Tensor | float = SOFT_HU, chance: float = 0.5
) -> Tensor:
    """The mask with a round piece of the tissue (at least so many HU) beside it, in some slices; mostly of fluid."""
    count = len(liver_BHW)
    soft = blurred(liver_BHW.to(torch.float32)[:, None], torch.full((count,), 2.0))[:, 0]
    edge = (soft > 0.05) & (soft < 0.5)
    fluid = (hounsfield_BHW > FLUID_HU[0]) & (hounsfield_BHW < FLUID_HU[1])
    y, x = away_from_one(edge * torch.where(fluid, OFTEN, 1.0))
    radius = 4.0 + 26.0 * torch.rand(count, 1, 1) ** 1.5
    happens = torch.rand(count, 1, 1) < chance
    return liver_BHW | ((x**2 + y**2 < radius**2) & (hounsfield_BHW > least_hu) & happens)
