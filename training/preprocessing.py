"""Hounsfield units → what a network sees. THE one place: training, evaluation and the exported graphs all call it.

Shapes: B slices, C channels, H rows, W columns; h, w the working size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEVELS = 256
#: Rows that are resized together.
BAND = 24
#: The planes that a lesion network sees, mm above the slice: itself and two neighbours.
PLANES_MM = (0.0, -5.0, 5.0)
#: Standard deviation along the scan of the average that makes a plane: thin, noisy slices come to look like thick ones.
SLAB_MM = 2.0
#: How far from a slice others are looked at.
CONTEXT_MM = 5.0 + 3.0 * SLAB_MM
#: Air and metal shall not smear into the planes beside them.
SLAB_RANGE_HU = (-200.0, 400.0)


def windowed(hounsfield_BHW: Tensor, lower_hu: float, upper_hu: float) -> Tensor:
    """Clip to [lower, upper] HU and scale to 0..255, float32 (B, H, W).

    Multiplied before it is divided: a rounded constant factor moves grey values through ties.
    """
    clipped = hounsfield_BHW.to(torch.float32).clamp(lower_hu, upper_hu)
    return _scaled(clipped, lower_hu, upper_hu)


def _scaled(clipped_BHW: Tensor, lower_hu: float, upper_hu: float) -> Tensor:
    return (clipped_BHW - lower_hu) * (LEVELS - 1.0) / (upper_hu - lower_hu)


def _resized_grey(hounsfield_BCHW: Tensor, window_hu: tuple[float, float], size: int) -> Tensor:
    """Window, then resize, 0..255; scaled last, where there are fewer pixels."""
    clipped = hounsfield_BCHW.to(torch.float32).clamp(*window_hu)
    return _scaled(resized(clipped, (size, size)), *window_hu)


def _mapping(counts_BS: Tensor) -> tuple[Tensor, Tensor]:
    """h of every level from the histogram, 0..255 before rounding, and whether the slice has any contrast (B, 1).

    `h(x) = (cdf(x) - cdf_min) / (LW - cdf_min) * (S - 1)`; `cdf_min` is the count of the lowest level that occurs. That
    level is left out of the sum instead of taken off it: it is the air, and most of the precision would go with it.
    """
    occurs_BS = (counts_BS > 0.0).to(torch.float32)
    lowest_BS = occurs_BS * (torch.cumsum(occurs_BS, dim=1) < 1.5)
    above_BS = torch.cumsum(counts_BS * (1.0 - lowest_BS), dim=1)
    range_B1 = above_BS[:, -1:]
    return above_BS / range_B1.clamp(min=1e-6) * (LEVELS - 1.0), range_B1 > 0.0


def equalised(grey_BHW: Tensor) -> Tensor:
    """Histogram equalisation of each slice by the preprint's formula, 0..255 float32 (B, H, W).

    `h(x) = round((cdf(x) - cdf_min) / (LW - cdf_min) * (S - 1))` with LW the pixels of the slice and S = 256 levels.
    A slice with one grey value becomes zero. Counts are float32: integer scatter was wrong on ONNX Runtime's CUDA
    provider, and float32 counts exactly up to 2^24 pixels.
    """
    level_BN = grey_BHW.round().clamp(0.0, LEVELS - 1.0).to(torch.int64).flatten(1)
    one_BN = torch.ones_like(grey_BHW).flatten(1)
    counts_BS = one_BN.new_zeros((level_BN.shape[0], LEVELS)).scatter_add(1, level_BN, one_BN)
    mapped_BS, has_contrast_B1 = _mapping(counts_BS)
    mapped_BS = torch.where(has_contrast_B1, mapped_BS.round(), torch.zeros_like(mapped_BS))
    return mapped_BS.gather(1, level_BN).reshape(grey_BHW.shape)


def equalised_between_levels(grey_BHW: Tensor, weight_BHW: Tensor) -> Tensor:
    """The same formula for grey values between the 256 levels, as a resize leaves them; 0..255 float32 (B, H, W).

    A pixel counts for the two levels it lies between, by nearness and by its weight (0 to leave it out), and h is
    read between them in the same way. Nothing is rounded: a grey value that two runtimes give 1e-5 apart would
    otherwise fall to different levels and the result would differ visibly. On whole levels with weight 1 it equals
    `equalised` but for the rounding.
    """
    grey_BN = grey_BHW.clamp(0.0, LEVELS - 1.0).flatten(1)
    below_BN = grey_BN.floor().clamp(max=LEVELS - 2.0)
    nearness_BN = grey_BN - below_BN
    at_BN = below_BN.to(torch.int64)
    weight_BN = weight_BHW.flatten(1)
    counts_BS = weight_BN.new_zeros((at_BN.shape[0], LEVELS))
    counts_BS = counts_BS.scatter_add(1, at_BN, weight_BN * (1.0 - nearness_BN))
    counts_BS = counts_BS.scatter_add(1, at_BN + 1, weight_BN * nearness_BN)
    mapped_BS, has_contrast_B1 = _mapping(counts_BS)
    mapped_BS = torch.where(has_contrast_B1, mapped_BS, torch.zeros_like(mapped_BS))
    below, above = mapped_BS.gather(1, at_BN), mapped_BS.gather(1, at_BN + 1)
    return (below + (above - below) * nearness_BN).reshape(grey_BHW.shape)


def shares(inputs: int, outputs: int) -> Tensor:
    """How much each of `inputs` pixels adds to each of `outputs`, (outputs, inputs): a triangle around its centre."""
    into = torch.arange(outputs, dtype=torch.float64)[:, None] + 0.5
    of = torch.arange(inputs, dtype=torch.float64) + 0.5
    step = torch.ones_like(of).sum() / torch.ones_like(into).sum()
    near = (1.0 - (of - into * step).abs() / step.clamp(min=1.0)).clamp(min=0.0)
    return (near / near.sum(dim=1, keepdim=True)).to(torch.float32)


def _bands(inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    """The same for BAND outputs at a time: which pixels they look at, int64 (bands, n), and shares (bands, BAND, n).

    Of 512 pixels a band needs 64; the other shares are zeros, and multiplying them took most of the time of a resize.
    """
    band = torch.arange(-(-outputs // BAND))[:, None]
    reach = inputs // outputs + 2
    looked_at = torch.arange(BAND * inputs // outputs + 2 * reach + 2)
    of_bn = band * BAND * inputs // outputs - reach + looked_at
    step = (band[0, 0] + inputs).to(torch.float64) / outputs
    into_bB = (band * BAND + torch.arange(BAND)).to(torch.float64) + 0.5
    away_bBn = (of_bn[:, None, :] + 0.5 - into_bB[:, :, None] * step).abs()
    inside = ((of_bn >= 0) & (of_bn < inputs)).to(torch.float64)[:, None, :]
    near = (1.0 - away_bBn / step.clamp(min=1.0)).clamp(min=0.0) * inside
    # bands end after the last output: what is beyond has no pixels, and is cut off
    share = near / near.sum(dim=2, keepdim=True).clamp(min=1e-9)
    return of_bn.clamp(0, inputs - 1), share.to(torch.float32)


def _rows_resized(image_BCHW: Tensor, outputs: int) -> Tensor:
    """(B, C, h, W)."""
    looked_at, share = _bands(image_BCHW.shape[2], outputs)
    looked_at, share = looked_at.to(image_BCHW.device), share.to(image_BCHW.device)
    batch, channels, _, columns = image_BCHW.shape
    bands = image_BCHW.index_select(2, looked_at.flatten())
    small: Tensor = share @ bands.reshape(batch, channels, *looked_at.shape, columns)
    return small.flatten(2, 3)[:, :, :outputs]


def resized(image_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with antialiasing, float32 (B, C, h, w): right for shrinking as well as for growing.

    Matrix products with weights made in double precision. The resize operators of PyTorch and of ONNX Runtime place
    their samples in single precision: up to 0.003 grey levels off, and not in the same direction.
    """
    rows = _rows_resized(image_BCHW, size[0])
    return _rows_resized(rows.transpose(2, 3), size[1]).transpose(2, 3)


