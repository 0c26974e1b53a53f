"""refine(...): a dense CRF makes a probability follow the grey values, on whichever backend was asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.errors import NotReady
from app.inference.network import CrfParameters, Hounsfield, Network, Probability

#: Probabilities nearer to 0 or 1 than this are taken for this: a network's certainty of 1 is not infinite.
PROBABILITY_FLOOR = 1e-4


def refine(
    probability_kji: Probability,
    hounsfield_kji: Hounsfield,
    spacing_mm_kji: Sequence[float],
    network: Network,
) -> Probability:
    """The probability (K, J, I) after mean-field inference in a fully connected CRF over position and HU.

    network: of the task "crf"; its card holds the kernels. What runs them is `network.runtime.crf_backend`:
    "onnx" the graph, "pydensecrf" that package with the same kernels, "none" nothing.
    Raises ValueError for arrays that do not fit together, or values that are no probabilities (NaN is none).
    """
    if probability_kji.shape != hounsfield_kji.shape or probability_kji.ndim != 3:
        raise ValueError(f"not one grid: probability {probability_kji.shape}, HU {hounsfield_kji.shape}")
    spacing_mm = np.asarray(spacing_mm_kji, np.float32)
    if spacing_mm.shape != (3,) or not (np.isfinite(spacing_mm).all() and (spacing_mm > 0).all()):
        raise ValueError(f"expected three spacings in mm, got {spacing_mm_kji}")
    if not probability_kji.size:
        return probability_kji
    if not (probability_kji.min() >= 0 and probability_kji.max() <= 1):
        raise ValueError("expected probabilities from 0 to 1")
    backend = network.runtime.crf_backend
    if backend == "none":
        return probability_kji
    if backend == "pydensecrf":
        parameters = CrfParameters.model_validate(network.card.parameters)
        return _by_pydensecrf(probability_kji, hounsfield_kji, spacing_mm, parameters)
    return network.infer(probability=probability_kji, hounsfield=hounsfield_kji, spacing_mm=spacing_mm)


def _by_pydensecrf(
    probability_kji: Probability,
    hounsfield_kji: Hounsfield,
    spacing_mm: np.ndarray[tuple[int], np.dtype[np.float32]],
    parameters: CrfParameters,
) -> Probability:
    try:
        from pydensecrf import densecrf
    except ImportError as error:
        raise NotReady("crf_backend=pydensecrf needs `pip install hepaseg[pydensecrf]`.") from error
    shape = probability_kji.shape
    clipped = np.clip(probability_kji, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR).ravel()
    position_mm = np.indices(shape, np.float32).reshape(3, -1) * spacing_mm[:, None]
    grey = hounsfield_kji.reshape(1, -1).astype(np.float32) / parameters.appearance_hu
    field = densecrf.DenseCRF(clipped.size, 2)
    field.setUnaryEnergy(-np.log(np.stack([1 - clipped, clipped])))
    both = np.concatenate([position_mm / parameters.appearance_mm, grey])
    field.addPairwiseEnergy(both, compat=parameters.appearance_weight)
    field.addPairwiseEnergy(
        np.ascontiguousarray(position_mm / parameters.smoothness_mm), compat=parameters.smoothness_weight
    )
    refined: Probability = np.asarray(field.inference(parameters.iterations), np.float32)[1].reshape(shape)
    return refined
