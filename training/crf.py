"""A dense 3-D CRF as an ONNX graph: mean-field inference over position and Hounsfield units.

    python -m training.crf MODELS_DIR        writes crf-x.y.z.onnx there and its line in the manifest

Krähenbühl and Koltun 2011, two labels, Potts model, symmetric normalisation. Every voxel is tied to every other by

    appearance_weight · exp(-|Δmm|² / 2 appearance_mm² - ΔHU² / 2 appearance_hu²)
    + smoothness_weight · exp(-|Δmm|² / 2 smoothness_mm²)

each kernel K scaled to D^-½ K D^-½ with D = K·1, so that a weight is about the largest change of a logit. A voxel
is among its own neighbours, as in every implementation. HU are clipped to `hu_range` first.

How the sums over all pairs become cheap:
- appearance: `training.bilateral_grid`; smoothness: one matrix per axis over the voxels, exact.
- voxels whose logit lies beyond `certain_logit` are counted but keep their probability: that is more than the
  weights can move, so no label depends on it, and the iterations touch about a tenth of the voxels.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx

from app.inference.crf import PROBABILITY_FLOOR
from app.inference.network import CONTRACT, CrfParameters
from training.bilateral_grid import BilateralGrid, Kernel, gaussian
from training.manifest import register, write_atomically
from training.onnx_graph import Graph, Value

VERSION = "0.1.0"

class Parameters(CrfParameters):
    """The kernels, and where grey values and certainty end."""

    hu_range: tuple[float, float] = (-100.0, 200.0)
    certain_logit: float = 5.0


#: Narrow on purpose: wide kernels make small lesions vanish.
DEFAULT = Parameters(
    refines=("liver", "lesion"),
    iterations=5,
    appearance_weight=2.0,
    appearance_mm=4.5,
    appearance_hu=20.0,
    smoothness_weight=1.0,
    smoothness_mm=2.0,
)


def _normalised(voxels: Value, spacing_mm: Value, sigma_mm: float) -> Value:
    """The smoothness kernel of one axis, D^-1/2 K D^-1/2."""
    graph = voxels.graph
    at_mm = graph.counting(voxels).to(np.float32) * spacing_mm
    distance = at_mm.reshape(-1, 1) - at_mm.reshape(1, -1)
    kernel = gaussian(distance * distance * (0.5 / sigma_mm**2))
    root = graph.add("Sqrt", graph.add("ReduceSum", kernel, np.array([1]), keepdims=1))
    return kernel / root / root.transposed


class _Smoothness:
    """The purely spatial kernel; its symmetric normalisation falls apart into the three axes."""

    def __init__(self, probability: Value, spacing_mm: Value, sigma_mm: float) -> None:
        shape = probability.graph.add("Shape", probability)
        self.sizes = [shape.at(n) for n in range(3)]
        self.z, self.y, self.x = (_normalised(shape.at(n), spacing_mm.at(n), sigma_mm) for n in range(3))

    def __call__(self, amounts: Value) -> Value:
        """Flat amounts → the sum over all voxels, flat."""
        z, y, x = self.sizes
        blurred = self.y @ (amounts.reshape(z, y, x) @ self.x)
        return (self.z @ blurred.reshape(z, -1)).flat()


def build(parameters: Parameters = DEFAULT, source_commit: str = "") -> onnx.ModelProto:
    """The graph of the contract: probability, hounsfield, spacing_mm (k, j, i) → refined, with its card."""
    graph = Graph()
    grid_shape = ["k", "j", "i"]
    probability = graph.input("probability", np.float32, grid_shape)
    hounsfield = graph.input("hounsfield", np.int16, grid_shape)
    spacing_mm = graph.input("spacing_mm", np.float32, [3])

    kernel = Kernel(parameters.appearance_mm, parameters.appearance_hu, parameters.hu_range)
    appearance = BilateralGrid(hounsfield, spacing_mm, kernel)
    mass = appearance.blur(appearance.splat(_like(appearance.tone_share, 1.0)))
    scale = 1.0 / graph.add("Sqrt", appearance.nearest(mass))
    smoothness = _Smoothness(probability, spacing_mm, parameters.smoothness_mm)

    clipped = graph.add("Clip", probability.flat(), PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    logit = graph.add("Log", clipped) - graph.add("Log", 1.0 - clipped)
    uncertain = graph.add("Less", graph.add("Abs", logit), parameters.certain_logit)
    active = graph.add("NonZero", uncertain).flat()
    # what the certain voxels say is the same in every iteration
    votes = graph.add("Where", uncertain, 0.0, clipped + clipped - 1.0)
    certain = appearance.splat(votes * scale)
    place = appearance.place(active)
    node, tone_share = appearance.node.at(active), appearance.tone_share.at(active)
    own_logit, own_scale = logit.at(active), scale.at(active)
    weight = parameters.appearance_weight / graph.add("Sqrt", appearance.slice(mass, place))

    belief = clipped.at(active)
    for _ in range(parameters.iterations):
        vote = belief + belief - 1.0
        similar = appearance.blur(appearance.add(certain, vote * own_scale, node, tone_share))
        near = smoothness(graph.add("ScatterElements", votes, active, vote, axis=0)).at(active)
        message = appearance.slice(similar, place) * weight + near * parameters.smoothness_weight
        belief = graph.add("Sigmoid", own_logit + message)

    refined = graph.add("ScatterElements", probability.flat(), active, belief, axis=0)
    refined = graph.add("Reshape", refined, graph.add("Shape", probability))
    graph.output("refined", refined, np.float32, grid_shape)
    return graph.model(card(parameters, source_commit))


def _like(value: Value, number: float) -> Value:
    return value * 0.0 + number


def card(parameters: Parameters, source_commit: str) -> dict[str, str]:
    """The metadata of a CRF file."""
    return {
        "contract": CONTRACT,
        "name": "dense-crf",
        "version": VERSION,
        "task": "crf",
        "threshold": "",
        "roi_margin_mm": "",
        "labels": "two: the voxel belongs or it does not",
        "preprocessing": "HU clipped to hu_range",
        "trained_on": "",
        "trained_with": "",
        "metrics": "{}",
        "source_commit": source_commit,
        "licence": "Apache-2.0",
        "intended_use": "Refines the probabilities of the liver and lesion networks; not for diagnosis by itself.",
        "parameters": parameters.model_dump_json(),
    }


def export(models_dir: Path, parameters: Parameters = DEFAULT, source_commit: str = "") -> Path:
    """Write the CRF into a models folder and name it in the manifest; other networks' lines stay as they are."""
    models_dir.mkdir(parents=True, exist_ok=True)
    path = models_dir / f"crf-{VERSION}.onnx"
    write_atomically(path, build(parameters, source_commit).SerializeToString(deterministic=True))
    register(models_dir, "crf", path.name)
    return path


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m training.crf", description="Write the dense CRF.")
    parser.add_argument("models", type=Path, help="the folder with the networks and their manifest")
    folder = parser.parse_args().models
    from training.export import source_commit  # needs torch, which the graph does not

    export(folder, source_commit=source_commit())


if __name__ == "__main__":
    main()