class LiverInput(nn.Module):
    """int16 HU (B, H, W) → float32 (B, 1, h, w) in -1..1: window → equalise → resize, or equalise last.

    `equalise_first=True` is the order of the paper recipe. Equalising after the resize makes the histogram that of the
    working grid, so that pixel size and noise of the scan matter less.
    """

    channels = 1

    def __init__(self, window_hu: tuple[float, float], size: int, *, equalise_first: bool) -> None:
        super().__init__()
        self.window_hu, self.size, self.equalise_first = window_hu, size, equalise_first

    def forward(self, hounsfield_BHW: Tensor) -> Tensor:
        """(B, H, W) HU → (B, 1, h, w)."""
        if self.equalise_first:
            grey_BHW = equalised(windowed(hounsfield_BHW, *self.window_hu))
            grey_BChw = resized(grey_BHW[:, None], (self.size, self.size))
        else:
            grey_Bhw = _resized_grey(hounsfield_BHW[:, None], self.window_hu, self.size)[:, 0]
            grey_BChw = equalised_between_levels(grey_Bhw, torch.ones_like(grey_Bhw))[:, None]
        return grey_BChw / 127.5 - 1.0


def slab_shares(wanted_N: Tensor, slices: Tensor, slice_mm: Tensor) -> Tensor:
    """How much each slice adds to each plane of the wanted ones, float32 (P, N, S), rows summing to 1.

    wanted_N: indices of slices; slices: 0..S-1 (float32); slice_mm: their distance. A Gaussian, cut off at 3 SLAB_MM;
    where a scan ends, the slices that there are.
    """
    away_NS = (slices[None, :] - wanted_N.to(torch.float32)[:, None]) * slice_mm
    planes = []
    for plane_mm in PLANES_MM:
        sigmas = (away_NS - plane_mm) / SLAB_MM
        near_NS = torch.exp(-0.5 * sigmas**2) * (sigmas.abs() <= 3.0).to(torch.float32)
        # beyond the end of thick slices nothing may be near: then the slice itself
        itself_NS = (away_NS.abs() < 0.5 * slice_mm).to(torch.float32) * 1e-6
        planes.append((near_NS + itself_NS) / (near_NS + itself_NS).sum(dim=1, keepdim=True))
    return torch.stack(planes)


