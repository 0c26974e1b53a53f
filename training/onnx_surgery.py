"""Cuts in exported graphs: exchange a part, or compute some outputs only when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

#: The input that says whether what `on_demand` set apart is computed: true unless it is given.
SWITCH = "grow"


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """The edges that a node takes, those that its subgraphs take from outside among them."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            inside = {name for inner in attribute.g.node for name in inner.output}
            yield from (name for inner in attribute.g.node for name in reads(inner) if name not in inside)
            yield from (output.name for output in attribute.g.output if output.name not in inside)


def needed_for(nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """Those of the nodes, in their order, without which the outputs cannot be computed."""
    wanted = set(outputs)
    kept = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(reads(node))
    return kept[::-1]


def exchanged(
    model: onnx.ModelProto, made: str, nodes: Sequence[onnx.NodeProto], constants: Sequence[onnx.TensorProto]
) -> onnx.ModelProto:
    """A copy of the model in which the edge `made` comes from `nodes`; what nothing needs any more is left out."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    at = next(n for n, node in enumerate(graph.node) if made in node.output)
    in_order = [*graph.node[:at], *nodes, *graph.node[at + 1 :]]
    kept = needed_for(in_order, [output.name for output in graph.output])
    used = {name for node in kept for name in reads(node)} | {entry.name for entry in graph.input}
    initializers = [each for each in (*graph.initializer, *constants) if each.name in used]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(kept)
    graph.initializer.extend(initializers)
    return changed


def on_demand(model: onnx.ModelProto, always: str) -> onnx.ModelProto:
    """A copy of the model that computes its outputs other than `always` only if the input SWITCH is true, as it is by
    default; else they come out empty.

    ONNX Runtime runs the whole graph whatever outputs are asked for; a branch is what it can leave out.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    apart = [output for output in graph.output if output.name != always]
    main = needed_for(graph.node, [always])
    branch = [node for node in needed_for(graph.node, [output.name for output in apart]) if node not in main]
    then = helper.make_graph(branch, "grown", [], [_renamed(output) for output in apart])
    for node in then.node:
        node.output[:] = [_inner(name) if name in {o.name for o in apart} else name for name in node.output]
        node.input[:] = [_inner(name) if name in {o.name for o in apart} else name for name in node.input]
    choice = helper.make_node(
        "If", [SWITCH], [output.name for output in apart], then_branch=then, else_branch=_nothing(apart)
    )
    del graph.node[:], graph.value_info[:]
    graph.node.extend([*main, choice])
    graph.input.append(helper.make_tensor_value_info(SWITCH, TensorProto.BOOL, []))
    graph.initializer.append(numpy_helper.from_array(np.array(True), SWITCH))
    onnx.checker.check_model(changed)
    return changed


def _inner(name: str) -> str:
    return f"{name}_inside"


def _renamed(output: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    renamed = onnx.ValueInfoProto()
    renamed.CopyFrom(output)
    renamed.name = _inner(output.name)
    return renamed


def _nothing(outputs: Sequence[onnx.ValueInfoProto]) -> onnx.GraphProto:
    """A branch that gives arrays without elements."""
    empty, nodes = [], []
    for output in outputs:
        sizes = [axis.dim_value for axis in output.type.tensor_type.shape.dim]
        tensor = numpy_helper.from_array(np.zeros(sizes, np.float32))
        nodes.append(helper.make_node("Constant", [], [f"{output.name}_none"], value=tensor))
        empty.append(helper.make_tensor_value_info(f"{output.name}_none", TensorProto.FLOAT, sizes))
    return helper.make_graph(nodes, "nothing", [], empty)
