"""Which slices make a batch, and what becomes of them before the preprocessing. Shapes: B slices, H rows, W columns."""

from __future__ import annotations

import math

import cc3d
import numpy as np
import torch
from torch import Tensor

from training.augmentation import augmented
from training.neighbourhood import widened
from training.packs import SINGLE_SLICES, Pack
from training.recipes import Recipe
from training.shown import shown
from training.split import DataError
from training.synthesis import Where, disc_diameter_mm

Examples = dict[str, Tensor]
#: How far around what was painted an unlabelled liver counts in full, pixels.
NEAR_PIXELS = 4
#: What lies between so far from the liver is its rim, pixels: nearer, the label itself may be a pixel off.
RIM_PIXELS = (2, 8)
#: A lesion as large as this, or larger, counts by its pixels alone, mm.
LARGE_MM = 30.0


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
        there = ", ".join(sorted(patients)) or "nothing"
        raise DataError(f"the recipe draws from {', '.join(shares)}; to be trained on there is {there}")
    return torch.tensor(chances, dtype=torch.float64)


def lesion_weights(labels_BHW: Tensor, pixel_mm_B: Tensor, most: float) -> Tensor:
    """How much each pixel counts for the size of its lesion, float32 (B, H, W): 1 outside and in a lesion of 30 mm,
    the more the smaller, `most` at last. Without it the large ones are all that a loss over pixels sees.
    """
    weight_BHW = torch.ones(labels_BHW.shape)
    for n in (labels_BHW == 2).flatten(1).any(dim=1).nonzero()[:, 0].tolist():
        ids = cc3d.connected_components((labels_BHW[n] == 2).numpy(), connectivity=8)
        diameter_mm = disc_diameter_mm(np.bincount(ids.ravel()), float(pixel_mm_B[n]))
        of_each = np.clip(LARGE_MM / np.maximum(diameter_mm, 1e-3), 1.0, most).astype(np.float32)
        of_each[0] = 1.0
        weight_BHW[n] = torch.from_numpy(of_each[ids])
    return weight_BHW


def drawn(pack: Pack, chances: Tensor, recipe: Recipe) -> Examples:
    """A random augmented batch: hounsfield float32 (B, P, H, W); labels uint8, weight float32, liver bool (B, H, W).

    The liver that a lesion network is shown is not quite the labelled one (`training.shown`).
    """
    at = torch.multinomial(chances, recipe.batch, replacement=True).numpy()
    entries = [pack.entries[n] for n in at]
    hounsfield = torch.from_numpy(pack.hounsfield[at].astype(np.float32))
    labels = torch.from_numpy(pack.labels[at])
    where = Where(
        torch.tensor([math.sqrt(math.prod(entry.pixel_mm)) for entry in entries]),
        torch.tensor([entry.source in SINGLE_SLICES for entry in entries]),
    )
    hounsfield, labels, painted = augmented(hounsfield, labels, where, recipe.augmentation)
    liver = labels >= 1
    if recipe.task == "lesion":
        labelled = torch.tensor([entry.lesions_labelled for entry in entries]).view(-1, 1, 1)
        near = widened(painted, NEAR_PIXELS)
        seen = shown(liver, hounsfield[:, 0])
        weight = torch.where(labelled | near | ~liver, 1.0, recipe.unlabelled_weight) * (liver | seen)
        weight = weight * lesion_weights(labels, where.pixel_mm, recipe.lesion_weight)
        liver = seen
    else:
        inner, outer = RIM_PIXELS
        rim = widened(liver, outer) & ~widened(liver, inner)
        weight = torch.where(labels == 2, recipe.lesion_weight, 1.0) * torch.where(rim, recipe.rim_weight, 1.0)
    return {"hounsfield": hounsfield, "labels": labels, "weight": weight, "liver": liver}