def slabs(hounsfield_SHW: Tensor, wanted_N: Tensor, slice_mm: Tensor) -> Tensor:
    """The planes of the wanted slices, float32 HU (N, P, H, W); `slab_shares` says from which slices."""
    clipped = hounsfield_SHW.to(torch.float32).clamp(*SLAB_RANGE_HU)
    slices = torch.arange(hounsfield_SHW.shape[0], dtype=torch.float32)
    shares_PNS = slab_shares(wanted_N, slices, slice_mm)
    rows, columns = hounsfield_SHW.shape[1], hounsfield_SHW.shape[2]
    planes_PNX = shares_PNS @ clipped.reshape(-1, rows * columns)
    return planes_PNX.reshape(len(PLANES_MM), -1, rows, columns).transpose(0, 1)


class LesionInput(nn.Module):
    """HU of a slice's planes and its liver (bool) → float32 (B, 5, h, w).

    Channels: the slice's grey values equalised over the liver's own pixels (the preprint's step, where it matters),
    Hounsfield units of slice and neighbours relative to the mean of the slice's liver in steps of 50 HU (equalisation
    alone turns the noise of a healthy liver into full contrast), and the liver mask. Outside the liver all are zero.
    """

    channels = len(PLANES_MM) + 2

    def __init__(self, window_hu: tuple[float, float], size: int) -> None:
        super().__init__()
        self.window_hu, self.size = window_hu, size

    def forward(self, planes_BPHW: Tensor, liver_BHW: Tensor) -> Tensor:
        """(B, P, H, W) HU and (B, H, W) liver → (B, 5, h, w)."""
        lower_hu, upper_hu = self.window_hu
        size = (self.size, self.size)
        grey_BPhw = _resized_grey(planes_BPHW, self.window_hu, self.size)
        liver_B1hw = resized(liver_BHW.to(torch.float32)[:, None], size)
        contrast_Bhw = equalised_between_levels(grey_BPhw[:, 0], liver_B1hw[:, 0]) / 127.5 - 1.0
        area_B111 = liver_B1hw.sum(dim=(2, 3), keepdim=True).clamp(min=1.0)
        mean_B111 = (grey_BPhw[:, :1] * liver_B1hw).sum(dim=(2, 3), keepdim=True) / area_B111
        step = 50.0 * (LEVELS - 1.0) / (upper_hu - lower_hu)
        relative_BPhw = ((grey_BPhw - mean_B111) / step).clamp(-3.0, 3.0)
        return torch.cat((contrast_Bhw[:, None] * liver_B1hw, relative_BPhw * liver_B1hw, liver_B1hw), dim=1)


class PaperLesionInput(nn.Module):
    """HU of a slice's planes and its liver (bool) → float32 (B, 1, h, w) in -1..1.

    The preprint's second stage: the steps of the first on the slice alone, and all but the liver black.
    """

    channels = 1

    def __init__(self, window_hu: tuple[float, float], size: int) -> None:
        super().__init__()
        self.window_hu, self.size = window_hu, size

    def forward(self, planes_BPHW: Tensor, liver_BHW: Tensor) -> Tensor:
        """(B, P, H, W) HU and (B, H, W) liver → (B, 1, h, w)."""
        grey_BHW = equalised(windowed(planes_BPHW[:, 0], *self.window_hu)) * liver_BHW
        return resized(grey_BHW[:, None], (self.size, self.size)) / 127.5 - 1.0
