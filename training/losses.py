"""What training minimises. Shapes: B slices, H rows, W columns; weights (B, H, W) say how much a pixel counts."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def weighted_cross_entropy(logit_BHW: Tensor, truth_BHW: Tensor, weight_BHW: Tensor) -> Tensor:
    """Mean cross entropy per weighted pixel."""
    each_BHW = functional.binary_cross_entropy_with_logits(logit_BHW, truth_BHW, reduction="none")
    return (each_BHW * weight_BHW).sum() / weight_BHW.sum().clamp(min=1.0)


def weighted_dice(logit_BHW: Tensor, truth_BHW: Tensor, weight_BHW: Tensor) -> Tensor:
    """1 - soft Dice over the whole batch: a slice without the organ adds its false positives, nothing else."""
    probability_BHW = logit_BHW.sigmoid()
    shared = (probability_BHW * truth_BHW * weight_BHW).sum()
    total = ((probability_BHW + truth_BHW) * weight_BHW).sum()
    return 1.0 - (2.0 * shared + 1.0) / (total + 1.0)
