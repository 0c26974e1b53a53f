"""What the lesion network said before its threshold made a mask of it."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
import numpy.typing as npt

from app.imaging.region import Box


@dataclass(frozen=True, eq=False)
class Evidence:
    """The probability of lesion that a segmentation was made of, on a part of its grid.

    probability: float32, 0 to 1, after refinement, on `box`. A voxel of the liver can be lesion from `threshold`
    on; a network may ask for more somewhere in a lesion before it is one.
    Raises ValueError if the probability does not fill the box.
    """

    probability: npt.NDArray[np.float32]
    box: Box
    threshold: float

    def __post_init__(self) -> None:
        if self.probability.shape != self.box.shape:
            raise ValueError(f"expected a probability of shape {self.box.shape}, got {self.probability.shape}")

    def reoriented(self, transform: npt.NDArray[np.float64], shape: tuple[int, int, int]) -> Evidence:
        """The same after NiBabel's (3, 2) orientation transform of the grid, which has `shape` before it."""
        start, stop = [0, 0, 0], [0, 0, 0]
        ends = zip(self.box.start, self.box.stop, shape, strict=True)
        for (first, end, size), (axis, direction) in zip(ends, transform, strict=True):
            low, high = (first, end) if direction > 0 else (size - end, size - first)
            start[int(axis)], stop[int(axis)] = low, high
        box = Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
        return Evidence(nib.orientations.apply_orientation(self.probability, transform), box, self.threshold)
