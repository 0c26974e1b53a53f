"""A Gaussian over position and Hounsfield units, summed over all pairs of voxels, in time linear in the voxels.

For one grey value a voxel a grid of four axes (z, tone, y, x) is small and regular, and needs no hash:

- a voxel adds to the nearest block of part of a sigma and, linearly, to the two tones it lies between;
- a blur is one matrix per axis;
- a voxel reads the grid linearly along all axes, which makes up for the coarse adding;
- the variance that adding and reading bring in is taken off the Gaussians.

A Gaussian over position alone is the same with one tone.

Blocks do not reach across the ends of the parts that a volume is read in (which have whole blocks along k), so
each part has a small grid of its own, which stays in the cache; the parts' grids one after the other are the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from app.inference.crf import LARGEST_BLOCK
from training.onnx_graph import Value

#: What a Gaussian is cut off at; products of tails are denormal, a hundred times slower.
NEGLIGIBLE = 1e-5
#: More than the voxels of the largest block, so that one number counts voxels and adds up their shares of a tone.
UNIT = 4096.0


@dataclass(frozen=True)
class Fineness:
    """Of sigma, the size of a block of either kernel, and how far two tones lie apart."""

    block: float
    tone: float
    smoothness_block: float


@dataclass(frozen=True)
class Kernel:
    """exp(-|Δmm|² / 2 mm² - ΔHU² / 2 hu²), with HU clipped to a range; without hu a Gaussian over mm alone.

    block, tone: of mm and hu, the size of a block of the grid and how far two tones lie apart.
    """

    mm: float
    block: float
    hu: float = 0.0
    tone: float = 1.0
    hu_range: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class _Axis:
    """One spatial axis in blocks of `size` voxels, with an empty block beyond either end.

    block, lower, share: of each voxel, the block it is in, and the lower of the two whose centres it lies between
    with the share of the upper one. blocks: how many. voxels_in: each block. centre_mm: where blocks are read;
    centroid_mm: where the voxels are that add to them, elsewhere if the volume ends inside a block. variance: of the
    Gaussian from each block, in mm², less what adding and reading bring in.
    """

    sigma_mm: float
    size: Value
    block: Value
    lower: Value
    share: Value
    blocks: Value
    voxels_in: Value
    centre_mm: Value
    centroid_mm: Value
    variance: Value

    def kernel(self) -> Value:
        """blocks x blocks: what is read of what was added."""
        return self._from_blocks_to(self.centre_mm)

    def normalised(self) -> Value:
        """D^-1/2 K D^-1/2 with D = K·1: 1 for every voxel."""
        read, added = (self._root(self._from_blocks_to(mm)) for mm in (self.centre_mm, self.centroid_mm))
        return self.kernel() / read / added.transposed

    def _root(self, kernel: Value) -> Value:
        mass = kernel @ self.voxels_in.reshape(-1, 1)
        # the empty block beyond the end of a coarse axis is out of reach of everything
        return self.size.graph.add("Sqrt", self.size.graph.add("Max", mass, NEGLIGIBLE))

    def _from_blocks_to(self, mm: Value) -> Value:
        graph, variance = self.size.graph, self.variance.reshape(1, -1)
        distance = mm.reshape(-1, 1) - self.centroid_mm.reshape(1, -1)
        # a narrower Gaussian is a higher one
        height = self.sigma_mm / graph.add("Sqrt", variance)
        kernel = graph.add("Exp", distance * distance * (-0.5 / variance)) * height
        return graph.add("Where", graph.add("Less", kernel, NEGLIGIBLE), 0.0, kernel)


@dataclass(frozen=True)
class Tones:
    """Of voxels: the lower of the two tones they lie between, as an offset in the grid, and the upper one's share."""

    offset: Value
    share: Value


@dataclass(frozen=True)
class Place:
    """Where voxels read the grid: the lowest of the nodes around each, and the upper ones' shares along some axes."""

    lowest: Value
    shares: tuple[tuple[Value, Value], ...]

    def of(self, which: Value) -> Place:
        """Where some of them do."""
        return Place(self.lowest.each(which), tuple((stride, share.each(which)) for stride, share in self.shares))


