"""What networks that look at cubes take on this machine: a few windows timed, the whole scan extrapolated."""

from __future__ import annotations

import math
import statistics
import time

import torch
from monai.networks.nets import BasicUNet, DynUNet
from torch import nn


def windows(shape: tuple[int, int, int], edge: int, overlap: float) -> int:
    """How many cubes cover the scan when neighbours share that part of an edge."""
    step = edge * (1 - overlap)
    return math.prod(1 if n <= edge else math.ceil((n - edge) / step) + 1 for n in shape)


def nnunet_like() -> nn.Module:
    """The plan that nnU-Net makes for LiTS at 128x128x128: six levels, 32 to 320 channels, two convolutions each."""
    return DynUNet(3, 1, 3, [3] * 6, [1, 2, 2, 2, 2, 2], [2] * 5, filters=[32, 64, 128, 256, 320, 320])


def seconds(kind: str, shape: tuple[int, int, int], repeats: int) -> dict[str, float]:
    """Extrapolated seconds for a scan, and of one window; weights are random, they change no time."""
    torch.set_num_threads(torch.get_num_threads())
    edge, overlap = (128, 0.5) if kind == "nnunet" else (96, 0.25)
    network = (nnunet_like() if kind == "nnunet" else BasicUNet(3, 1, 3)).eval()
    cube, taken = torch.zeros(1, 1, edge, edge, edge), []
    with torch.inference_mode():
        for _ in range(repeats):
            start = time.perf_counter()
            network(cube)
            taken.append(time.perf_counter() - start)
    window_s, count = statistics.median(taken), windows(shape, edge, overlap)
    return {"total": window_s * count, "window": window_s, "windows": count}
