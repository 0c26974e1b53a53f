"""The U-Net of an exported graph in 8-bit integers: what a CPU runs three times faster than 32-bit numbers.

Every number becomes `scale * (q - zero)` with q a byte. Scales come from slices of TRAINING patients. Weights have a
scale for each output channel and seven bits: CPUs without VNNI add two products in 16 bits, and shall give the same.
Activations lie channel by channel (NHWC), in ONNX Runtime's own operators; what surrounds the U-Net stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper
from torch import Tensor, nn

from training.networks import MixedPooling, MixedUNet
from training.onnx_graph import Graph, Value
from training.onnx_surgery import exchanged

Float = npt.NDArray[np.float32]
DOMAIN = "com.microsoft"
#: Largest weight: two products with bytes fit into 16 bits.
MOST_WEIGHT = 63
MOST_BYTE = 255
#: Zero of the tensors that hold negative numbers.
MIDDLE = 128
#: Slices that are calibrated with, and of each activation the numbers that are looked at per slice.
CALIBRATION_SLICES, SAMPLES = 64, 4000
#: Names that the exporter gives the first and the last weight of the network.
FIRST, LAST = "network.encoders.0.0.weight", "network.head.weight"


class NotQuantised(RuntimeError):
    """The graph does not hold the network that was expected, or the network is not of the known kind."""


@dataclass(frozen=True)
class Span:
    """The smallest and the largest number worth representing."""

    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Bytes:
    """An activation (S, H, W, C) as bytes: `scale` (C,) times what is above `zero`."""

    value: Value
    scale: Float
    zero: int


def spans(network: MixedUNet, images_BCHW: Tensor) -> dict[str, Span]:
    """Of every ReLU and grower by its name in the network, and of the input's channels "input.N": what to represent."""
    seen: dict[str, list[Float]] = {}
    draw = np.random.default_rng(0)

    def note(name: str, numbers: Tensor) -> None:
        flat = numbers.detach().flatten().numpy()
        seen.setdefault(name, []).append(draw.choice(flat, min(SAMPLES * len(images_BCHW), flat.size)))

    watched = [(name, m) for name, m in network.named_modules() if isinstance(m, nn.ReLU | nn.ConvTranspose2d)]
    hooks = [m.register_forward_hook(lambda _m, _i, out, name=name: note(name, out)) for name, m in watched]
    try:
        with torch.no_grad():
            for part in torch.split(images_BCHW, 8):
                network(part)
                for channel in range(part.shape[1]):
                    note(f"input.{channel}", part[:, channel])
    finally:
        for hook in hooks:
            hook.remove()
    return {name: _worth_representing(np.concatenate(parts)) for name, parts in seen.items()}


def _worth_representing(numbers: Float) -> Span:
    """The span, cut where the error of what is cut off equals what finer steps gain: least mean square error."""
    low, high = float(min(numbers.min(), 0.0)), float(max(numbers.max(), 1e-3))

    def error(share: float) -> float:
        step = (high - low) * share / MOST_BYTE
        kept = np.clip(np.rint(numbers / step), np.rint(low * share / step), np.rint(high * share / step)) * step
        return float(np.mean((kept - numbers) ** 2))

    best = min(np.linspace(0.2, 1.0, 41), key=error)
    return Span(low * float(best), high * float(best))