class Grid:
    """The grid over `voxels` (k, j, i): how to get in, across and out."""

    def __init__(self, voxels: Sequence[Value], spacing_mm: Value, kernel: Kernel) -> None:
        self.graph = voxels[0].graph
        self.kernel = kernel
        self.axes = [_axis(voxels[n], spacing_mm.at(n), kernel.mm, kernel.block) for n in range(3)]
        _, y, x = self.axes
        self.tones, self._per_hu, self._blur_of_tones = 1, 0.0, np.ones((1, 1), np.float32)
        if kernel.hu:
            self._per_hu = 1 / (kernel.hu * kernel.tone)
            # a top tone that nobody reaches: the one below always has an upper neighbour
            self._top = (kernel.hu_range[1] - kernel.hu_range[0]) * self._per_hu
            self.tones = int(self._top + 1e-3) + 2
            self._blur_of_tones = _blur_of_tones(self.tones, kernel.tone)
        # without tones the normalisation falls apart into the axes
        self._kernels = [axis.kernel() if kernel.hu else axis.normalised() for axis in self.axes]
        self._plane = (y.blocks * x.blocks).to(np.int32)
        self._row = x.blocks.to(np.int32)
        self._layer = self._plane * np.int32(self.tones)
        self._cell = y.block.reshape(-1, 1) * self._row + x.block
        self._one = self.graph.add("Cast", np.array(1), to=onnx.TensorProto.INT32)

    def tones_of(self, hounsfield: Value) -> Tones:
        """What lies in which tones."""
        tone = hounsfield.to(np.float32) * self._per_hu - self.kernel.hu_range[0] * self._per_hu
        tone = self.graph.add("Clip", tone, 0.0, self._top)
        lower = tone.to(np.int32)
        return Tones(lower * self._plane, tone - lower.to(np.float32))

    def cells(self, first: Value, last: Value) -> Value:
        """Blocks of the slices from first to last (exclusive), counted from the first, where one begins (k, j, i)."""
        block = self.graph.slice(self.axes[0].block, first, last)
        before = (first / self.axes[0].size.to(np.int64)).to(np.int32) + self._one
        return ((block - before) * self._layer).reshape(-1, 1, 1) + self._cell

    def cells_in_runs(self, k: Value, place: Value, run: int) -> Value:
        """The blocks of voxels, flat: one k for every `run` of them, and the place of each in its slice."""
        layer = (self.axes[0].block * self._layer).each(k).reshape(-1, 1)
        return (self._cell.flat().each(place).reshape(-1, run) + layer).flat()

    def empty(self) -> Value:
        """A grid of zeros, flat."""
        return self.graph.zeros(self.axes[0].blocks * self._layer.to(np.int64))

    def node_of(self, where: Sequence[Value]) -> Value:
        """The blocks of voxels at k, j and i, in the grid of the whole volume."""
        z, y, x = self.axes
        layer, row = z.block * self._layer, y.block * self._row
        return layer.each(where[0]) + row.each(where[1]) + x.block.each(where[2])

    def nodes_in(self, slices: Value) -> Value:
        """How many nodes so many slices have, the last block perhaps not full."""
        size = self.axes[0].size.to(np.int64)
        return (slices + size - 1) / size * self._layer.to(np.int64)

    def counted(self, nodes: Value, node: Value, share: Value) -> Value:
        """UNIT for each voxel at the lower of its tones, and the share of the upper one; see `unpacked`."""
        return self.graph.add("ScatterElements", self.graph.zeros(nodes), node, share + UNIT, axis=0, reduction="add")

    def unpacked(self, counts: Value) -> Value:
        """How many voxels lie at each node of the whole grid, each in two tones, from what was counted."""
        voxels = self.graph.add("Floor", counts * (1 / UNIT))
        upper = counts - voxels * UNIT
        # no share reaches past the top tone, into the next layer
        beyond = self.graph.zeros(self._plane.to(np.int64))
        moved = self.graph.add("Concat", beyond, self.graph.slice(upper, 0, 0 - self._plane.to(np.int64)), axis=0)
        return voxels - upper + moved

    def in_two_tones(self, node: Value) -> Value:
        """These nodes and those of the tone above: 2 x voxels."""
        return self.graph.add("Concat", *(each.reshape(1, -1) for each in (node, node + self._plane)), axis=0)

    def splat(self, grid: Value, nodes: Value, amounts: Value) -> Value:
        """The grid with amounts added."""
        return self.graph.add("ScatterElements", grid, nodes.flat(), amounts.flat(), axis=0, reduction="add")

    def nearest(self, grid: Value, node: Value, tone_share: Value) -> Value:
        """What the grid holds at voxels, without interpolation between blocks."""
        below, above = grid.each(node), grid.each(node + self._plane)
        return below + (above - below) * tone_share

    def whole(self, parts: Sequence[Value]) -> Value:
        """The grid from those of all parts, flat."""
        beyond = self.graph.zeros(self._layer.to(np.int64))
        return self.graph.add("Concat", beyond, *parts, beyond, axis=0)

    def place(self, where: Sequence[Value], tones: Tones | None) -> Place:
        """Where voxels read: `where` holds their k, j and i."""
        strides = (self._layer, self._row, self._one)
        lowest = tones.offset if tones else None
        for axis, stride, index in zip(self.axes, strides, where, strict=True):
            at = (axis.lower * stride).each(index)
            lowest = at if lowest is None else lowest + at
        assert lowest is not None
        shares = [(stride, axis.share.each(n)) for axis, stride, n in zip(self.axes, strides, where, strict=True)]
        return Place(lowest, ((self._plane, tones.share), *shares) if tones else tuple(shares))

    def slice(self, grid: Value, place: Place) -> Value:
        """What the grid holds at voxels, linear between rows and columns, and tones if there are any."""

        def between(node: Value, axis: int) -> Value:
            if axis == len(place.shares):
                return grid.each(node)
            stride, share = place.shares[axis]
            below = between(node, axis + 1)
            return below + (between(node + stride, axis + 1) - below) * share

        return between(place.lowest, 0)

    def blur(self, grid: Value) -> Value:
        """The grid after a Gaussian along all axes, flat again; without tones D^-1/2 K D^-1/2 with D = K·1."""
        _, y, x = self.axes
        layers, rows, columns = self._kernels
        blurred = rows @ (grid.reshape(-1, x.blocks) @ columns).reshape(-1, y.blocks, x.blocks)
        if self.tones > 1:
            blurred = blurred.reshape(-1, self.tones, self._plane.to(np.int64))
            blurred = self.graph.add("MatMul", self._blur_of_tones, blurred)
        return (layers @ blurred.reshape(-1, self._layer.to(np.int64))).flat()

    def voxels_in(self) -> Value:
        """How many voxels each block has, flat; for a grid without tones."""
        z, y, x = (axis.voxels_in for axis in self.axes)
        return (z.reshape(-1, 1, 1) * y.reshape(-1, 1) * x).flat()


