"""A dense 3-D CRF as an ONNX graph: mean-field inference over position and Hounsfield units.

    python -m training.crf MODELS_DIR                 writes crf-x.y.z.onnx there and its line in the manifest
    python -m training.crf MODELS_DIR --fit DATA      searches the parameters on training patients first

Krähenbühl and Koltun 2011, two labels or more, Potts model, symmetric normalisation. Every voxel is tied to every
other by

    appearance_weight · exp(-|Δmm|² / 2 appearance_mm² - ΔHU² / 2 appearance_hu²)
    + smoothness_weight · exp(-|Δmm|² / 2 smoothness_mm²)

each kernel K scaled to D^-½ K D^-½ with D = K·1, so that a weight is about the largest change of a logit. A voxel
is among its own neighbours, as in every implementation. HU are clipped to `hu_range` first.

How the sums over all pairs become cheap is told in `training.bilateral_grid`, how few voxels they are made for in
`training.mean_field`. How fine and for how many is `quality`:

- fast: mean |ΔQ| to the sum over all pairs below pydensecrf's, max |ΔQ| below 0.1
- exact: mean |ΔQ| below 0.001, max |ΔQ| below 0.05, for about four times the time and memory
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from pydantic import ConfigDict, computed_field

from app.inference.crf import PROBABILITY_FLOOR
from app.inference.network import CONTRACT, CrfParameters
from training import mean_field
from training.bilateral_grid import Fineness, Kernel
from training.manifest import register, registered, write_atomically

VERSION = "0.4.0"

#: Kernels from this width on have so few nodes that finer ones cost nothing.
WIDE_MM = 8.0


class Parameters(CrfParameters):
    """The kernels, where grey values end, and how close to the sum over all pairs.

    Derived from these, and in the card: from which logit on a voxel is certain, and settled (`training.mean_field`).
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    hu_range: tuple[float, float] = (-100.0, 200.0)
    quality: Literal["fast", "exact"] = "fast"

    @computed_field  # type: ignore[prop-decorator]
    @property
    def fineness(self) -> Fineness:
        """Of the grids."""
        if self.quality == "exact":
            return Fineness(block=0.5, tone=0.5, smoothness_block=0.5)
        if self.appearance_mm >= WIDE_MM:
            return Fineness(block=0.5, tone=0.75, smoothness_block=0.75)
        return Fineness(block=0.8, tone=0.9, smoothness_block=1.0)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def certain_logit(self) -> float:
        """Beyond what the weights can move."""
        return self.appearance_weight + self.smoothness_weight + (2.0 if self.quality == "exact" else 0.0)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def settled_logit(self) -> float:
        """Where a probability is within 0.007 of 0 or 1 whatever happens."""
        return max(self.certain_logit, 5.0) + (2.0 if self.quality == "exact" else 0.0)


#: Narrow on purpose: wide kernels make small lesions vanish.
DEFAULT = Parameters(
    refines=("liver",),
    iterations=5,
    appearance_weight=2.0,
    appearance_mm=4.5,
    appearance_hu=20.0,
    smoothness_weight=1.0,
    smoothness_mm=2.0,
)


def build(
    parameters: Parameters = DEFAULT,
    source_commit: str = "",
    labels: int = 2,
    metrics: Mapping[str, Any] | None = None,
) -> onnx.ModelProto:
    """The graph of the contract: probability, hounsfield, spacing_mm (k, j, i) → refined, with its card.

    With three labels, which no file of this service has, probability and refined are (2, k, j, i).
    """
    fine = parameters.fineness
    appearance = Kernel(parameters.appearance_mm, fine.block, parameters.appearance_hu, fine.tone, parameters.hu_range)
    field = mean_field.Field(
        labels=labels,
        appearance=appearance,
        smoothness=Kernel(parameters.smoothness_mm, fine.smoothness_block),
        weights=(parameters.appearance_weight, parameters.smoothness_weight),
        iterations=parameters.iterations,
        certain=_probability(parameters.certain_logit),
        settled=_probability(parameters.settled_logit),
    )
    return mean_field.build(field, card(parameters, source_commit, metrics or {}))


def _probability(logit: float) -> float:
    """Of a logit; more than any where it lies beyond what probabilities are cut off at."""
    probability = float(1 / (1 + np.exp(-logit)))
    return probability if probability < 1 - PROBABILITY_FLOOR else 2.0


def card(parameters: Parameters, source_commit: str, metrics: Mapping[str, Any]) -> dict[str, str]:
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
        "metrics": json.dumps(metrics, sort_keys=True),
        "source_commit": source_commit,
        "licence": "Apache-2.0",
        "intended_use": "Refines the probabilities of the liver and lesion networks; not for diagnosis by itself.",
        "parameters": parameters.model_dump_json(),
    }


def shipped(models_dir: Path) -> tuple[Parameters, dict[str, Any]]:
    """The parameters and metrics of the CRF that a models folder has; the defaults where it has none of ours."""
    entry = registered(models_dir).get("crf")
    if entry is None or not (models_dir / entry["file"]).exists():
        return DEFAULT, {}
    properties = {each.key: each.value for each in onnx.load(models_dir / entry["file"]).metadata_props}
    return Parameters.model_validate_json(properties["parameters"]), json.loads(properties["metrics"])


def export(
    models_dir: Path,
    parameters: Parameters | None = None,
    source_commit: str = "",
    metrics: Mapping[str, Any] | None = None,
    unrefined: tuple[str, ...] = (),
) -> Path:
    """Write the CRF into a models folder and name it in the manifest; other networks' lines stay as they are.

    Without parameters those that were fitted for this folder are kept. unrefined: labels that it shall leave alone,
    whatever was fitted. An older CRF's file is removed.
    """
    models_dir.mkdir(parents=True, exist_ok=True)
    if parameters is None:
        parameters, metrics = shipped(models_dir)
    refines = tuple(label for label in parameters.refines if label not in unrefined)
    parameters = parameters.model_copy(update={"refines": refines})
    before = registered(models_dir).get("crf", {}).get("file")
    path = models_dir / f"crf-{VERSION}.onnx"
    graph = build(parameters, source_commit, metrics=metrics)
    write_atomically(path, graph.SerializeToString(deterministic=True))
    register(models_dir, "crf", path.name)
    if before is not None and before != path.name:
        (models_dir / before).unlink(missing_ok=True)
    return path


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m training.crf", description="Write the dense CRF.")
    parser.add_argument("models", type=Path, help="the folder with the networks and their manifest")
    parser.add_argument("--fit", type=Path, metavar="DATA", help="search the parameters on the LiTS volumes there")
    parser.add_argument("--threads", type=int, default=0, help="for --fit; 0 means all")
    options = parser.parse_args()
    from training.export import source_commit  # needs torch, which the graph does not

    parameters, metrics = None, None
    if options.fit:
        from training.crf_fit import fit

        parameters, metrics = fit(options.models, options.fit, options.threads)
    export(options.models, parameters, source_commit(), metrics)


if __name__ == "__main__":
    main()
