"""Grey values inside a mask."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from app.imaging.region import Box, Mask
from app.imaging.volume import Volume


class GreyValues(NamedTuple):
    """Mean, standard deviation (of the voxels there are: divided by their number), 5th, 50th and 95th percentile, HU.

    Percentiles are linear between the two nearest voxels.
    """

    mean_hu: float
    sd_hu: float
    p5_hu: float
    median_hu: float
    p95_hu: float


def mean_hu(volume: Volume, box: Box, inside: Mask) -> float:
    """The mean over a mask (bool) on a box of the volume. A sum of integers is exact in whatever order."""
    return int(np.sum(volume.voxels[box.slices], where=inside, dtype=np.int64)) / int(np.count_nonzero(inside))


def grey_values(volume: Volume, box: Box, inside: Mask) -> GreyValues:
    """Of a mask (bool, not empty) on a box of the volume."""
    values = volume.voxels[box.slices][inside].astype(np.int64)
    count, total = len(values), int(values.sum())
    # Exact until the root: what is squared are integers.
    sd = math.sqrt(count * int((values**2).sum()) - total**2) / count
    p5, median, p95 = (float(value) for value in np.percentile(values, (5, 50, 95)))
    return GreyValues(total / count, sd, p5, median, p95)
