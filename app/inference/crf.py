"""refine(...): a dense CRF makes a probability follow the grey values, on whichever backend was asked for.

A volume that would take more memory than a ceiling is refined in slabs along k, each with slices on both sides that
are read and not kept. Slabs begin where the graph's blocks begin, so that they see the grid that the whole would have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from app.errors import NotReady
from app.inference.network import CrfParameters, Hounsfield, Network, Probability

SpacingArray = npt.NDArray[np.float32]
#: Probabilities nearer to 0 or 1 than this are taken for this: a network's certainty of 1 is not infinite.
PROBABILITY_FLOOR = 1e-4
#: What one run of the graph may take beside its inputs; a liver of 400x300x200 voxels needs about 1.7e9.
MEMORY_CEILING = 3 * 10**9
#: Measured: bytes of each voxel, of each that is not settled, and of each node of the grids.
BYTES_OF_VOXEL, BYTES_OF_UNSETTLED, BYTES_OF_NODE = 14, 380, 24
#: Along each axis, every how many voxels are looked at to tell how many are not settled.
SAMPLED_KJI = (1, 4, 4)
#: Voxels along an axis of a block of a grid at most; so the graphs are built.
LARGEST_BLOCK = 12
#: How far beyond a slab the graph looks. A voxel moves its neighbours' neighbours, but less each time.
OVERLAP_SIGMAS = 6.0


class _Fineness(BaseModel):
    """Of sigma, the blocks of the grids, and the distance of tones."""

    model_config = ConfigDict(frozen=True)

    block: float = 0.5
    tone: float = 0.5
    smoothness_block: float = 0.5


class _GridParameters(CrfParameters):
    """What the card of our graph says beyond the kernels; for another's graph, a guess on the safe side."""

    hu_range: tuple[float, float] = (-1000.0, 1000.0)
    fineness: _Fineness = _Fineness()
    settled_logit: float = math.inf


@dataclass(frozen=True)
class _Slab:
    """Slices that are read, and those of them that are kept."""

    read: slice
    kept: slice


def refine(
    probability_kji: Probability,
    hounsfield_kji: Hounsfield,
    spacing_mm_kji: Sequence[float],
    network: Network,
    memory_ceiling: float = MEMORY_CEILING,
    on_wait: Callable[[], None] = lambda: None,
) -> Probability:
    """The probability (K, J, I) after mean-field inference in a fully connected CRF over position and HU.

    network: of the task "crf"; its card holds the kernels. What runs them is `network.runtime.crf_backend`:
    "onnx" the graph, "pydensecrf" that package with the same kernels, "none" nothing.
    memory_ceiling: bytes, for the graph; too low a one is passed, with slabs of few slices.
    on_wait: called now and then while the graph runs; what it raises ends the run.
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
    parameters = _GridParameters.model_validate(network.card.parameters)
    backend = network.runtime.crf_backend
    if backend == "none":
        return probability_kji
    if backend == "pydensecrf":
        return _by_pydensecrf(probability_kji, hounsfield_kji, spacing_mm, parameters)
    kept = []
    for slab in _slabs(probability_kji, spacing_mm, parameters, memory_ceiling):
        probability, hounsfield = probability_kji[slab.read], hounsfield_kji[slab.read]
        part = network.infer(on_wait, probability=probability, hounsfield=hounsfield, spacing_mm=spacing_mm)
        kept.append(part[slab.kept.start - slab.read.start :][: slab.kept.stop - slab.kept.start])
    return kept[0] if len(kept) == 1 else np.concatenate(kept)


def _slabs(
    probability_kji: Probability, spacing_mm: SpacingArray, parameters: _GridParameters, memory_ceiling: float
) -> Iterator[_Slab]:
    slices = len(probability_kji)
    of_slice = _bytes_needed(probability_kji, spacing_mm, parameters) / slices
    whole = math.prod(int(size_kji[0]) for size_kji in _blocks(spacing_mm, parameters))
    widest_mm = max(parameters.appearance_mm, parameters.smoothness_mm)
    overlap = math.ceil(OVERLAP_SIGMAS * widest_mm / float(spacing_mm[0]) / whole) * whole
    at_once = memory_ceiling / of_slice
    kept = slices if at_once >= slices else max(1, int(at_once - 2 * overlap) // whole) * whole
    for first in range(0, slices, kept):
        last = min(first + kept, slices)
        yield _Slab(slice(max(0, first - overlap), min(last + overlap, slices)), slice(first, last))


def _blocks(spacing_mm: SpacingArray, parameters: _GridParameters) -> list[npt.NDArray[np.float32]]:
    """Voxels along k, j, i of a block of the appearance grid, and of the smoothness grid: as the graph has them."""
    fineness = parameters.fineness
    widths_mm = (parameters.appearance_mm * fineness.block, parameters.smoothness_mm * fineness.smoothness_block)
    return [np.clip(np.round(np.float32(mm) / spacing_mm), 1, LARGEST_BLOCK) for mm in widths_mm]


def _bytes_needed(probability_kji: Probability, spacing_mm: SpacingArray, parameters: _GridParameters) -> float:
    some = probability_kji[tuple(slice(None, None, step) for step in SAMPLED_KJI)]
    doubt = 1 / (1 + math.exp(parameters.settled_logit))
    unsettled = np.count_nonzero((some > doubt) & (some < 1 - doubt)) / some.size
    low, high = parameters.hu_range
    tones = (high - low) / (parameters.appearance_hu * parameters.fineness.tone) + 2
    nodes = 0.0
    for size_kji, layers in zip(_blocks(spacing_mm, parameters), (tones, 1.0), strict=True):
        nodes += layers * float(np.prod(np.ceil(np.array(probability_kji.shape) / size_kji) + 2))
    return (BYTES_OF_VOXEL + BYTES_OF_UNSETTLED * unsettled) * probability_kji.size + BYTES_OF_NODE * nodes


def _by_pydensecrf(
    probability_kji: Probability,
    hounsfield_kji: Hounsfield,
    spacing_mm: SpacingArray,
    parameters: _GridParameters,
) -> Probability:
    try:
        from pydensecrf import densecrf
    except ImportError as error:
        raise NotReady("crf_backend=pydensecrf needs `pip install hepaseg[pydensecrf]`.") from error
    shape = probability_kji.shape
    clipped = np.clip(probability_kji, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR).ravel()
    position_mm = np.indices(shape, np.float32).reshape(3, -1) * spacing_mm[:, None]
    grey = np.clip(hounsfield_kji.astype(np.float32).reshape(1, -1), *parameters.hu_range) / parameters.appearance_hu
    field = densecrf.DenseCRF(clipped.size, 2)
    field.setUnaryEnergy(-np.log(np.stack([1 - clipped, clipped])))
    both = np.concatenate([position_mm / parameters.appearance_mm, grey])
    field.addPairwiseEnergy(both, compat=parameters.appearance_weight)
    field.addPairwiseEnergy(
        np.ascontiguousarray(position_mm / parameters.smoothness_mm), compat=parameters.smoothness_weight
    )
    refined: Probability = np.asarray(field.inference(parameters.iterations), np.float32)[1].reshape(shape)
    return refined