def _axis(voxels: Value, spacing_mm: Value, sigma_mm: float, part: float) -> _Axis:
    """part: of sigma, the block."""
    graph = voxels.graph
    size = graph.add("Clip", graph.add("Round", sigma_mm * part / spacing_mm), 1.0, float(LARGEST_BLOCK))
    index = graph.counting(voxels).to(np.float32)
    block = graph.add("Floor", index / size) + 1.0
    # block n has its centre at n - 0.5 in blocks
    at = (index + 0.5) / size + 0.5
    lower = graph.add("Floor", at)
    blocks = graph.add("Ceil", voxels.to(np.float32) / size).to(np.int64) + 2
    first = (graph.counting(blocks).to(np.float32) - 1.0) * size
    end = graph.add("Min", first + size, voxels.to(np.float32))
    voxels_in = graph.add("Max", end - graph.add("Max", first, 0.0), 0.0)
    wide = graph.add("Max", end - first, 1.0)
    # adding to a box of b voxels has the variance (b² - 1) / 12; reading linearly about b² / 6
    blurred = (wide * wide - 1.0) / 12.0 + (size * size - 1.0) / 6.0
    return _Axis(
        sigma_mm, size, block.to(np.int32), lower.to(np.int32), at - lower, blocks, voxels_in,
        centre_mm=(first + (size - 1.0) / 2.0) * spacing_mm,
        centroid_mm=(first + (wide - 1.0) / 2.0) * spacing_mm,
        variance=sigma_mm**2 - blurred * spacing_mm * spacing_mm,
    )  # fmt: skip


def _blur_of_tones(tones: int, step: float) -> npt.NDArray[np.float32]:
    """Gaussian over tones; the linear weights of adding and of reading have 1/6 of a step squared each."""
    distance = np.subtract.outer(np.arange(tones), np.arange(tones))
    kernel = np.exp(-(distance**2) / (2 * (step**-2 - 2 / 6)))
    return np.where(kernel < NEGLIGIBLE, 0, kernel).astype(np.float32)
