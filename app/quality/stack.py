"""Whether slices follow each other as in a body: none blank, none twice, none missing, all in order."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from app.imaging.volume import Volume
from app.quality.findings import Finding, warning
from app.quality.sample import APART_MM, BODY_ABOVE_HU

Float32 = npt.NDArray[np.float32]

#: What is compared is clipped to this: lungs and bone would drown the rest.
_COMPARED_HU = (-160, 240)
#: A step between two slices, over the median of those around it. Whole scans have up to 1.25, 10 mm left out 1.7.
MOST_STEP, _AROUND = 1.6, 4
#: Two slices apart the difference is larger than one apart, by this at least; in a shuffled stack it is the same. Thin
#: slices differ by little but their noise, so that more of them are passed over.
LEAST_GROWTH, _TOO_THICK_MM, _APART_MM = 1.25, 8.0, 2.0
#: Fewer slices show no rule.
_FEWEST = 12


def check_stack(volume: Volume, *, noisy: bool = False) -> Iterator[Finding]:
    """Compare each slice with the next, on a coarse grid; in much noise all of them differ."""
    upright = volume.reoriented("LPS")
    slices = _smoothed(upright)
    flat = np.ptp(slices, axis=(0, 1)) == 0
    blank = np.flatnonzero(flat)
    if 0 < len(blank) < len(flat):
        yield warning("blank_slices", f"{len(blank)} slices show nothing, the first of them number {blank[0]}.")
    slices = slices[:, :, ~flat]
    if slices.shape[2] < _FEWEST:
        return
    body = (slices > BODY_ABOVE_HU).mean(axis=2) > 0.3
    steps = _differences(slices, body, 1)
    twice = np.count_nonzero(steps == 0)
    if twice:
        yield warning("repeated_slices", f"{twice} slices are the same as the one before.")
    if not noisy:
        yield from _order(slices, body, steps[steps > 0], upright.geometry.spacing_mm[2])


def _order(slices: Float32, body: npt.NDArray[np.bool_], steps: Float32, slice_mm: float) -> Iterator[Finding]:
    if len(steps) < _FEWEST:
        return
    apart = {2, min(max(2, math.ceil(_APART_MM / slice_mm)), len(steps) // 2)}
    growth = max(float(np.median(_differences(slices, body, n))) for n in apart) / np.median(steps)
    if growth < LEAST_GROWTH and slice_mm <= _TOO_THICK_MM:
        yield warning("slices_disordered", "Slices differ from the next one as much as from those farther away.")
        return
    jump, at = _largest_jump(steps)
    if jump > MOST_STEP:
        seen = f"Between two slices, about number {at}, the picture changes {jump:.1f} times as much as around them."
        yield warning("slice_gap", f"{seen} Slices may be missing, or the patient breathed.")


def _smoothed(upright: Volume) -> Float32:
    """All slices in LPS order, each pixel of a coarse grid the mean of four: noise alone must not look like a step."""
    i, j = (max(1, round(APART_MM / spacing)) for spacing in upright.geometry.spacing_mm[:2])
    rows, columns = (n // step * step for n, step in zip(upright.geometry.shape[:2], (i, j), strict=True))
    total: Float32 = np.zeros((rows // i, columns // j, upright.geometry.shape[2]), np.float32)
    for a, b in ((0, 0), (i // 2, 0), (0, j // 2), (i // 2, j // 2)):
        total += np.clip(upright.voxels[a:rows:i, b:columns:j], *_COMPARED_HU)
    total /= 4
    return total


def _differences(slices: Float32, body: npt.NDArray[np.bool_], apart: int) -> Float32:
    """Mean absolute difference in the body of slices so many apart, (K - apart,)."""
    if not body.any():
        return np.zeros(slices.shape[2] - apart, np.float32)
    inside = slices[body]
    difference: Float32 = np.abs(inside[:, apart:] - inside[:, :-apart]).mean(axis=0)
    return difference


def _largest_jump(steps: Float32) -> tuple[float, int]:
    """The largest step over the median of those around it, and the number of the slice before it."""
    jumps = []
    for k in range(len(steps)):
        around = np.concatenate([steps[max(0, k - _AROUND) : k], steps[k + 1 : k + 1 + _AROUND]])
        jumps.append(float(steps[k] / np.median(around)))
    return max(jumps), int(np.argmax(jumps))
