"""Faults that are put into good scans, each with the codes of which one must be named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from app.imaging.volume import Geometry, Segmentation, Volume

Values = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Scan:
    """A CT in LPS order with its liver.

    patient: whose it is. synthetic: whether it is a phantom. whole: whether body is there above and below the liver.
    clipped: whether values beyond soft tissue and fat are lost. truly: codes that are true of the scan as it is.
    """

    name: str
    patient: str
    volume: Volume
    liver: Segmentation
    synthetic: bool = False
    whole: bool = False
    clipped: bool = False
    truly: frozenset[str] = frozenset()

    def of(self, hounsfield: npt.NDArray[np.generic], affine: npt.NDArray[np.float64] | None = None) -> Volume:
        """Other values, on the same grid or on one with another affine."""
        rounded = np.clip(np.rint(hounsfield.astype(np.float32)), -32768, 32767)
        voxels = np.asfortranarray(rounded.astype(np.int16))
        return Volume(voxels, Geometry(voxels.shape, self.volume.geometry.affine if affine is None else affine))

    @property
    def hounsfield(self) -> Values:
        """(i to left, j to posterior, k to superior)."""
        return self.volume.voxels.astype(np.float32)

    @property
    def level(self) -> tuple[int, int]:
        """The first slice that holds liver, and the one after the last."""
        shows = np.flatnonzero(self.liver.liver.any(axis=(0, 1)))
        return int(shows[0]), int(shows[-1]) + 1


@dataclass(frozen=True)
class Fault:
    """make: gives the scan with the fault, or None where it cannot have it. codes: one of them must be named.

    needs_networks: whether it shows in the answer alone.
    """

    name: str
    make: Callable[[Scan], Volume | None]
    codes: frozenset[str]
    needs_networks: bool = False


def _flipped(*axes: int) -> Callable[[Scan], Volume]:
    return lambda scan: scan.of(np.flip(scan.volume.voxels, axes))


def _permuted(*order: int) -> Callable[[Scan], Volume]:
    """The axes in another order, sizes of voxels with them: the header calls them by wrong names."""

    def make(scan: Scan) -> Volume:
        x, y, z = (scan.volume.geometry.spacing_mm[axis] for axis in order)
        return scan.of(scan.volume.voxels.transpose(order), np.diag([-x, -y, z, 1.0]))

    return make


def _scaled(slope: float, offset: float) -> Callable[[Scan], Volume]:
    return lambda scan: scan.of(slope * scan.hounsfield + offset)


def _screenshot(scan: Scan) -> Volume:
    """As a screenshot stores it: 8 bits, window 40 ± 200."""
    return scan.of(np.clip((scan.hounsfield + 160) / 400, 0, 1) * 255)


def _mr(scan: Scan) -> Volume:
    """T1-like: fat bright, muscle and liver grey, bone and air dark."""
    return scan.of(
        np.interp(scan.hounsfield, [-1000, -300, -100, 0, 60, 150, 250, 1000], [0, 15, 700, 220, 280, 420, 60, 0])
    )


def _normalised_mr(scan: Scan) -> Volume:
    values = _mr(scan).voxels.astype(np.float32)
    return scan.of(100 * (values - values.mean()) / values.std())


def _inverted(scan: Scan) -> Volume:
    return scan.of(-scan.hounsfield)


def _voxels_times(factor: float) -> Callable[[Scan], Volume]:
    return lambda scan: scan.of(
        scan.volume.voxels, scan.volume.geometry.affine @ np.diag([factor, factor, factor, 1.0])
    )


def _cut(first: float, last: float) -> Callable[[Scan], Volume]:
    """Only the slices between two levels; 0 is the liver's foot, 1 its head."""

    def make(scan: Scan) -> Volume:
        low, high = scan.level
        start, stop = (round(low + share * (high - low)) for share in (first, last))
        return scan.of(scan.volume.voxels[:, :, max(0, start) : stop])

    return make


