"""How sure the lesion network was of each lesion, and how large a lesion is at two further thresholds.

With t the threshold that made the mask:

- mean probability: over the lesion's voxels. It is what the network said, not how often it is right.
- low volume: the lesion's voxels of probability at least (1 + t) / 2.
- high volume: the lesion, and every voxel of the liver of probability at least t / 2 that hangs together with it
  (26-connected) and is no other lesion's. What lies between two lesions counts for either.

So low <= volume <= high. It is no confidence interval: it tells how sharp the network's edge is, not how wrong it is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from app.imaging.evidence import Evidence
from app.imaging.lesions import NumberedLesions
from app.imaging.region import touching_components
from app.imaging.volume import Segmentation

Counts = npt.NDArray[np.int64]


class Likelihood(NamedTuple):
    """Of lesions 1..n: mean probability (n,), and voxels at the two further thresholds (n,)."""

    mean_probability: npt.NDArray[np.float64]
    low_counts: Counts
    high_counts: Counts


def likelihood(numbered: NumberedLesions, segmentation: Segmentation) -> Likelihood | None:
    """The likelihood of a segmentation's lesions; None if it has no evidence, or no lesions."""
    evidence, count = segmentation.evidence, len(numbered.boxes)
    if evidence is None or not count:
        return None
    ids = numbered.ids[numbered.ids > 0]
    probability = evidence.probability[numbered.box.within(evidence.box)][numbered.ids > 0]
    own = np.bincount(ids, minlength=count + 1)[1:]
    sums = np.bincount(ids, weights=probability, minlength=count + 1)[1:]
    sure = np.bincount(ids[probability >= (1 + evidence.threshold) / 2], minlength=count + 1)[1:]
    return Likelihood(sums / own, sure, own + _around(numbered, segmentation, evidence))


def _around(numbered: NumberedLesions, segmentation: Segmentation, evidence: Evidence) -> Counts:
    """Of each lesion: how many voxels that are no lesion hang together with it at the lower threshold (n,)."""
    box = segmentation.box
    assert box is not None  # noqa: S101 - there are lesions
    likely = evidence.probability[box.within(evidence.box)] >= evidence.threshold / 2
    likely &= segmentation.labels[box.slices] > 0
    pieces = touching_components(likely)
    at_lesions = pieces[numbered.box.within(box)][numbered.ids > 0]
    rest = np.bincount(pieces.ravel("K"), minlength=1) - np.bincount(at_lesions, minlength=int(pieces.max()) + 1)
    rest[0] = 0
    piece_of = np.zeros(len(numbered.boxes) + 1, dtype=np.int64)
    piece_of[numbered.ids[numbered.ids > 0]] = at_lesions
    return rest[piece_of[1:]]
