"""A Gaussian over position and Hounsfield units, summed over all pairs of voxels, in time linear in the voxels.

For one grey value a voxel a grid of four axes (tone, z, y, x) is small and regular, and needs no hash:

- a voxel adds to the nearest block of about half a sigma and, linearly, to the two tones it lies between;
- a Gaussian is the product of two narrower ones summed over nodes 0.8 sigma apart, so along each axis a blur is
  one matrix down to these nodes and its transpose up again;
- a voxel reads the grid linearly between tones and between blocks in its slice, which makes up for the coarse
  adding; across slices, mostly thicker than a block of a quarter sigma, both use the nearest block;
- the variance that adding and reading bring in is taken off the Gaussians.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from training.onnx_graph import Value

#: Of the spatial sigma, the size of a block in a slice: 0.4 is no more exact and 0.7 begins to be less so.
BLOCK_SIGMAS = 0.5
#: The same across slices, where there is no interpolation. Reading then takes 8 nodes a voxel instead of 16.
BLOCK_SIGMAS_ACROSS = 0.25
#: Of the intensity sigma, how far two tones lie apart: what is left of the error is theirs; 0.5 halves it.
TONE_SIGMAS = 0.75
#: Of sigma, how far the nodes of a blur lie apart: summed over these a Gaussian is one to 0.1 %.
NODE_SIGMAS = 0.8
#: What a Gaussian is cut off at.
NEGLIGIBLE = 1e-5
#: Nodes beyond either end of an axis.
NODES_BEYOND = 2


@dataclass(frozen=True)
class _Axis:
    """One spatial axis in blocks of voxels, with one empty block beyond either end.

    block, lower, share: of each voxel, the block it is in, and the lower of the two whose centres it lies between
    with the share of the upper one. blocks, nodes: how many. down: nodes x blocks.
    """

    voxels: Value
    block: Value
    lower: Value
    share: Value
    blocks: Value
    nodes: Value
    down: Value


@dataclass(frozen=True)
class Kernel:
    """exp(-|Δmm|² / 2 mm² - ΔHU² / 2 hu²), with HU clipped to a range."""

    mm: float
    hu: float
    hu_range: tuple[float, float]


@dataclass(frozen=True)
class Place:
    """Where voxels read the grid: the lowest of 8 nodes around each, and the share of the upper ones (tone, y, x)."""

    lowest: Value
    shares: tuple[Value, Value, Value]


class BilateralGrid:
    """The grid over the voxels of `hounsfield` (k, j, i): built once, filtered once an iteration."""

    def __init__(self, hounsfield: Value, spacing_mm: Value, kernel: Kernel) -> None:
        self.graph = graph = hounsfield.graph
        voxels = graph.add("Shape", hounsfield)
        self.axes = [
            _axis(voxels.at(n), spacing_mm.at(n), kernel.mm, reads_linearly=n > 0) for n in range(3)
        ]
        low, high = kernel.hu_range
        step = kernel.hu * TONE_SIGMAS
        self.tones = int(np.ceil((high - low) / step)) + 1
        self.blur_of_tones = _blur_of_tones(self.tones)

        z, y, x = self.axes
        self.volume = z.blocks * y.blocks * x.blocks
        tone = (graph.add("Clip", hounsfield.to(np.float32), low, high) - low) / step
        lower = graph.add("Min", graph.add("Floor", tone), float(self.tones - 2))
        self.tone_share = (tone - lower).flat()
        self.lower_tone = (lower.to(np.int32) * self.volume.to(np.int32)).flat()
        block = self._index(z.block.reshape(-1, 1, 1), y.block.reshape(-1, 1), x.block)
        self.node = block.flat() + self.lower_tone

    def _index(self, z: Value, y: Value, x: Value) -> Value:
        rows, columns = (self.axes[n].blocks.to(np.int32) for n in (1, 2))
        return (z * rows + y) * columns + x

    def place(self, active: Value) -> Place:
        """Where the listed voxels (flat indices) read."""
        _, y, x = self.axes
        plane = y.voxels * x.voxels
        k, rest = active / plane, self.graph.add("Mod", active, plane)
        where = (k, rest / x.voxels, self.graph.add("Mod", rest, x.voxels))
        z_block = self.axes[0].block.at(where[0])
        lowest = self._index(z_block, y.lower.at(where[1]), x.lower.at(where[2])) + self.lower_tone.at(active)
        return Place(lowest, (self.tone_share.at(active), y.share.at(where[1]), x.share.at(where[2])))

    def empty(self) -> Value:
        """All zeros: tones · blocks, flat."""
        zero = onnx.helper.make_tensor("zero", onnx.TensorProto.FLOAT, [1], [0.0])
        return self.graph.add("ConstantOfShape", self.graph.shape(self.volume * self.tones), value=zero)

    def splat(self, amounts: Value) -> Value:
        """A grid with the amounts of all voxels."""
        return self.add(self.empty(), amounts, self.node, self.tone_share)

    def add(self, grid: Value, amounts: Value, node: Value, tone_share: Value) -> Value:
        """The grid with amounts added at the nearest block, shared by two tones."""
        upper_part = amounts * tone_share
        upper = node + self.volume.to(np.int32)
        grid = self.graph.add("ScatterElements", grid, node, amounts - upper_part, axis=0, reduction="add")
        return self.graph.add("ScatterElements", grid, upper, upper_part, axis=0, reduction="add")

    def nearest(self, grid: Value) -> Value:
        """What the grid holds at all voxels, without interpolation between blocks."""
        below, above = grid.at(self.node), grid.at(self.node + self.volume.to(np.int32))
        return below + (above - below) * self.tone_share

    def slice(self, grid: Value, place: Place) -> Value:
        """What the grid holds at voxels, linear between tones, rows and columns."""
        x = self.axes[2]
        one = self.graph.add("Cast", np.array(1), to=onnx.TensorProto.INT32)
        strides = [self.volume.to(np.int32), x.blocks.to(np.int32), one]

        def between(node: Value, axis: int) -> Value:
            if axis == 3:
                return grid.at(node)
            below = between(node, axis + 1)
            return below + (between(node + strides[axis], axis + 1) - below) * place.shares[axis]

        return between(place.lowest, 0)

    def blur(self, grid: Value) -> Value:
        """The grid after a Gaussian along all four axes, flat again."""
        z, y, x = self.axes
        tones = self.tones
        blurred = grid.reshape(tones, z.blocks, y.blocks, x.blocks)
        blurred = y.down @ (blurred @ x.down.transposed)
        blurred = z.down @ blurred.reshape(tones, z.blocks, -1)
        blurred = self.graph.add("MatMul", self.blur_of_tones, blurred.reshape(tones, -1))
        blurred = z.down.transposed @ blurred.reshape(tones, z.nodes, -1)
        blurred = y.down.transposed @ blurred.reshape(tones, z.blocks, y.nodes, x.nodes)
        return (blurred @ x.down).flat()


def _axis(voxels: Value, spacing_mm: Value, sigma_mm: float, *, reads_linearly: bool) -> _Axis:
    graph = voxels.graph
    block_mm = sigma_mm * (BLOCK_SIGMAS if reads_linearly else BLOCK_SIGMAS_ACROSS)
    size = graph.add("Max", graph.add("Round", block_mm / spacing_mm), 1.0)
    index = graph.counting(voxels).to(np.float32)
    block = graph.add("Floor", index / size) + 1.0
    # block n has its centre at n + 0.5 in blocks
    at = (index + 0.5) / size + 0.5
    lower = graph.add("Floor", at)
    blocks = graph.add("Ceil", voxels.to(np.float32) / size).to(np.int64) + 2
    # adding to a box of b voxels has the variance (b² - 1) / 12, reading from one too; reading linearly about b² / 6
    share = 1 / 12 + (1 / 6 if reads_linearly else 1 / 12)
    added = (size * size - 1.0) * (spacing_mm * spacing_mm) * share
    variance = sigma_mm**2 - added
    step = graph.add("Sqrt", variance) * NODE_SIGMAS
    at_mm = graph.counting(blocks).to(np.float32) * (size * spacing_mm)
    last_mm = (blocks.to(np.float32) - 1.0) * (size * spacing_mm)
    nodes = graph.add("Ceil", last_mm / step).to(np.int64) + (1 + 2 * NODES_BEYOND)
    nodes_mm = (graph.counting(nodes).to(np.float32) - float(NODES_BEYOND)) * step
    distance = nodes_mm.reshape(-1, 1) - at_mm.reshape(1, -1)
    # two of these one after the other have the full variance
    down = gaussian(distance * distance / variance)
    return _Axis(voxels, block.to(np.int32), lower.to(np.int32), at - lower, blocks, nodes, down)


def _blur_of_tones(tones: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Gaussian over tones; the linear weights of adding and of reading have 1/6 of a step squared each."""
    distance = np.subtract.outer(np.arange(tones), np.arange(tones))
    variance = TONE_SIGMAS**-2 - 2 / 6
    kernel = np.exp(-(distance**2) / (2 * variance))
    return np.where(kernel < NEGLIGIBLE, 0, kernel).astype(np.float32)


def gaussian(exponent: Value) -> Value:
    """exp(-exponent), and 0 where that is negligible: products of tails are denormal, a hundred times slower."""
    kernel = exponent.graph.add("Exp", 0.0 - exponent)
    return exponent.graph.add("Where", exponent.graph.add("Less", kernel, NEGLIGIBLE), 0.0, kernel)
