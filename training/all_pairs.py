"""The dense CRF by its definition: one row of a matrix for each voxel. For small volumes, to measure others against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from app.inference.crf import PROBABILITY_FLOOR
from training.crf import Parameters

Floats = npt.NDArray[np.float64]


def refine(
    probability: npt.NDArray[np.float32],
    hounsfield: npt.NDArray[np.int16],
    spacing_mm: Sequence[float],
    parameters: Parameters,
) -> Floats:
    """Refined probability. probability: (K, J, I), or (labels - 1, K, J, I); hounsfield (K, J, I), below 10⁴ voxels."""
    given = probability.astype(np.float64).reshape(-1, hounsfield.size)
    every = np.concatenate([1 - given.sum(0, keepdims=True), given])
    logs = np.log(np.clip(every, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR))
    kernels = _kernels(hounsfield, spacing_mm, parameters)
    belief = _softmax(logs)
    for _ in range(parameters.iterations):
        belief = _softmax(logs + belief @ kernels)
    return belief[1:].reshape(probability.shape)


def _kernels(hounsfield: npt.NDArray[np.int16], spacing_mm: Sequence[float], parameters: Parameters) -> Floats:
    position_mm = np.indices(hounsfield.shape).reshape(3, -1) * np.array(spacing_mm, np.float64)[:, None]
    hu = np.clip(hounsfield.astype(np.float64).ravel(), *parameters.hu_range)
    squared_mm = np.zeros((hu.size, hu.size))
    for axis_mm in position_mm:
        squared_mm += np.square(axis_mm[:, None] - axis_mm[None])
    near = _normalised(np.exp(-squared_mm / (2 * parameters.smoothness_mm**2)))
    squared_hu = np.square(hu[:, None] - hu[None]) / (2 * parameters.appearance_hu**2)
    similar = _normalised(np.exp(-squared_mm / (2 * parameters.appearance_mm**2) - squared_hu))
    return parameters.smoothness_weight * near + parameters.appearance_weight * similar


def _normalised(kernel: Floats) -> Floats:
    root = np.sqrt(kernel.sum(1))
    result: Floats = kernel / root[:, None] / root[None]
    return result


def _softmax(logits: Floats) -> Floats:
    power = np.exp(logits)
    result: Floats = power / power.sum(0)
    return result
