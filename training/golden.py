"""What the shipped networks answer on a phantom, to notice when a runtime or a file changes it. Needs no PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from app.inference.manifest import Networks, load_networks
from app.inference.network import Runtime
from training.manifest import write_atomically
from training.phantom import abdomen

GOLDEN = "golden.json"
#: Of the question, after every fourth slice was taken: they are told to be neighbours.
SLICE_MM = 6.0
#: Every how many pixels an answer is kept.
STRIDE = 24


def question() -> tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_]]:
    """Three slices of a phantom and their true liver, (3, 192, 192) each."""
    phantom = abdomen(0, (192, 192, 30), (2.0, 2.0, SLICE_MM))
    hounsfield = phantom.volume.reoriented("LPS").voxels.T[8:20:4]
    liver = phantom.truth.reoriented("LPS").liver.T[8:20:4]
    return np.ascontiguousarray(hounsfield), np.ascontiguousarray(liver)


def answers(networks: Networks) -> dict[str, Any]:
    """Of each network: its version, the sum of its probabilities, and those on a coarse grid."""
    hounsfield, liver = question()
    found = {
        networks.liver: networks.liver.run(hounsfield),
        networks.lesion: networks.lesion.run(hounsfield, liver, SLICE_MM),
    }
    return {
        network.card.task: {
            "version": network.card.version,
            "sum": float(probability.sum()),
            "probability": [round(float(p), 5) for p in probability[:, ::STRIDE, ::STRIDE].ravel()],
        }
        for network, probability in found.items()
    }


def write_golden(models_dir: Path) -> None:
    """Ask the networks of a folder and write `golden.json` beside them."""
    content = json.dumps(answers(load_networks(models_dir, Runtime(threads=1))))
    write_atomically(models_dir / GOLDEN, (content + "\n").encode())