def _beyond(above: bool) -> Callable[[Scan], Volume | None]:
    """Only what lies above the liver, or only what lies below it, a centimetre away."""

    def make(scan: Scan) -> Volume | None:
        low, high = scan.level
        away = round(10 / scan.volume.geometry.spacing_mm[2])
        part = scan.volume.voxels[:, :, high + away :] if above else scan.volume.voxels[:, :, : max(0, low - away)]
        return scan.of(part) if scan.whole and part.shape[2] >= 6 else None

    return make


def _few(scan: Scan) -> Volume:
    middle = sum(scan.level) // 2
    return scan.of(scan.volume.voxels[:, :, middle - 1 : middle + 2])


def _gap(mm: float) -> Callable[[Scan], Volume | None]:
    """Slices left out in the middle of the liver."""

    def make(scan: Scan) -> Volume | None:
        left_out = round(mm / scan.volume.geometry.spacing_mm[2])
        start = sum(scan.level) // 2 - left_out // 2
        rest = np.delete(scan.volume.voxels, np.s_[start : start + left_out], axis=2)
        return scan.of(rest) if rest.shape[2] >= 15 and left_out > 1 else None

    return make


def _repeated(scan: Scan) -> Volume:
    middle = sum(scan.level) // 2
    return scan.of(np.insert(scan.volume.voxels, [middle] * 3, scan.volume.voxels[:, :, [middle]], axis=2))


def _blank(scan: Scan) -> Volume:
    voxels, middle = scan.volume.voxels.copy(), sum(scan.level) // 2
    voxels[:, :, middle : middle + 3] = voxels.min()
    return scan.of(voxels)


def _shuffled(scan: Scan) -> Volume:
    order = np.random.default_rng(0).permutation(scan.volume.geometry.shape[2])
    return scan.of(scan.volume.voxels[:, :, order])


def noisy(sd_hu: float, grain: float = 0.0) -> Callable[[Scan], Volume]:
    """Gaussian noise, white or with grains of so many pixels; what was cut off or filled in stays as it was."""

    def make(scan: Scan) -> Volume:
        noise = np.random.default_rng(1).standard_normal(scan.volume.geometry.shape, dtype=np.float32)
        if grain:
            noise = ndimage.gaussian_filter(noise, (grain, grain, 0))
        noise[scan.volume.voxels == scan.volume.voxels.min()] = 0
        values = scan.hounsfield + sd_hu / noise.std() * noise
        return scan.of(np.clip(values, scan.volume.voxels.min(), scan.volume.voxels.max()))

    return make


