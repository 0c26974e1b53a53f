"""A guess at the contrast phase: by the liver, and by the blood in the great vessels beside the spine."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from app.imaging.region import Mask
from app.quality.findings import Finding, warning
from app.quality.sample import Sample

#: Without contrast blood has 30 to 60 HU and a liver up to 70; a fatty one has that with contrast, too.
NATIVE_BLOOD_HU, NATIVE_LIVER_HU = 75.0, 68.0
#: In the arterial phase blood is brighter than the liver by more than it is when both have got the contrast.
ARTERIAL_OVER_LIVER_HU = 110.0
#: Blood has at least this, and an artery full of contrast up to that.
LEAST_BLOOD_HU, MOST_BLOOD_HU = 20, 600
#: Where the great vessels are sought: so far from the middle of the body. How long, and how even, they must be.
_ASIDE_MM, _ALONG_MM, _EVEN_HU = 45.0, 32.0, 11.0
#: How much of them must be as bright as is said: the middle of a vertebra may be even as well.
_LEAST_BLOOD_ML = 2.0


def check_phase(sample: Sample, liver: Mask) -> Iterator[Finding]:
    """Say it only if it is not the phase that the networks learnt from, and clear."""
    blood_hu = blood(sample, liver)
    if blood_hu is None:
        return
    liver_hu = float(np.median(sample.hounsfield[liver]))
    said = f"The great vessels have about {blood_hu:.0f} HU and the liver {liver_hu:.0f}"
    if blood_hu < NATIVE_BLOOD_HU and liver_hu < NATIVE_LIVER_HU:
        yield warning("phase_native", f"{said}, as without contrast.")
    elif blood_hu > liver_hu + ARTERIAL_OVER_LIVER_HU:
        yield warning("phase_arterial", f"{said}, as in the arterial phase.")


def blood(sample: Sample, liver: Mask) -> float | None:
    """HU of the brightest even columns along the body near its middle, at the liver's level; None if there are none.

    Aorta and caval vein are even over centimetres; vertebrae are not, and kidneys lie aside.
    """
    level = np.flatnonzero(liver.any(axis=(0, 1)))
    long = max(3, round(_ALONG_MM / sample.spacing_mm[2]))
    middle = np.nonzero(sample.filled.any(axis=2))[0]
    if len(level) < long or not len(middle):
        return None
    aside = round(_ASIDE_MM / sample.spacing_mm[0])
    start = max(0, int(middle.mean()) - aside)
    part = np.s_[start : int(middle.mean()) + aside + 1, :, level[0] : level[-1] + 1]
    values = sample.hounsfield[part].astype(np.float32)
    mean = ndimage.uniform_filter1d(values, long, axis=2)
    across = ndimage.uniform_filter(mean**2, (3, 3, 1)) - ndimage.uniform_filter(mean, (3, 3, 1)) ** 2
    smooth = ndimage.uniform_filter(values, (3, 3, 1))
    along = ndimage.uniform_filter1d(smooth**2, long, axis=2) - ndimage.uniform_filter1d(smooth, long, axis=2) ** 2
    # Where values were clipped, all bone is as even as blood.
    below_bone = mean < min(int(sample.hounsfield.max()), MOST_BLOOD_HU) - 2 * _EVEN_HU
    even = (np.maximum(along, across) < _EVEN_HU**2) & (mean > LEAST_BLOOD_HU) & below_bone
    even &= ~liver[part] & sample.filled[part]
    brightest = np.sort(mean[even])[::-1]
    enough = round(_LEAST_BLOOD_ML * 1000 / float(np.prod(sample.spacing_mm)))
    return float(brightest[enough]) if len(brightest) > max(enough, long) else None
