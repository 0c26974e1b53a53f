"""Looking for few voxels among many, in runs of sixteen: as a whole first, then voxel by voxel where it pays."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.onnx_graph import Value

RUN = 16


def with_background(probabilities: Sequence[Value]) -> list[Value]:
    """Probabilities of labels 0 … n from those of 1 … n."""
    background = 1.0 - probabilities[0]
    return [functools.reduce(operator.sub, probabilities[1:], background), *probabilities]


@dataclass(frozen=True)
class Runs:
    """Voxels of some slices in runs of sixteen.

    k: of each run, int32. Of each voxel, flat: place in its slice and index in all these slices (int32),
    probabilities of labels 1 … n, and inside, false where a run reaches beyond its slice and repeats the last voxel.
    """

    k: Value
    place: Value
    index: Value
    inside: Value
    probabilities: list[Value]

    def chosen(self, condition: Value) -> Value:
        """Where in these runs a condition holds."""
        graph = self.place.graph
        return graph.add("NonZero", graph.add("And", condition, self.inside)).flat()

    def where(self, chosen: Value, columns: Value) -> tuple[Value, Value, Value]:
        """k, j and i of voxels at these places; a row has so many columns."""
        within = self.place.each(chosen)
        j = within / columns.to(np.int32)
        return self.k.each(chosen / RUN), j, within - j * columns.to(np.int32)


def runs_above(volumes: Sequence[Value], slices: Value, plane: Value, probability: float) -> Runs:
    """The runs in which the labels 1 … n together may be more probable than this.

    volumes: of each of these labels the probability (k, j, i); so many slices, and voxels in one.
    """
    graph = slices.graph
    rows = [graph.add("Reshape", each, graph.shape(slices, 1, plane), allowzero=1) for each in volumes]
    peaks = [graph.add("MaxPool", each, kernel_shape=[RUN], strides=[RUN], ceil_mode=1) for each in rows]
    where = graph.add("NonZero", graph.add("Greater", functools.reduce(operator.add, peaks), probability))
    k, number = where.at(0).to(np.int32), where.at(2).to(np.int32)
    unbounded = (number * np.int32(RUN)).reshape(-1, 1) + np.arange(RUN, dtype=np.int32)
    inside = graph.add("Less", unbounded, plane.to(np.int32)).flat()
    place = graph.add("Min", unbounded, (plane - 1).to(np.int32))
    index = (place + (k * plane.to(np.int32)).reshape(-1, 1)).flat()
    return Runs(k, place.flat(), index, inside, [each.flat().each(index) for each in volumes])
