"""The Mixed U-Net of the preprint, with its width, normalisation and pooling as numbers and names.

Shapes: B slices, C channels, H rows, W columns.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Pooling = Literal["mixed", "max", "average"]
Normalisation = Literal["none", "batch"]
LEVEL_COUNT = 4


class MixedPooling(nn.Module):
    """2x2 pooling after Yu et al. 2014.

    While training, each channel of each slice is pooled by maximum or by average, drawn with equal chance. At inference
    the expectation (max + average) / 2 makes it deterministic. `kind` "max" or "average" turns the mixture off.
    """

    def __init__(self, kind: Pooling = "mixed") -> None:
        super().__init__()
        self.kind = kind

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H/2, W/2)."""
        if self.kind == "max":
            return functional.max_pool2d(features_BCHW, 2)
        if self.kind == "average":
            return functional.avg_pool2d(features_BCHW, 2)
        largest = functional.max_pool2d(features_BCHW, 2)
        average = functional.avg_pool2d(features_BCHW, 2)
        if not self.training:
            return (largest + average) * 0.5
        slices, channels = features_BCHW.shape[:2]
        by_max = torch.rand(slices, channels, 1, 1, device=features_BCHW.device) < 0.5
        return torch.where(by_max, largest, average)


def channels_last(network: MixedUNet) -> MixedUNet:
    """The network with its weights laid out channel by channel: twice as fast on CPUs with bfloat16 tiles."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def double_convolution(inputs: int, outputs: int, normalisation: Normalisation) -> nn.Sequential:
    """Two 3x3 convolutions with ReLU; "batch" puts a normalisation between, which export folds into the weights."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers.append(nn.Conv2d(channels, outputs, 3, padding=1, bias=normalisation == "none"))
        if normalisation == "batch":
            layers.append(nn.BatchNorm2d(outputs))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class MixedUNet(nn.Module):
    """Slices (B, inputs, H, W) → logits (B, 1, H, W); H and W are multiples of 16.

    Four encoder levels of two 3x3 convolutions and a mixed pooling, a bottleneck, four decoder levels that grow by
    a 2x2 transposed convolution, take the encoder's features beside them, and convolve twice; a 1x1 convolution.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        pooling: Pooling = "mixed",
        normalisation: Normalisation = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(LEVEL_COUNT + 1)]
        self.encoders = nn.ModuleList(
            double_convolution(before, after, normalisation)
            for before, after in zip([inputs, *widths], widths[:-1], strict=False)
        )
        self.pool = MixedPooling(pooling)
        self.bottleneck = double_convolution(widths[-2], widths[-1], normalisation)
        self.dropout = nn.Dropout2d(dropout) if normalisation == "batch" else nn.Dropout(dropout)
        self.growers = nn.ModuleList(
            nn.ConvTranspose2d(2 * after, after, 2, stride=2) for after in reversed(widths[:-1])
        )
        self.decoders = nn.ModuleList(
            double_convolution(2 * after, after, normalisation) for after in reversed(widths[:-1])
        )
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """(B, inputs, H, W) → logits (B, 1, H, W)."""
        features, skipped = image_BCHW, []
        for encoder in self.encoders:
            features = encoder(features)
            skipped.append(features)
            features = self.pool(features)
        features = self.dropout(self.bottleneck(features))
        for grower, decoder in zip(self.growers, self.decoders, strict=True):
            features = decoder(torch.cat((grower(features), skipped.pop()), dim=1))
        logit_BCHW: Tensor = self.head(features)
        return logit_BCHW
