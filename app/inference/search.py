"""Which slices of a scan are worth a network's time: those near one that shows the organ.

Every n-th slice is looked at first, then all that lie near one of those that show something. A piece of an organ that
is at least n slices tall holds one of the first, and ends at the latest at the next of them that shows nothing: it
comes out as if the network had seen every slice. A chest or a pelvis beside it costs little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from app.imaging.volume import Mask

#: How far apart the first slices are: a liver is several times as tall, and seldom lies across the scan.
APART_MM = 12.0


@dataclass(frozen=True)
class Search:
    """step: every how many slices one is looked at first. margin: slices beyond the organ that are wanted as well.

    Slices are those that the network would look at, so far apart in mm.
    """

    threshold: float
    step: int
    margin: int
    apart_mm: float

    @classmethod
    def along(cls, slice_mm: float, threshold: float, margin_mm: float) -> Search:
        """For slices so far apart: where the probability reaches the threshold, and a margin around that."""
        return cls(threshold, max(1, int(APART_MM / slice_mm)), int(np.ceil(margin_mm / slice_mm)) + 1, slice_mm)

    def first(self, count: int) -> list[int]:
        """The slices of `count` that are looked at first."""
        return list(range(0, count, self.step))

    def then(self, shows: Mask) -> list[int]:
        """Those that are looked at next; shows: of all slices, whether it was among the first and shows something."""
        reach = self.step + self.margin
        near = np.convolve(shows, np.ones(2 * reach + 1), mode="full")[reach : reach + len(shows)] > 0.5
        near[:: self.step] = False
        return [int(k) for k in np.flatnonzero(near)]

    def is_sure(self, mask_kji: Mask, slice_mm: float) -> bool:
        """Whether a piece is so tall that none between the first slices can have been larger and overlooked.

        slice_mm: how far apart the slices of the mask are.
        """
        height_mm = int(mask_kji.any(axis=(1, 2)).sum()) * slice_mm
        return height_mm >= 2 * self.step * self.apart_mm - 1e-6
