"""The U-Net of an exported graph in 8-bit integers: what a CPU runs three times faster than 32-bit numbers.

Every number becomes `scale * (q - zero)` with q a byte and a scale for each channel. Scales come from slices of
TRAINING patients. What rounding adds on average to a channel is taken off the next bias.
Activations lie channel by channel (NHWC), in ONNX Runtime's own operators; what surrounds the U-Net stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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
MOST_WEIGHT = 127
MOST_BYTE = 255
#: Zero of the tensors that hold negative numbers.
MIDDLE = 128
#: Slices that are calibrated with, and of each activation the numbers that are looked at per slice.
CALIBRATION_SLICES, SAMPLES = 64, 4000
LEAST_SPAN = 0.1
#: Of the largest number of a channel, what may be the largest that is represented.
SHARES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
#: Names that the exporter gives the first and the last weight of the network.
FIRST, LAST = "network.encoders.0.0.weight", "network.head.weight"


class NotQuantised(RuntimeError):
    """The graph does not hold the network that was expected, or the network is not of the known kind."""


@dataclass(frozen=True, eq=False)
class Span:
    """Of each channel (C,) the smallest and largest number worth representing, and what rounding adds on average."""

    low: Float
    high: Float
    drift: Float

    @property
    def largest(self) -> Float:
        """Without its sign."""
        return np.maximum(-self.low, self.high)


@dataclass(frozen=True, eq=False)
class Measured:
    """What calibration saw. spans: of every ReLU and grower by its name in the network, and of the "input".

    means: of what every convolution and grower is given, (C,).
    """

    spans: dict[str, Span]
    means: dict[str, Float]


@dataclass(frozen=True, eq=False)
class Bytes:
    """An activation (S, H, W, C) as bytes: `scale` (C,) times what is above `zero`."""

    value: Value
    scale: Float
    zero: int
    drift: Float


def measured(network: MixedUNet, images_BCHW: Tensor) -> Measured:
    """Run the images and look at what comes by."""
    seen: dict[str, list[Float]] = {}
    given: dict[str, list[Float]] = {}
    draw = np.random.default_rng(0)

    def note(name: str, numbers_BCHW: Tensor) -> None:
        flat = numbers_BCHW.detach().transpose(0, 1).flatten(1).numpy()
        seen.setdefault(name, []).append(flat[:, draw.permutation(flat.shape[1])[: SAMPLES * len(numbers_BCHW)]])

    def note_mean(name: str, numbers_BCHW: Tensor) -> None:
        given.setdefault(name, []).append(numbers_BCHW.mean(dim=(0, 2, 3)).numpy())

    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, nn.ReLU | nn.ConvTranspose2d):
            hooks.append(module.register_forward_hook(lambda _m, _i, out, name=name: note(name, out)))
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            hooks.append(module.register_forward_hook(lambda _m, into, _o, name=name: note_mean(name, into[0])))
    try:
        with torch.no_grad():
            for part in torch.split(images_BCHW, 8):
                network(part)
                note("input", part)
    finally:
        for hook in hooks:
            hook.remove()
    spans = {name: _worth_representing(np.concatenate(parts, axis=1)) for name, parts in seen.items()}
    return Measured(spans, {name: np.mean(parts, axis=0) for name, parts in given.items()})


def _worth_representing(numbers_CN: Float) -> Span:
    """Of each channel what leaves the least mean square error, of what is cut off and of the steps together.

    A channel that hardly speaks gets a tenth of the loudest one's span: noise needs no fine steps.
    """
    low, high = np.minimum(numbers_CN.min(axis=1), 0), np.maximum(numbers_CN.max(axis=1), 0)
    least = LEAST_SPAN * max(float(np.maximum(-low, high).max()), 1e-3)
    high = np.maximum(high, least)
    tried = [(share * low, share * high) for share in SHARES]
    errors = np.array([np.square(_stored(numbers_CN, *span) - numbers_CN).mean(axis=1) for span in tried])
    share = np.array(SHARES)[errors.argmin(axis=0)]
    low, high = share * low, share * high
    return Span(low, high, (_stored(numbers_CN, low, high) - numbers_CN).mean(axis=1))


def _stored(numbers_CN: Float, low_C: Float, high_C: Float) -> Float:
    """What is left of the numbers as bytes, around a middle zero if any is negative."""
    fewest, most = (-MIDDLE, MIDDLE - 1) if (low_C < 0).any() else (0, MOST_BYTE)
    step_C1 = (np.maximum(-low_C, high_C) / most)[:, None]
    return np.asarray(np.clip(np.rint(numbers_CN / step_C1), fewest, most) * step_C1, np.float32)


@dataclass(frozen=True, eq=False)
class Weight:
    """weight (outputs, inputs, rows, columns), bias (outputs,), and the mean of what comes in (inputs,)."""

    weight: Float
    bias: Float
    mean_input: Float


class _EightBit:
    """Writes the nodes of one network, layer by layer."""

    def __init__(self, network: MixedUNet, measured: Measured) -> None:
        self.graph = Graph("eight_bit_")
        self._network, self._spans, self._means = network, measured.spans, measured.means

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
            scale, drift = (np.concatenate(both) for both in ((grown.scale, skip.scale), (grown.drift, skip.drift)))
            joined = Bytes(beside, scale, MIDDLE, drift)
            features = self._twice(joined, decoder, f"decoders.{level}", 0)
        return self._logit(features)

    def _entered(self, image: str) -> Bytes:
        scale = (self._spans["input"].largest / (MIDDLE - 1)).astype(np.float32)
        steps = self.graph.add("Div", Value(self.graph, image), scale.reshape(1, -1, 1, 1))
        stored = self.graph.add("QuantizeLinear", steps, np.float32(1), np.uint8(MIDDLE))
        return Bytes(self.graph.add("Transpose", stored, perm=[0, 2, 3, 1]), scale, MIDDLE, self._spans["input"].drift)

    def _twice(self, features: Bytes, block: nn.Module, name: str, last_zero: int) -> Bytes:
        layers = [(n, m) for n, m in enumerate(block.children()) if isinstance(m, nn.Conv2d | nn.ReLU)]
        (a, first), (one, _), (b, second), (two, _) = layers
        assert isinstance(first, nn.Conv2d)
        assert isinstance(second, nn.Conv2d)
        features = self._rectified(features, first, (f"{name}.{a}", f"{name}.{one}"), 0)
        return self._rectified(features, second, (f"{name}.{b}", f"{name}.{two}"), last_zero)

    def _rectified(self, features: Bytes, layer: nn.Conv2d, names: tuple[str, str], zero: int) -> Bytes:
        """Convolution and ReLU: bytes do not go below 0, so only another zero needs a node of its own."""
        span = self._spans[names[1]]
        scale = (span.high / (MOST_BYTE - zero)).astype(np.float32)
        weight = Weight(_numbers(layer.weight), _numbers(layer.bias), self._means[names[0]])
        found = self._convolved(features, weight, Bytes(features.value, scale, zero, span.drift))
        if zero:
            found = self.graph.add("Max", found, np.uint8(zero))
        return Bytes(found, scale, zero, span.drift)

    def _convolved(self, features: Bytes, layer: Weight, wanted: Bytes, stride: int = 1) -> Value:
        """Bytes with the scale and zero of `wanted`; the offset makes up for what rounded weights add on average."""
        in_steps = layer.weight * features.scale[:, None, None]
        step = np.maximum(np.abs(in_steps).max(axis=(1, 2, 3)), 1e-12) / MOST_WEIGHT
        whole = np.rint(in_steps / step[:, None, None, None])
        added = (whole * step[:, None, None, None] - in_steps).sum(axis=(2, 3)) @ (layer.mean_input / features.scale)
        added += layer.weight.sum(axis=(2, 3)) @ features.drift
        size = list(layer.weight.shape[2:])
        edge = size[0] // 2 if stride == 1 else 0
        # the scales of the channels that come out sit in the weights' step: they count in steps of 1
        return self.graph.add(
            "QLinearConv", features.value, np.float32(1), np.uint8(features.zero),
            whole.astype(np.int8), (step / wanted.scale).astype(np.float32), np.zeros(len(step), np.int8),
            np.float32(1), np.uint8(wanted.zero), np.rint((layer.bias - added) / step).astype(np.int32),
            domain=DOMAIN, channels_last=1, kernel_shape=size, pads=[edge] * 4, strides=[stride] * 2,
        )  # fmt: skip

    def _pooled(self, features: Bytes) -> Bytes:
        """(max + average) / 2; the average is a convolution, several times faster than the operator for it."""
        kind, channels = self._network.pool.kind, len(features.scale)
        zero = np.uint8(features.zero)
        largest = self.graph.add("NhwcMaxPool", features.value, domain=DOMAIN, kernel_shape=[2, 2], strides=[2, 2])
        quarter = np.eye(channels, dtype=np.float32)[:, :, None, None] * np.full((2, 2), 0.25, np.float32)
        nothing = np.zeros(channels, np.float32)
        average = self._convolved(features, Weight(quarter, nothing, nothing), features, stride=2)
        if kind != "mixed":
            return replace(features, value=largest if kind == "max" else average)
        half = np.float32(0.5)
        both = self.graph.add(
            "QLinearAdd", largest, half, zero, average, half, zero, np.float32(1), np.uint8(0), domain=DOMAIN
        )
        return replace(features, value=both, zero=0)

    def _grown(self, features: Bytes, layer: nn.ConvTranspose2d, name: str) -> Bytes:
        """A 2x2 transposed convolution of stride 2: four numbers a channel, moved to four pixels."""
        span, channels = self._spans[name], layer.out_channels
        scale = (span.largest / (MIDDLE - 1)).astype(np.float32)
        weight = _numbers(layer.weight).transpose(2, 3, 1, 0).reshape(4 * channels, -1, 1, 1)
        four_times = Weight(weight, np.tile(_numbers(layer.bias), 4), self._means[name])
        wanted = Bytes(features.value, np.tile(scale, 4), MIDDLE, span.drift)
        four = self._convolved(features, four_times, wanted)
        shape = self.graph.add("Shape", four)
        rows, columns = shape.at(1), shape.at(2)
        apart = four.reshape(-1, rows, columns, 2, 2 * channels)
        moved = self.graph.add("Transpose", apart, perm=[0, 1, 3, 2, 4])
        return Bytes(moved.reshape(-1, rows * 2, columns * 2, channels), scale, MIDDLE, span.drift)

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
    writer = _EightBit(network, measured(network, images_BCHW))
    found = writer.written(image[0])
    nodes = [*writer.graph.nodes, helper.make_node("Identity", [found.name], [logit[0]])]
    changed = exchanged(model, logit[0], nodes, writer.graph.constants)
    changed.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    onnx.checker.check_model(changed)
    return changed
