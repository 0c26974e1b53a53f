"""The graph of the dense CRF: counting the volume in parts, then the iterations over the uncertain voxels.

For labels 0 … n the field of label l is kept as its difference to that of label 0, so there is one sum over all pairs
for each label but the first. What is summed is the vote of a voxel, q_l - q_0, with q its belief.

There are three kinds of voxels by their own probability:

- certain ones vote for their label as a whole: they are in the sums once and for all;
- the others, a twentieth, stand in those sums as background, and each iteration adds what they are more than that;
- certain ones that are not beyond all doubt read the sums once, in the last iteration; the rest are settled, and are
  taken to lie among voxels of their own label.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from app.inference.crf import PROBABILITY_FLOOR
from training.bilateral_grid import Grid, Kernel, Tones
from training.onnx_graph import Graph, Value
from training.runs import RUN, Runs, runs_above, with_background

#: How many parts a volume is read in: what one part needs is small beside the rest and stays in the cache.
PARTS = 24
#: A voxel is at least this much of its own neighbourhood: nodes that no voxel is near to divide nothing by zero.
SMALLEST_MASS = 0.05


@dataclass(frozen=True)
class Field:
    """What is summed over: the labels, and the two kernels with their weights.

    certain: the probability from which on a voxel is certain of its label; settled: that from which on it does not
    even look at its neighbours. Above 1 none is.
    """

    labels: int
    appearance: Kernel
    smoothness: Kernel
    weights: tuple[float, float]
    iterations: int
    certain: float
    settled: float


@dataclass(frozen=True)
class _Part:
    """Some slices: of each label the counts in the appearance grid, uncertain voxels as background.

    runs: with all voxels that are not certain to be background. index: of those that are not settled in the flat
    slices. unsettled: their k, j and i in the volume, HU, and probabilities of labels 1 … n.
    """

    first: Value
    last: Value
    counts: list[Value]
    runs: Runs
    index: Value
    unsettled: list[Value]


@dataclass(frozen=True)
class _Voxels:
    """Those that are not settled: k, j and i, what tones they lie in, probabilities of labels 0 … n.

    voters: which of them are uncertain, and vote anew in each iteration.
    """

    where: tuple[Value, Value, Value]
    tones: Tones
    probabilities: list[Value]
    voters: Value


class MeanField:
    """Inference in one volume: `hounsfield` (k, j, i), and a probability for each label but the first."""

    def __init__(self, field: Field, hounsfield: Value, spacing_mm: Value, probabilities: Sequence[Value]) -> None:
        self.field = field
        self.graph = graph = hounsfield.graph
        self.hounsfield, self.probabilities = hounsfield, probabilities
        shape = graph.add("Shape", hounsfield)
        self.sizes = [shape.at(n) for n in range(3)]
        self.appearance = Grid(self.sizes, spacing_mm, field.appearance)
        self.smoothness = Grid(self.sizes, spacing_mm, field.smoothness)

    def refined(self) -> list[Value]:
        """The probability of each label but the first (k, j, i)."""
        # blocks of the appearance grid end where parts end
        whole = self.appearance.axes[0].size.to(np.int64)
        step = ((self.sizes[0] + (PARTS - 1)) / PARTS + whole - 1) / whole * whole
        ends = [self.graph.add("Min", step * number, self.sizes[0]) for number in range(PARTS + 1)]
        parts = [self._part(first, last) for first, last in itertools.pairwise(ends)]
        voxels = self._voxels(parts)
        counts = [
            self.appearance.unpacked(self.appearance.whole(each))
            for each in zip(*(part.counts for part in parts), strict=True)
        ]
        kernels: list[_Appearance | _Smoothness] = [
            _Appearance(self, counts, voxels),
            _Smoothness(self, self._members(parts), voxels),
        ]
        beliefs = self._iterated(kernels, voxels)
        # a sigmoid's approximation may pass 1 by a rounding
        beliefs = [self.graph.add("Clip", each, 0.0, 1.0) for each in beliefs]
        return [self._written(a, b, parts) for a, b in zip(self.probabilities, beliefs, strict=True)]

    def _part(self, first: Value, last: Value) -> _Part:
        graph = self.graph
        hounsfield = graph.slice(self.hounsfield, first, last)
        probabilities = [graph.slice(each, first, last) for each in self.probabilities]
        runs = runs_above(probabilities, last - first, self.sizes[1] * self.sizes[2], 1 - self.field.settled)
        doubtful = graph.add("Less", graph.add("Max", *with_background(runs.probabilities)), self.field.settled)
        at = runs.chosen(doubtful)
        k, j, i = runs.where(at, self.sizes[2])
        index = runs.index.each(at)
        own = [each.each(at) for each in runs.probabilities]
        unsettled = [k + first.to(np.int32), j, i, hounsfield.flat().each(index), *own]
        return _Part(first, last, self._counted(hounsfield, probabilities, first, last), runs, index, unsettled)

    def _counted(self, hounsfield: Value, probabilities: list[Value], first: Value, last: Value) -> list[Value]:
        graph, grid = self.graph, self.appearance
        tones = grid.tones_of(hounsfield)
        node, nodes = tones.offset + grid.cells(first, last), grid.nodes_in(last - first)
        # one grid after the other for all labels: a voxel adds to its own only
        for label, each in enumerate(probabilities, start=1):
            certain = graph.add("GreaterOrEqual", each, self.field.certain)
            node = node + certain.to(np.int32) * (nodes * label).to(np.int32)
        counts = grid.counted(nodes * self.field.labels, node.flat(), tones.share.flat())
        return [graph.slice(counts, nodes * label, nodes * (label + 1)) for label in range(self.field.labels)]

    def _voxels(self, parts: list[_Part]) -> _Voxels:
        graph = self.graph
        columns = zip(*(part.unsettled for part in parts), strict=True)
        k, j, i, hounsfield, *labels = (graph.add("Concat", *each, axis=0) for each in columns)
        own = with_background(labels)
        uncertain = graph.add("Less", graph.add("Max", *own), self.field.certain)
        voters = graph.add("NonZero", uncertain).flat()
        return _Voxels((k, j, i), self.appearance.tones_of(hounsfield), own, voters)

    def _members(self, parts: list[_Part]) -> list[Value]:
        """Of each label but the first, how many voxels certain of it each block of the smoothness grid has."""
        graph, grid = self.graph, self.smoothness
        members = [grid.empty()] * (self.field.labels - 1)
        for part in parts:
            cell = grid.cells_in_runs(part.runs.k + part.first.to(np.int32), part.runs.place, RUN)
            for label, probability in enumerate(part.runs.probabilities):
                certain = graph.add("GreaterOrEqual", probability, self.field.certain)
                ones = graph.add("And", certain, part.runs.inside).to(np.float32)
                members[label] = graph.add("ScatterElements", members[label], cell, ones, axis=0, reduction="add")
        return members

    def _written(self, probability: Value, beliefs: Value, parts: list[_Part]) -> Value:
        """The beliefs of voxels that are not settled; of the rest, what all neighbours on their side make of it."""
        graph = self.graph
        left = float(np.exp(-sum(self.field.weights)))
        written, begin = [], graph.add("Cast", np.array(0), to=onnx.TensorProto.INT64)
        for part in parts:
            before = graph.slice(probability, part.first, part.last)
            after = (before * left + graph.add("Round", before) * (1 - left)).flat()
            end = begin + graph.add("Size", part.index)
            after = graph.add("ScatterElements", after, part.index, graph.slice(beliefs, begin, end), axis=0)
            written.append(graph.add("Reshape", after, graph.add("Shape", before)))
            begin = end
        return graph.add("Concat", *written, axis=0)

    def _beliefs(self, logits: list[Value]) -> list[Value]:
        if len(logits) == 1:
            return [self.graph.add("Sigmoid", logits[0])]
        powers = [self.graph.add("Exp", each) for each in logits]
        total = _sum(powers) + 1.0
        return [each / total for each in powers]

    def _iterated(self, kernels: list[_Appearance | _Smoothness], voxels: _Voxels) -> list[Value]:
        """The beliefs of the voxels after all iterations."""
        graph = self.graph
        floored = [graph.add("Clip", each, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR) for each in voxels.probabilities]
        background, *logs = (graph.add("Log", each) for each in floored)
        logits = [each - background for each in logs]
        own = [each.each(voxels.voters) for each in logits]
        beliefs = self._beliefs(own)
        for iteration in range(self.field.iterations):
            last = iteration == self.field.iterations - 1
            # q_l - q_0 + 1: what was counted as background takes back its vote
            votes = [each + _sum(beliefs) for each in beliefs]
            messages = [
                _sum([kernel(label, vote, everywhere=last) for kernel in kernels]) for label, vote in enumerate(votes)
            ]
            beliefs = self._beliefs([a + b for a, b in zip(logits if last else own, messages, strict=True)])
        return beliefs


def _sum(values: Sequence[Value]) -> Value:
    return functools.reduce(operator.add, values)


class _Appearance:
    """The appearance kernel. Called with the votes of the voters for a label less one: its message.

    To the voters, or, `everywhere`, to all voxels. counts: of each label at each node.
    """

    def __init__(self, model: MeanField, counts: list[Value], voxels: _Voxels) -> None:
        graph, self.grid = model.graph, model.appearance
        mass = self.grid.blur(_sum(counts))
        root = graph.add("Sqrt", graph.add("Max", mass, SMALLEST_MASS))
        self.certain = [(each - counts[0]) / root for each in counts[1:]]
        node = (self.grid.node_of(voxels.where) + voxels.tones.offset).each(voxels.voters)
        share = voxels.tones.share.each(voxels.voters)
        scale = 1.0 / self.grid.nearest(root, node, share)
        self.node = self.grid.in_two_tones(node)
        shares = [each.reshape(1, -1) for each in (1.0 - share, share)]
        self.scale = graph.add("Concat", *shares, axis=0) * scale
        self.place = self.grid.place(voxels.where, voxels.tones)
        mass_here = graph.add("Max", self.grid.slice(mass, self.place), SMALLEST_MASS)
        self.weight = model.field.weights[0] / graph.add("Sqrt", mass_here)
        self.voters_place, self.voters_weight = self.place.of(voxels.voters), self.weight.each(voxels.voters)

    def __call__(self, label: int, vote: Value, *, everywhere: bool) -> Value:
        votes = self.grid.splat(self.certain[label], self.node, self.scale * vote)
        place, weight = (self.place, self.weight) if everywhere else (self.voters_place, self.voters_weight)
        return self.grid.slice(self.grid.blur(votes), place) * weight


class _Smoothness:
    """The smoothness kernel, likewise. members: certain voxels of each label but the first in each block."""

    def __init__(self, model: MeanField, members: list[Value], voxels: _Voxels) -> None:
        self.graph, self.grid, self.weight = model.graph, model.smoothness, model.field.weights[1]
        background = functools.reduce(operator.sub, members, self.grid.voxels_in())
        self.certain = [each - background for each in members]
        self.place = self.grid.place(voxels.where, None)
        self.voters_place = self.place.of(voxels.voters)
        self.node = self.grid.node_of(voxels.where).each(voxels.voters)

    def __call__(self, label: int, vote: Value, *, everywhere: bool) -> Value:
        votes = self.graph.add("ScatterElements", self.certain[label], self.node, vote, axis=0, reduction="add")
        place = self.place if everywhere else self.voters_place
        return self.grid.slice(self.grid.blur(votes), place) * self.weight


def build(field: Field, card: dict[str, str]) -> onnx.ModelProto:
    """probability, hounsfield, spacing_mm (k, j, i) → refined.

    With two labels probability and refined are (k, j, i), with more they have one such volume for each but the first.
    """
    graph = Graph()
    grid_shape = ["k", "j", "i"]
    shape: list[str | int] = [*grid_shape] if field.labels == 2 else [field.labels - 1, *grid_shape]
    probability = graph.input("probability", np.float32, shape)
    hounsfield = graph.input("hounsfield", np.int16, grid_shape)
    spacing_mm = graph.input("spacing_mm", np.float32, [3])
    probabilities = [probability] if field.labels == 2 else [probability.at(n) for n in range(field.labels - 1)]
    refined = MeanField(field, hounsfield, spacing_mm, probabilities).refined()
    if field.labels > 2:
        refined = [graph.add("Unsqueeze", each, np.array([0])) for each in refined]
    whole = refined[0] if field.labels == 2 else graph.add("Concat", *refined, axis=0)
    graph.output("refined", whole, np.float32, shape)
    return graph.model(card)