class _EightBit:
    """Writes the nodes of one network, layer by layer."""

    def __init__(self, network: MixedUNet, measured: dict[str, Span]) -> None:
        self.graph = Graph("eight_bit_")
        self._network, self._measured = network, measured

    def written(self, image: str) -> Value:
        """From the image (S, C, H, W), float32, to the logits (S, 1, H, W)."""
        network = self._network
        features, skipped = self._entered(image), []
        for level, encoder in enumerate(network.encoders):
            # what is put beside a grown tensor must have its zero
            skipped.append(self._twice(features, encoder, f"encoders.{level}", MIDDLE))
            features = self._pooled(skipped[-1])
        features = self._twice(features, network.bottleneck, "bottleneck", 0)
        for level, (grower, decoder) in enumerate(zip(network.growers, network.decoders, strict=True)):
            assert isinstance(grower, nn.ConvTranspose2d)
            grown, skip = self._grown(features, grower, f"growers.{level}"), skipped.pop()
            beside = self.graph.add("Concat", grown.value, skip.value, axis=3)
            joined = Bytes(beside, np.concatenate([grown.scale, skip.scale]), MIDDLE)
            features = self._twice(joined, decoder, f"decoders.{level}", 0)
        return self._logit(features)

    def _entered(self, image: str) -> Bytes:
        spans = [span for name, span in self._measured.items() if name.startswith("input.")]
        scale = np.array([max(-s.low, s.high) / (MIDDLE - 1) for s in spans], np.float32)
        steps = self.graph.add("Div", Value(self.graph, image), scale.reshape(1, -1, 1, 1))
        stored = self.graph.add("QuantizeLinear", steps, np.float32(1), np.uint8(MIDDLE))
        return Bytes(self.graph.add("Transpose", stored, perm=[0, 2, 3, 1]), scale, MIDDLE)

    def _twice(self, features: Bytes, block: nn.Module, name: str, last_zero: int) -> Bytes:
        layers = [(n, m) for n, m in enumerate(block.children()) if isinstance(m, nn.Conv2d | nn.ReLU)]
        (_, first), (one, _), (_, second), (two, _) = layers
        assert isinstance(first, nn.Conv2d)
        assert isinstance(second, nn.Conv2d)
        features = self._rectified(features, first, self._measured[f"{name}.{one}"], 0)
        return self._rectified(features, second, self._measured[f"{name}.{two}"], last_zero)

    def _rectified(self, features: Bytes, layer: nn.Conv2d, span: Span, zero: int) -> Bytes:
        """Convolution and ReLU: bytes do not go below 0, so only another zero needs a node of its own."""
        scale = np.full(layer.out_channels, span.high / (MOST_BYTE - zero), np.float32)
        found = self._convolved(
            features, _numbers(layer.weight), _numbers(layer.bias), Bytes(features.value, scale, zero)
        )
        if zero:
            found = self.graph.add("Max", found, np.uint8(zero))
        return Bytes(found, scale, zero)

    def _convolved(self, features: Bytes, weight: Float, bias: Float, wanted: Bytes, stride: int = 1) -> Value:
        """`weight` (outputs, inputs, rows, columns) in real numbers → bytes with the scale and zero of `wanted`."""
        in_steps = weight * features.scale[:, None, None]
        step = np.maximum(np.abs(in_steps).max(axis=(1, 2, 3)), 1e-12) / MOST_WEIGHT
        whole = np.rint(in_steps / step[:, None, None, None]).astype(np.int8)
        # the scales of channels sit in the weights' step: what comes out counts in steps of 1
        offset = np.rint(bias / step).astype(np.int32)
        edge = weight.shape[2] // 2 if stride == 1 else 0
        return self.graph.add(
            "QLinearConv", features.value, np.float32(1), np.uint8(features.zero),
            whole, (step / wanted.scale).astype(np.float32), np.zeros(len(step), np.int8),
            np.float32(1), np.uint8(wanted.zero), offset,
            domain=DOMAIN, channels_last=1, kernel_shape=list(weight.shape[2:]), pads=[edge] * 4, strides=[stride] * 2,
        )  # fmt: skip

    def _pooled(self, features: Bytes) -> Bytes:
        """(max + average) / 2; the average is a convolution, several times faster than the operator for it."""
        kind, channels = self._network.pool.kind, len(features.scale)
        zero = np.uint8(features.zero)
        largest = self.graph.add("NhwcMaxPool", features.value, domain=DOMAIN, kernel_shape=[2, 2], strides=[2, 2])
        quarter = np.eye(channels, dtype=np.float32)[:, :, None, None] * np.full((2, 2), 0.25, np.float32)
        average = self._convolved(features, quarter, np.zeros(channels, np.float32), features, stride=2)
        if kind != "mixed":
            return Bytes(largest if kind == "max" else average, features.scale, features.zero)
        half = np.float32(0.5)
        both = self.graph.add(
            "QLinearAdd", largest, half, zero, average, half, zero, np.float32(1), np.uint8(0), domain=DOMAIN
        )
        return Bytes(both, features.scale, 0)

    def _grown(self, features: Bytes, layer: nn.ConvTranspose2d, name: str) -> Bytes:
        """A 2x2 transposed convolution of stride 2: four numbers a channel, moved to four pixels."""
        span, channels = self._measured[name], layer.out_channels
        scale = np.full(channels, max(-span.low, span.high) / (MIDDLE - 1), np.float32)
        weight = _numbers(layer.weight).transpose(2, 3, 1, 0).reshape(4 * channels, -1, 1, 1)
        wanted = Bytes(features.value, np.tile(scale, 4), MIDDLE)
        four = self._convolved(features, weight, np.tile(_numbers(layer.bias), 4), wanted)
        shape = self.graph.add("Shape", four)
        rows, columns = shape.at(1), shape.at(2)
        apart = four.reshape(-1, rows, columns, 2, 2 * channels)
        moved = self.graph.add("Transpose", apart, perm=[0, 1, 3, 2, 4])
        return Bytes(moved.reshape(-1, rows * 2, columns * 2, channels), scale, MIDDLE)

    def _logit(self, features: Bytes) -> Value:
        head = self._network.head
        real = self.graph.add("DequantizeLinear", features.value, np.float32(1), np.uint8(features.zero))
        weight = _numbers(head.weight)[0, :, 0, 0] * features.scale
        logit = self.graph.add("MatMul", real, weight[:, None])
        return self.graph.add("Transpose", logit, perm=[0, 3, 1, 2]) + np.float32(_numbers(head.bias)[0])


def _numbers(parameter: Tensor | None) -> Float:
    assert parameter is not None
    found: Float = parameter.detach().numpy()
    return found


def eight_bit(model: onnx.ModelProto, network: MixedUNet, images_BCHW: Tensor) -> onnx.ModelProto:
    """The exported graph of `network` (folded) with its U-Net in bytes.

    images: what the network sees of slices of training patients. Raises NotQuantised for another kind of network.
    """
    if not isinstance(network.pool, MixedPooling) or network.training:
        raise NotQuantised("expected a Mixed U-Net in evaluation mode")
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    image = [node.input[0] for node in convolutions if node.input[1] == FIRST]
    logit = [node.output[0] for node in convolutions if node.input[1] == LAST]
    if len(image) != 1 or len(logit) != 1:
        raise NotQuantised(f"expected one convolution with {FIRST} and one with {LAST}")
    writer = _EightBit(network, spans(network, images_BCHW))
    found = writer.written(image[0])
    nodes = [*writer.graph.nodes, helper.make_node("Identity", [found.name], [logit[0]])]
    changed = exchanged(model, logit[0], nodes, writer.graph.constants)
    changed.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    onnx.checker.check_model(changed)
    return changed
