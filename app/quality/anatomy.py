"""Whether the patient lies on the grid as its header says: by the body's ends, its spine and its lungs.

Nothing here needs a network, and nothing is said where the picture is not clear. Mirror images are found where a
landmark is on the wrong side; left and right show only once the liver is found (`app.quality.answer`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from app.imaging.region import Mask
from app.quality.findings import Finding, warning
from app.quality.sample import Sample, Values

#: The body runs out of the picture at head and foot, hardly at the sides. Of how many voxels of a face it must be.
_RUNS_OUT, _TIMES_MORE = 0.15, 2.0
#: Spine: the share of bone in a strip from the middle of the body to its edge, and how much more that must be.
BONE_ABOVE_HU = 200
_HALF_STRIP_MM, _LEAST_BONE = 22.0, 0.06
#: A trunk is wider than deep.
_DEEPER = 1.05
#: Lungs fill more of a slice than bowel gas does; how many times more at one end than at the other.
_LUNG_SHARE, _LUNGS_TIMES = 0.12, 3.0
#: Where values are not clipped, lungs are not as empty as gas; noise apart.
LUNG_HU = (-960, -400)
#: Slices with less body, in cm2, and voxels, show nothing.
_LEAST_BODY_CM2, _FEWEST_SLICES = 100.0, 3


def check_anatomy(sample: Sample) -> Iterator[Finding]:
    """At most one finding: the first explains the others."""
    shares = _face_shares(sample.body)
    if _swapped(shares):
        yield warning("axes_swapped", "The body runs out of the picture at its sides, and not at head and foot.")
        return
    bone = spine_shares(sample)
    if bone is not None:
        anterior, posterior, right, left = bone
        if anterior > _LEAST_BONE and anterior > _TIMES_MORE * posterior:
            yield warning("front_back_swapped", "The spine lies in front: front and back seem to be swapped.")
            return
        aside, along = abs(left - right), abs(anterior - posterior)
        if aside > _LEAST_BONE and aside > _TIMES_MORE * along and _deeper(sample.filled, sample.spacing_mm):
            yield warning("quarter_turn", "The spine lies at a side: the slices seem to be turned by 90 degrees.")
            return
    if _lungs_below(sample):
        yield warning("upside_down", "What looks like lungs is at the foot: head and foot seem to be swapped.")


def _face_shares(body: Mask) -> tuple[float, float, float]:
    """How much of the two outer faces across each axis is body, mean of both."""
    i, j, k = (float(np.mean([body.take(end, axis=axis).mean() for end in (0, -1)])) for axis in range(3))
    return i, j, k


def _swapped(shares: tuple[float, float, float]) -> bool:
    across = max(shares[:2])
    return across > _RUNS_OUT and across > _TIMES_MORE * shares[2]


def spine_shares(sample: Sample) -> npt.NDArray[np.float64] | None:
    """The share of bone from the middle to the front, back, right and left: (4,), medians over the slices."""
    least = _LEAST_BODY_CM2 * 100 / (sample.spacing_mm[0] * sample.spacing_mm[1])
    rows = [
        _bone_shares(sample.hounsfield[:, :, k], sample.filled[:, :, k], sample.spacing_mm)
        for k in np.flatnonzero(sample.filled.sum(axis=(0, 1)) > least)
    ]
    return np.median(rows, axis=0) if len(rows) >= _FEWEST_SLICES else None


def _bone_shares(hounsfield: Values, filled: Mask, spacing_mm: tuple[float, float, float]) -> list[float]:
    """(A, P, R, L) of one slice, (i to left, j to posterior)."""
    inside = np.argwhere(filled)
    left, back = ((inside - inside.mean(axis=0)) * spacing_mm[:2]).T
    bone = hounsfield[filled] >= BONE_ABOVE_HU
    shares = []
    for along, across in ((-back, left), (back, left), (-left, back), (left, back)):
        strip = (along > 0) & (np.abs(across) < _HALF_STRIP_MM)
        shares.append(float(bone[strip].mean()) if strip.any() else 0.0)
    return shares


def _deeper(filled: Mask, spacing_mm: tuple[float, float, float]) -> bool:
    """Whether the trunk is deeper than wide, over all slices."""
    i, j, _ = np.nonzero(filled)
    return bool(np.std(j) * spacing_mm[1] > _DEEPER * np.std(i) * spacing_mm[0])


def lungs(sample: Sample) -> Mask:
    """Air in the body; bowel gas too, where it was clipped to the same value."""
    clipped = sample.clipped_at_hu is not None and sample.clipped_at_hu > LUNG_HU[0]
    hounsfield = sample.hounsfield
    airy: Mask = hounsfield < -140 if clipped else (hounsfield > LUNG_HU[0]) & (hounsfield < LUNG_HU[1])
    return airy & sample.filled


def _lungs_below(sample: Sample) -> bool:
    area = sample.filled.sum(axis=(0, 1))
    share = lungs(sample).sum(axis=(0, 1)) / np.maximum(area, 1)
    quarter = max(1, len(share) // 4)
    foot, head = float(share[:quarter].mean()), float(share[-quarter:].mean())
    return foot > _LUNG_SHARE and foot > _LUNGS_TIMES * head
