"""The peer of `pipeline.py`: the preprint's steps as a user would write them, one library call after another."""

from __future__ import annotations

import time
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch

from training.networks import MixedUNet
from training.preprocessing import LesionInput
from training.recipes import default

Float64 = npt.NDArray[np.float64]


def segment(scan: Path) -> dict[str, float]:
    """Seconds per stage for one scan. The weights are random and a fixed ellipsoid stands for the liver's region."""
    torch.set_num_threads(2)
    clock = [time.perf_counter()]
    image = nib.load(scan)
    hounsfield = image.get_fdata()
    clock.append(time.perf_counter())
    liver = _probability(hounsfield, inputs=1)
    clock.append(time.perf_counter())
    # The region a real liver would give: about 60 % of each in-plane axis and all slices.
    rows, columns, _ = hounsfield.shape
    box = (slice(rows // 5, rows * 4 // 5), slice(columns // 5, columns * 4 // 5))
    lesion = _probability(hounsfield[box], inputs=LesionInput.channels)
    clock.append(time.perf_counter())
    refined = _crf(lesion, hounsfield[box])
    clock.append(time.perf_counter())
    labels = (liver > 0.5).astype(np.uint8)
    labels[box] += (refined > 0.5).astype(np.uint8)
    nib.Nifti1Image(labels, image.affine).to_filename(scan.with_name("naive.nii.gz"))
    clock.append(time.perf_counter())
    names = ("read", "liver", "lesion", "crf", "write")
    spent = {name: end - start for name, start, end in zip(names, clock[:-1], clock[1:], strict=True)}
    return spent | {"total": clock[-1] - clock[0]}


def _probability(hounsfield: Float64, inputs: int) -> Float64:
    """Window, equalise, resize, U-Net, sigmoid, resize back: slice by slice in eager PyTorch."""
    recipe = default("liver" if inputs == 1 else "lesion")
    network, size = MixedUNet(inputs, recipe.width).eval(), recipe.size
    probability = np.zeros(hounsfield.shape)
    with torch.inference_mode():
        for k in range(hounsfield.shape[2]):
            grey = torch.from_numpy(_equalised(hounsfield[..., k]))[None, None].float()
            small = torch.nn.functional.interpolate(grey, (size, size), mode="bilinear", antialias=True)
            logit = network(small.repeat(1, inputs, 1, 1) / 127.5 - 1)
            full = torch.nn.functional.interpolate(torch.sigmoid(logit), hounsfield.shape[:2], mode="bilinear")
            probability[..., k] = full[0, 0].numpy()
    return probability


def _equalised(slice_hu: Float64) -> Float64:
    """The preprint's formula with NumPy's histogram."""
    grey = np.round((np.clip(slice_hu, -100, 300) + 100) * 255 / 400).astype(int)
    cdf = np.bincount(grey.ravel(), minlength=256).cumsum()
    lowest = cdf[cdf > 0].min()
    return np.round((cdf - lowest) / max(cdf[-1] - lowest, 1) * 255)[grey]


def _crf(probability: Float64, hounsfield: Float64) -> Float64:
    """pydensecrf in 3-D with one intensity channel and narrow kernels; the input where it is not installed."""
    try:
        import pydensecrf.densecrf as dcrf
    except ImportError:
        print("pydensecrf2 is not installed: the naive pipeline runs without its CRF")
        return probability
    p = np.clip(probability, 1e-5, 1 - 1e-5).ravel()
    crf = dcrf.DenseCRF(p.size, 2)
    crf.setUnaryEnergy(np.ascontiguousarray(-np.log(np.stack([1 - p, p]))).astype(np.float32))
    position = np.indices(probability.shape).reshape(3, -1) / np.array([[5.0], [5.0], [3.0]])
    intensity = hounsfield.ravel()[None] / 20.0
    for features, weight in ((position, 3.0), (np.concatenate([position, intensity]), 4.0)):
        crf.addPairwiseEnergy(np.ascontiguousarray(features, dtype=np.float32), compat=weight)
    return np.asarray(crf.inference(5))[1].reshape(probability.shape).astype(np.float64)
