"""Whether grey values are Hounsfield units: air, fat and soft tissue have theirs by definition."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy import ndimage, signal

from app.imaging.volume import Volume
from app.quality.findings import Finding, refusal, warning
from app.quality.sample import Sample, Values

#: Fat and air around and in every body lie below this; MR, photographs and unscaled CT have next to nothing there.
FAT_BELOW_HU, LEAST_FAT_FRACTION = -20, 0.01
#: Blood, muscle and organs lie here, whatever the contrast.
SOFT_TISSUE_HU, LEAST_SOFT_FRACTION = (0, 200), 0.02
#: Only bone and metal are brighter; where much is, 1024 was not subtracted.
BONE_ABOVE_HU, MOST_BONE_FRACTION = 700, 0.2

#: Where the peak of the air around the patient may lie: -1000 by definition, -1024 where scanners cut off.
AIR_HU = (-1080, -900)
#: Where the peak of fat may lie: in 65 patients it lay between -128 and -72.
FAT_HU = (-140, -62)
#: All that is certainly air, if values were not clipped; and the share of voxels without which nothing is said.
_AIR_BELOW_HU, _LEAST_AIR = -300, 0.005
#: What fat could be taken for if it were scaled wrongly; and how far a peak must stand out to be one.
_HIGHEST_FAT_HU, _TISSUE_HU, _BIN_HU, _PROMINENCE = 10, (-260, 604), 8, 0.1
_SMEARED_HU = 24

#: How much brighter than its inside the rim of a body may be.
MOST_BRIGHT_RIM_HU, _RIM_MM = 60.0, (4.0, 12.0)
#: The surroundings are inverted if they are brighter than so much of all.
_BRIGHT_PERCENT = 90

#: More noise than this hides the liver's edge; scans of abdomens have 9 to 27, chests with a sharp kernel 30.
MOST_NOISE_HU = 40.0
_NOISE_SLICES, _NOISE_PIXELS, _MOST_EVEN_PERCENT, _FEWEST_SOFT = 8, 5, 10, 500


def check_lowest(lowest_hu: float) -> Iterator[Finding]:
    """By the lowest value that the type of the stored voxels can mean: what a header alone tells."""
    if lowest_hu >= FAT_BELOW_HU:
        yield refusal("not_ct", f"The file cannot hold values below {lowest_hu:g}, where the fat and air of a CT lie.")


def check_grey_values(volume: Volume, sample: Sample) -> Iterator[Finding]:
    """What is no CT is refused; a CT whose air or fat lies elsewhere than air or fat does is remarked on."""
    refused = _refused(volume, sample.hounsfield)
    if refused is not None:
        yield refused
        return
    yield from _landmarks(sample)
    brighter_hu = rim(sample)
    if brighter_hu is not None and brighter_hu > MOST_BRIGHT_RIM_HU:
        yield warning("bright_rim", f"Under the skin it is {brighter_hu:.0f} HU brighter than inside, as in an MR.")
    noise_hu = noise(volume)
    if noise_hu > MOST_NOISE_HU:
        yield warning("noisy", f"The noise is about {noise_hu:.0f} HU; {MOST_NOISE_HU:.0f} hide the liver's edge.")


def _refused(volume: Volume, hounsfield: Values) -> Finding | None:
    if volume.voxels.min() == volume.voxels.max():
        return refusal("constant_image", f"Every voxel is {hounsfield.flat[0]}: there is no picture.")
    if np.mean(hounsfield < FAT_BELOW_HU) < LEAST_FAT_FRACTION:
        return refusal("not_ct", f"Hardly any voxel is below {FAT_BELOW_HU} HU, where the fat and air of a CT lie.")
    if np.mean(hounsfield > BONE_ABOVE_HU) > MOST_BONE_FRACTION:
        return refusal("not_ct", f"Much of the image is above {BONE_ABOVE_HU} HU, brighter than soft tissue can be.")
    if np.median(_corners(hounsfield)) >= np.percentile(hounsfield, _BRIGHT_PERCENT):
        return refusal("not_ct", "Around the body it is bright, where the air of a CT is dark.")
    low, high = SOFT_TISSUE_HU
    if np.mean((hounsfield >= low) & (hounsfield <= high)) < LEAST_SOFT_FRACTION:
        return refusal("not_ct", f"Hardly any voxel is between {low} and {high} HU, where the organs of a CT lie.")
    return None


def _corners(hounsfield: Values) -> Values:
    """The four corners of all slices."""
    i, j = (max(1, n // 16) for n in hounsfield.shape[:2])
    return np.stack([hounsfield[a : a + i or None, b : b + j or None] for a in (0, -i) for b in (0, -j)])


def _landmarks(sample: Sample) -> Iterator[Finding]:
    """Air and fat. Both in the wrong place: these are no Hounsfield units. One: it may be an odd patient."""
    floor = sample.clipped_at_hu
    if floor is not None and FAT_HU[0] < floor:
        yield warning("fat_clipped", f"Values below {floor} HU were cut off, and with them the fat around the organs.")
        return
    air, fat = air_peak(sample), fat_peak(sample)
    wrong_air = air is not None and not AIR_HU[0] <= air <= AIR_HU[1]
    wrong_fat = fat is not None and not FAT_HU[0] <= fat <= FAT_HU[1]
    if wrong_air and wrong_fat:
        yield refusal("not_hounsfield", f"Air has {air} and fat {fat}, where -1000 and -100 HU are theirs.")
    elif wrong_air:
        yield warning("air_hu", f"The air around the patient has {air} HU, where -1000 is air's.")
    elif wrong_fat:
        yield warning("fat_hu", f"Fat seems to have {fat} HU, where -100 is fat's.")


def air_peak(sample: Sample) -> int | None:
    """The commonest value outside the body, or None if too little air is there or it was clipped."""
    outside = sample.hounsfield[~sample.filled]
    least = _LEAST_AIR * sample.hounsfield.size
    right = outside[(outside >= AIR_HU[0]) & (outside <= AIR_HU[1])]
    # Programs fill in other values where nothing was measured: if there is air beside them, they mean nothing.
    air = right if len(right) >= least else outside[outside < _AIR_BELOW_HU]
    if len(air) < least or sample.hounsfield.min() > _AIR_BELOW_HU:
        return None
    return int(np.bincount((air.astype(np.int32) + 32768) // _BIN_HU).argmax()) * _BIN_HU - 32768 + _BIN_HU // 2


def fat_peak(sample: Sample) -> int | None:
    """The lower one of the peaks of body tissue, or None if there is but one: lean patients show no fat."""
    peaks = _peaks(sample.hounsfield, sample.clipped_at_hu)
    return peaks[0] if len(peaks) > 1 and peaks[0] <= _HIGHEST_FAT_HU else None


def rim(sample: Sample) -> float | None:
    """How much brighter it is 4 to 12 mm under the skin than deeper, air left out, HU; None if there is no body.

    There lies fat: darker than what is deeper in CT, brighter in most MR.
    """
    skin, depth = (max(1, round(mm / min(sample.spacing_mm[:2]))) for mm in _RIM_MM)
    cross = ndimage.generate_binary_structure(2, 1)[:, :, None]
    under = ndimage.binary_erosion(sample.filled, cross, iterations=skin)
    deeper = ndimage.binary_erosion(under, cross, iterations=max(1, depth - skin)) & sample.body
    shallow = under & ~deeper & sample.body
    if not (deeper.any() and shallow.any()):
        return None
    return float(np.median(sample.hounsfield[shallow]) - np.median(sample.hounsfield[deeper]))


def _peaks(hounsfield: Values, clipped_at: int | None) -> list[int]:
    low, high = _TISSUE_HU
    inside = hounsfield[(hounsfield >= low) & (hounsfield <= high)]
    if clipped_at is not None:
        # What resampling or noise made of the air beside it is no tissue.
        inside = inside[inside > clipped_at + _SMEARED_HU]
    counts, edges = np.histogram(inside, bins=np.arange(low, high + 1, _BIN_HU))
    smooth: npt.NDArray[np.float64] = ndimage.gaussian_filter1d(counts.astype(np.float64), 1.5)
    found, _ = signal.find_peaks(smooth, prominence=_PROMINENCE * max(smooth.max(), 1.0))
    return [int(edges[at]) + _BIN_HU // 2 for at in found]


def noise(volume: Volume) -> float:
    """Standard deviation over 5 x 5 pixels in the most even tenth of the soft tissue, HU; 0 without soft tissue."""
    upright = volume.reoriented("LPS").voxels
    found = []
    for k in np.unique(np.linspace(0, upright.shape[2] - 1, _NOISE_SLICES).astype(int)):
        values = upright[:, :, k].astype(np.float32)
        mean = ndimage.uniform_filter(values, _NOISE_PIXELS)
        variance = ndimage.uniform_filter(values**2, _NOISE_PIXELS) - mean**2
        soft = variance[(mean > SOFT_TISSUE_HU[0]) & (mean < SOFT_TISSUE_HU[1])]
        if len(soft) > _FEWEST_SOFT:
            found.append(float(np.sqrt(max(0.0, np.percentile(soft, _MOST_EVEN_PERCENT)))))
    return float(np.median(found)) if found else 0.0
