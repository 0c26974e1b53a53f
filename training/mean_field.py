"""The graph of the dense CRF: reading the volume in parts, then the iterations over the uncertain voxels.

For labels 0 … n the field of label l is kept as its difference to that of label 0, so there is one sum over all pairs
for each label but the first. What is summed is the vote of a voxel, q_l - q_0, with q its belief.

There are three kinds of voxels by their own probability:

- certain ones vote for their label as a whole: they are in the sums once and for all;
- the others, a twentieth, stand in those sums as background, and each iteration adds what they are more than that;
- certain ones that are not beyond all doubt read the sums once, in the last iteration; the rest are taken to lie
  among voxels of their own label.
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
from training.bilateral_grid import Fineness, Grid, Kernel, Place, Tones
from training.onnx_graph import Graph, Value

#: How many parts a volume is read in: what one part needs is small beside the rest and stays in the cache.
PARTS = 12
#: A voxel is at least this much of its own neighbourhood: nodes that no voxel is near to divide nothing by zero.
SMALLEST_MASS = 0.05


@dataclass(frozen=True)
class Field:
    """What is summed over: the labels, the two kernels with their weights, and how finely.

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
    fineness: Fineness


@dataclass(frozen=True)
class _Part:
    """Some slices: counts by label in the appearance grid, members of labels 1 … n in the smoothness grid (flat).

    changing: of the voxels that are not settled: k, j, i, the index in the volume, and in the
    appearance grid the node, the offset of the tone and the upper tone's share.
    """

    counts: list[Value]
    members: list[Value]
    changing: dict[str, Value]


class MeanField:
    """Inference in one volume: `hounsfield` (k, j, i), and a probability for each label but the first."""

    def __init__(self, field: Field, hounsfield: Value, spacing_mm: Value, probabilities: Sequence[Value]) -> None:
        self.field = field
        self.graph = graph = hounsfield.graph
        self.hounsfield, self.probabilities = hounsfield, probabilities
        shape = graph.add("Shape", hounsfield)
        self.sizes = [shape.at(n) for n in range(3)]
        self.appearance = Grid(self.sizes, spacing_mm, field.appearance, field.fineness)
        self.smoothness = Grid(self.sizes, spacing_mm, field.smoothness, field.fineness)

    def refined(self) -> list[Value]:
        """The probability of each label but the first, flat."""
        parts = self._parts()
        names = parts[0].changing
        at = {name: self.graph.add("Concat", *(part.changing[name] for part in parts), axis=0) for name in names}
        beliefs = self._iterated(parts, at)
        # of the others all neighbours agree: what is left to certainty shrinks by what the kernels weigh
        left = float(np.exp(-sum(self.field.weights)))
        agreed = []
        for probability in self.probabilities:
            nearest = self.graph.add("Round", probability)
            agreed.append((nearest + (probability - nearest) * left).flat())
        return [
            # a sigmoid's approximation may pass 1 by a rounding
            self.graph.add(
                "ScatterElements", probability, at["index"], self.graph.add("Clip", belief, 0.0, 1.0), axis=0
            )
            for probability, belief in zip(agreed, beliefs, strict=True)
        ]

    def _parts(self) -> list[_Part]:
        graph, slices = self.graph, self.sizes[0]
        # blocks of both grids end where parts end
        whole = (self.appearance.axes[0].size * self.smoothness.axes[0].size).to(np.int64)
        step = ((slices + (PARTS - 1)) / PARTS + whole - 1) / whole * whole
        bounds = [graph.add("Min", step * number, slices) for number in range(PARTS + 1)]
        return [self._part(first, last) for first, last in itertools.pairwise(bounds)]

    def _part(self, first: Value, last: Value) -> _Part:
        graph = self.graph
        probabilities = [graph.slice(each, first, last) for each in self.probabilities]
        tones = self.appearance.tones_of(graph.slice(self.hounsfield, first, last))
        node = tones.offset + self.appearance.cells(first, last)
        certain = [graph.add("GreaterOrEqual", each, self.field.certain) for each in probabilities]
        changing = self._changing(probabilities, first)
        inside = changing.pop("inside")
        offset, share = tones.offset.flat().each(inside), tones.share.flat().each(inside)
        before = self.appearance.before(first)
        changing |= {"offset": offset, "share": share, "node": node.flat().each(inside) + before}
        counts = self._counted(node, tones.share, certain, self.appearance.nodes_in(last - first))
        cell = self.smoothness.cells(first, last).flat()
        none = self.smoothness.empty(self.smoothness.nodes_in(last - first))
        ones = [each.to(np.float32).flat() for each in certain]
        members = [graph.add("ScatterElements", none, cell, each, axis=0, reduction="add") for each in ones]
        return _Part(counts, members, changing)

    def _changing(self, probabilities: list[Value], first: Value) -> dict[str, Value]:
        likeliest = self.graph.add("Max", *_with_background(probabilities))
        where = self.graph.add("NonZero", self.graph.add("Less", likeliest, self.field.settled))
        k, j, i = (where.at(n) for n in range(3))
        inside = (k * self.sizes[1] + j) * self.sizes[2] + i
        index = inside + first * self.sizes[1] * self.sizes[2]
        return {"inside": inside, "index": index, "k": k + first, "j": j, "i": i}

    def _counted(self, node: Value, share: Value, certain: list[Value], nodes: Value) -> list[Value]:
        """How many voxels of each label there are at each node, the uncertain ones among the first."""
        graph = self.graph
        # one grid after the other for all labels: a voxel adds to its own only
        for label, each in enumerate(certain, start=1):
            node = node + each.to(np.int32) * (nodes * label).to(np.int32)
        upper = share.flat()
        all_counts = self.appearance.empty(nodes * self.field.labels)
        all_counts = self.appearance.splat(all_counts, node.flat(), 1.0 - upper, upper)
        return [graph.slice(all_counts, nodes * label, nodes * (label + 1)) for label in range(self.field.labels)]

    def _beliefs(self, logits: list[Value]) -> list[Value]:
        if len(logits) == 1:
            return [self.graph.add("Sigmoid", logits[0])]
        powers = [self.graph.add("Exp", each) for each in logits]
        total = _sum(powers) + 1.0
        return [each / total for each in powers]

    def _iterated(self, parts: list[_Part], at: dict[str, Value]) -> list[Value]:
        graph = self.graph
        probabilities = _with_background([each.flat().each(at["index"]) for each in self.probabilities])
        floored = [graph.add("Clip", each, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR) for each in probabilities]
        background, *logs = (graph.add("Log", each) for each in floored)
        logits = [each - background for each in logs]
        uncertain = graph.add("Less", graph.add("Max", *probabilities), self.field.certain)
        voters = graph.add("NonZero", uncertain).flat()
        kernels: list[_Appearance | _Smoothness] = [
            _Appearance(self, parts, at, voters),
            _Smoothness(self, parts, at, voters),
        ]
        own = [each.each(voters) for each in logits]
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


