"""A synthetic abdominal CT whose truth is known voxel by voxel.

    python -m training.phantom OUT_DIR [--seed N] [--slices N] [--size N]    writes ct.nii.gz and labels.nii.gz

Made for the demonstration, for tests, and as extra training material; it is no patient. With `noise_hu=0` every voxel
has exactly the value that `HOUNSFIELD` gives its tissue, so a test can pick organs by a threshold:

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

from app.imaging.volume import Geometry, Label, Segmentation, Volume
from training.anatomy import LIVER_TISSUES, Body, Float32, Habitus, Point, Tissue, paint, smooth_field

#: Hounsfield units of each tissue in the portal-venous phase. The liver lies lower than the spleen, muscle lower than
#: every lesion, so that the ranges below are free of other tissues.
HOUNSFIELD: dict[Tissue, int] = {
    Tissue.AIR: -1000,
    Tissue.TABLE: 180,
    Tissue.SKIN: 10,
    Tissue.FAT: -105,
    Tissue.MUSCLE: 52,
    Tissue.VISCERAL_FAT: -100,
    Tissue.LUNG: -860,
    Tissue.CORTICAL_BONE: 620,
    Tissue.MARROW: 230,
    Tissue.DISC: 58,
    Tissue.CANAL: 25,
    Tissue.AORTA: 155,
    Tissue.VENA_CAVA: 140,
    Tissue.HEART: 145,
    Tissue.LIVER: 105,
    Tissue.LIVER_VESSEL: 120,
    Tissue.LESION: 70,
    Tissue.GALLBLADDER: 8,
    Tissue.SPLEEN: 128,
    Tissue.BYSTANDER: 64,
    Tissue.KIDNEY_CORTEX: 175,
    Tissue.KIDNEY_MEDULLA: 145,
    Tissue.BOWEL_WALL: 55,
    Tissue.BOWEL_CONTENT: 22,
    Tissue.BOWEL_CONTRAST: 320,
    Tissue.GAS: -950,
    Tissue.PANCREAS: 57,
    Tissue.VESSEL: 150,
    Tissue.ADRENAL: 50,
}
LIVER_RANGE_HU = (67, 124)
LESION_RANGE_HU = (67, 80)
LESION_LIKE_RANGE_HU = (60, 80)

#: The standard body needs this much room in mm (x, y, z); a smaller field of view gets a smaller body.
ROOM_MM = (350.0, 262.0, 170.0)
