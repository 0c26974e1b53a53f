"""Slices that a network looked at, and those between them, whose logits are interpolated.

Slices thinner than a working grid's pixel tell it little that their neighbours do not: a scan of 0.6 mm holds five
slices for each pixel of 3 mm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.imaging.volume import Mask

#: So many are looked at if there are as many: a liver of 120 mm in steps of 3. Fewer slices, said to be thin ones, are
#: a short scan, where leaving some out saves nothing, or thick ones whose distance the header has lost.
FEWEST = 40

Float = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.intp]


def stride(step_mm: float, slice_mm: float, count: int) -> int:
    """Every how many of `count` slices, slice_mm apart, one is looked at, so that these are at most step_mm apart."""
    return max(1, min(math.floor(step_mm / slice_mm + 1e-3), count // FEWEST))


def every(slices: Sequence[int], step: int) -> list[int]:
    """Every step-th of the slices, so that as many are left over at one end as at the other."""
    return list(slices[(len(slices) - 1) % step // 2 :: step])


@dataclass(frozen=True, eq=False)
class Between:
    """For each of K slices: the numbers, among those looked at, of the one below and the one above, the share that the
    latter has, and whether a probability is known at all. Beyond the first and the last it is theirs.
    """

    below: Numbers
    above: Numbers
    share: Float
    known: Mask

    @classmethod
    def of(cls, count: int, looked_at: Sequence[int], seen: Mask | None = None) -> Between:
        """For `count` slices, of which these ascending ones were meant to be looked at and those `seen` (S,) were."""
        looked, k = np.asarray(looked_at, np.intp), np.arange(count)
        above = np.searchsorted(looked, k).clip(max=len(looked) - 1)
        below = np.where(looked[above] > k, above - 1, above).clip(min=0)
        gap = np.maximum(looked[above] - looked[below], 1)
        share = np.where(above > below, (k - looked[below]) / gap, 0.0)
        known = np.ones(count, np.bool_) if seen is None else seen[below] & seen[above]
        return cls(below, above, share.astype(np.float32), known)

    def slice_of(self, logit_shw: Float, k: int) -> Float:
        """The logits of slice k (h, w)."""
        share = self.share[k]
        below: Float = logit_shw[self.below[k]]
        return below if share == 0.0 else (1 - share) * below + share * logit_shw[self.above[k]]