def _metal(scan: Scan) -> Volume:
    """Two rods of 12 mm at the level of the liver, and dark and bright streaks from them."""
    values = scan.hounsfield
    low, high = scan.level
    spacing = scan.volume.geometry.spacing_mm
    body = np.argwhere(values[:, :, (low + high) // 2] > -140).mean(axis=0)
    i, j = np.indices(values.shape[:2])
    for side in (-1, 1):
        x, y = (i - body[0]) * spacing[0] - side * 25, (j - body[1]) * spacing[1] - 50
        streak = 250 * np.cos(9 * np.arctan2(y, x)) * np.exp(-np.hypot(x, y) / 60)
        values[:, :, low:high] += streak[:, :, None] * (values[:, :, low:high] > -500)
        values[np.hypot(x, y) < 6, low:high] = 3000
    return scan.of(values)


def _in_phase(liver_hu: float, blood_hu: float) -> Callable[[Scan], Volume | None]:
    """Another contrast phase of a phantom: its liver, and all other soft tissue that took up contrast."""

    def make(scan: Scan) -> Volume | None:
        if not scan.synthetic:
            return None
        values, organ = scan.hounsfield, scan.liver.liver
        enhanced = (values > 115) & (values < 200) & ~organ
        liver = values - values[organ].mean() + liver_hu
        return scan.of(np.where(organ, liver, np.where(enhanced, blood_hu + 0.2 * (values - 150), values)))

    return make


_WRONG_SIDE = frozenset({"liver_on_left", "no_liver"})
_TURNED = frozenset({"axes_swapped", "quarter_turn", "front_back_swapped", "no_liver"})
_NOT_HU = frozenset({"not_ct", "not_hounsfield", "air_hu", "fat_hu", "fat_clipped"})
_CUT = frozenset({"liver_cut_off", "no_liver"})
_NO_LIVER = frozenset({"no_liver", "liver_small", "liver_cut_off", "liver_ragged", "liver_in_pieces"})

FAULTS = (
    Fault("left and right swapped", _flipped(0), _WRONG_SIDE, needs_networks=True),
    Fault("head and foot swapped", _flipped(2), frozenset({"upside_down"})),
    Fault("front and back swapped", _flipped(1), frozenset({"front_back_swapped"})),
    Fault("turned by 180 degrees in the slice", _flipped(0, 1), frozenset({"front_back_swapped", "liver_on_left"})),
    Fault("rows and columns swapped", _permuted(1, 0, 2), _TURNED),
    Fault("coronal slices called axial", _permuted(0, 2, 1), _TURNED),
    Fault("sagittal slices called axial", _permuted(2, 1, 0), _TURNED),
    Fault("all three axes renamed", _permuted(1, 2, 0), _TURNED),
    Fault("voxel sizes twice too large", _voxels_times(2.0), frozenset({"field_of_view", "liver_large"})),
    Fault("voxel sizes in centimetres", _voxels_times(0.1), frozenset({"field_of_view", "liver_small"})),
    Fault("intercept not applied (+1024)", _scaled(1, 1024), _NOT_HU),
    Fault("intercept applied twice (-1024)", _scaled(1, -1024), _NOT_HU),
    Fault("slope halved", _scaled(0.5, 0), _NOT_HU),
    Fault("slope doubled", _scaled(2, 0), _NOT_HU),
    Fault("offset +100", _scaled(1, 100), _NOT_HU),
    Fault("offset -100", _scaled(1, -100), _NOT_HU),
    Fault("8-bit screenshot values", _screenshot, _NOT_HU),
    Fault("MR-like contrast", _mr, _NOT_HU),
    Fault("MR-like, normalised", _normalised_mr, _NOT_HU | {"no_liver"}),
    Fault("inverted", _inverted, _NOT_HU),
    Fault("upper half of the liver missing", _cut(-9.0, 0.5), _CUT, needs_networks=True),
    Fault("lower half of the liver missing", _cut(0.5, 9.0), _CUT, needs_networks=True),
    Fault("only a slab of the liver", _cut(0.35, 0.65), _CUT | {"little_coverage", "few_slices"}),
    Fault("only the chest", _beyond(above=True), _NO_LIVER, needs_networks=True),
    Fault("only the pelvis and what is below the liver", _beyond(above=False), _NO_LIVER, needs_networks=True),
    Fault("three slices", _few, frozenset({"few_slices"})),
    Fault("30 mm of slices missing", _gap(30), frozenset({"slice_gap"})),
    Fault("10 mm of slices missing", _gap(10), frozenset({"slice_gap"})),
    Fault("a slice four times", _repeated, frozenset({"repeated_slices"})),
    Fault("three slices blank", _blank, frozenset({"blank_slices"})),
    Fault("slices shuffled", _shuffled, frozenset({"slices_disordered"})),
    Fault("white noise of 80 HU", noisy(80), frozenset({"noisy"})),
    Fault("grainy noise of 80 HU", noisy(80, 1.0), frozenset({"noisy"})),
    Fault("metal and streaks", _metal, frozenset({"metal"}), needs_networks=True),
    Fault("without contrast (phantoms)", _in_phase(55, 42), frozenset({"phase_native"}), needs_networks=True),
    Fault("arterial phase (phantoms)", _in_phase(68, 300), frozenset({"phase_arterial"}), needs_networks=True),
)