def _with_background(probabilities: Sequence[Value]) -> list[Value]:
    background = 1.0 - probabilities[0]
    return [functools.reduce(operator.sub, probabilities[1:], background), *probabilities]


def _chosen(place: Place, which: Value) -> Place:
    return Place(place.lowest.each(which), tuple((stride, share.each(which)) for stride, share in place.shares))


class _Appearance:
    """The appearance kernel. Called with the votes of the voters for a label less one: its message.

    voters: which of the voxels `at` vote anew in each iteration, and get a message; `everywhere` all of them do.
    """

    def __init__(self, model: MeanField, parts: list[_Part], at: dict[str, Value], voters: Value) -> None:
        graph, self.grid = model.graph, model.appearance
        counts = [self.grid.whole([part.counts[n] for part in parts]) for n in range(model.field.labels)]
        mass = self.grid.blur(_sum(counts))
        root = graph.add("Sqrt", graph.add("Max", mass, SMALLEST_MASS))
        self.certain = [(each - counts[0]) / root for each in counts[1:]]
        self.node, share = at["node"].each(voters), at["share"].each(voters)
        scale = 1.0 / self.grid.nearest(root, self.node, share)
        self.upper = scale * share
        self.lower = scale - self.upper
        self.place = self.grid.place((at["k"], at["j"], at["i"]), Tones(at["offset"], at["share"]))
        mass_here = graph.add("Max", self.grid.slice(mass, self.place), SMALLEST_MASS)
        self.weight = model.field.weights[0] / graph.add("Sqrt", mass_here)
        self.voters_place, self.voters_weight = _chosen(self.place, voters), self.weight.each(voters)

    def __call__(self, label: int, vote: Value, *, everywhere: bool) -> Value:
        votes = self.grid.splat(self.certain[label], self.node, vote * self.lower, vote * self.upper)
        place, weight = (self.place, self.weight) if everywhere else (self.voters_place, self.voters_weight)
        return self.grid.slice(self.grid.blur(votes), place) * weight


class _Smoothness:
    """The smoothness kernel, likewise."""

    def __init__(self, model: MeanField, parts: list[_Part], at: dict[str, Value], voters: Value) -> None:
        self.graph, self.grid, self.weight = model.graph, model.smoothness, model.field.weights[1]
        members = [self.grid.whole([part.members[n] for part in parts]) for n in range(model.field.labels - 1)]
        background = functools.reduce(operator.sub, members, self.grid.voxels_in())
        self.certain = [each - background for each in members]
        where = (at["k"], at["j"], at["i"])
        self.place = self.grid.place(where, None)
        self.voters_place = _chosen(self.place, voters)
        self.node = self.grid.node_of([each.each(voters) for each in where])

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
    whole = graph.add("Reshape", graph.add("Concat", *refined, axis=0), graph.add("Shape", probability))
    graph.output("refined", whole, np.float32, shape)
    return graph.model(card)
