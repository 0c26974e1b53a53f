"""Which slices make a batch, and what becomes of them before the preprocessing. Shapes: B slices, H rows, W columns."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from training.augmentation import augmented, blurred
from training.packs import Pack
from training.recipes import Recipe

Examples = dict[str, Tensor]
#: How far around a painted lesion an unlabelled liver counts in full, pixels.
NEAR_PIXELS = 4


def slice_chances(pack: Pack, recipe: Recipe) -> Tensor:
    """The chance of each slice: its source's share, every patient of it alike, every slice of a patient alike."""
    shares = dict(recipe.shares)
    keys = [(entry.source, entry.patient) for entry in pack.entries]
    slices: dict[tuple[str, str], int] = {}
    for key in keys:
        slices[key] = slices.get(key, 0) + 1
    patients: dict[str, int] = {}
    for source, _ in slices:
        patients[source] = patients.get(source, 0) + 1
    chances = [shares.get(source, 0.0) / patients[source] / slices[(source, patient)] for source, patient in keys]
    if sum(chances) <= 0.0:
        raise ValueError(f"none of the sources {sorted(shares)} has slices")
    return torch.tensor(chances, dtype=torch.float64)


def redrawn(liver_BHW: Tensor) -> Tensor:
    """The mask with its outline moved in or out by a few pixels, corners rounded."""
    count = len(liver_BHW)
    soft = blurred(liver_BHW.to(torch.float32), 0.5 + 3.0 * torch.rand(count))
    return soft > (0.25 + 0.5 * torch.rand(count)).view(-1, 1, 1)


def drawn(pack: Pack, chances: Tensor, recipe: Recipe) -> Examples:
    """A random augmented batch: hounsfield float32, labels uint8, weight float32, liver bool, all (B, H, W).

    The liver that a lesion network is shown is redrawn, as the liver network in front of it would draw it.
    """
    at = torch.multinomial(chances, recipe.batch, replacement=True).numpy()
    hounsfield = torch.from_numpy(pack.hounsfield[at].astype(np.float32))
    labels = torch.from_numpy(pack.labels[at])
    pixel_mm = torch.tensor([math.sqrt(math.prod(pack.entries[n].pixel_mm)) for n in at])
    hounsfield, labels, painted = augmented(hounsfield, labels, pixel_mm, recipe.augmentation)
    weight, liver = torch.ones_like(hounsfield), labels >= 1
    if recipe.task == "lesion":
        labelled = torch.tensor([pack.entries[n].lesions_labelled for n in at]).view(-1, 1, 1)
        reach = 2 * NEAR_PIXELS + 1
        near = functional.max_pool2d(painted.to(torch.float32)[:, None], reach, stride=1, padding=NEAR_PIXELS)[:, 0] > 0
        weight = torch.where(labelled | near, 1.0, recipe.unlabelled_weight) * liver
        liver = redrawn(liver)
    return {"hounsfield": hounsfield, "labels": labels, "weight": weight, "liver": liver}
