"""A coarse synthetic trunk with its liver, for tests of what is said about scans."""

from functools import cache

import numpy as np

from app.imaging.volume import Geometry, Segmentation, Volume
from training.phantom import Phantom, abdomen


@cache
def trunk(seed: int = 0) -> Phantom:
    """96 x 80 x 48 voxels of 4 x 4 x 4 mm: lungs above, the liver in the middle, bowel below, a spine behind."""
    return abdomen(seed, (96, 80, 48), (4.0, 4.0, 4.0), noise_hu=8)


def hounsfield(seed: int = 0) -> np.ndarray:
    """Its values (i to left, j to posterior, k to superior), to be changed."""
    return trunk(seed).volume.voxels.astype(np.float32)


def scan(voxels: np.ndarray, spacing_mm: tuple[float, float, float] = (4.0, 4.0, 4.0)) -> Volume:
    """Voxels in LPS order as a scan."""
    affine = np.diag([-spacing_mm[0], -spacing_mm[1], spacing_mm[2], 1.0])
    rounded = np.clip(np.rint(voxels), -32768, 32767).astype(np.int16)
    return Volume(np.asfortranarray(rounded), Geometry(rounded.shape, affine))


def labelled(labels: np.ndarray, volume: Volume) -> Segmentation:
    """Labels on the grid of a scan."""
    return Segmentation(np.asfortranarray(labels.astype(np.uint8)), volume.geometry)
