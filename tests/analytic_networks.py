"""Hand-written ONNX graphs that stand in for trained networks, and a models folder made of them.

They threshold Hounsfield units, so on a phantom without noise the whole service has an exact answer. A probability
is one of three values, so that a threshold which is not taken from the card shows:

    SURE 0.9    DOUBTFUL 0.45    NO 0.05        with the cards' threshold of 0.4, a doubtful voxel belongs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from training.onnx_surgery import on_demand

SURE, DOUBTFUL, NO = 0.9, 0.45, 0.05
Range = tuple[float, float]

CARD = {
    "contract": "hepaseg/1",
    "version": "0.0.1",
    "labels": "0 background, 1 liver, 2 lesion",
    "preprocessing": "none",
    "trained_on": "nothing: written by hand for the tests",
    "trained_with": "",
    "metrics": "{}",
    "source_commit": "",
    "licence": "Apache-2.0",
    "intended_use": "tests only",
    "threshold": "0.4",
    "roi_margin_mm": "",
}
CRF_PARAMETERS = {
    "refines": ["liver", "lesion"],
    "iterations": 1,
    "appearance_weight": 0.0,
    "appearance_mm": 1.0,
    "appearance_hu": 1.0,
    "smoothness_weight": 0.0,
    "smoothness_mm": 1.0,
}
HOUNSFIELD = ("hounsfield", TensorProto.INT16, ["slices", "rows", "columns"])
LIVER = ("liver", TensorProto.BOOL, ["slices", "rows", "columns"])
PROBABILITY = ("probability", TensorProto.FLOAT, ["slices", "rows", "columns"])
SPACING = ("spacing_mm", TensorProto.FLOAT, [3])
WANTED = ("wanted", TensorProto.INT64, ["wanted_slices"])
SOME_SLICES = ("probability", TensorProto.FLOAT, ["wanted_slices", "rows", "columns"])
REFINED = ("refined", TensorProto.FLOAT, ["slices", "rows", "columns"])


class GraphWriter:
    """Collects nodes and constants, one method call per node."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value, dtype=np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes) -> str:
        output = output or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def within(self, hounsfield: str, bounds: Range) -> str:
        """Bool: lower <= HU <= upper."""
        low = self.add("GreaterOrEqual", hounsfield, self.constant(bounds[0]))
        return self.add("And", low, self.add("LessOrEqual", hounsfield, self.constant(bounds[1])))

    def position(self, of: str, axis: int, *, from_end: bool = False) -> str:
        """Int64 index along `axis`, shaped to be broadcast over `of`."""
        size = self.add("Gather", self.add("Shape", of), self.constant(axis, np.int64))
        index = self.add("Range", self.constant(0, np.int64), size, self.constant(1, np.int64))
        if from_end:
            last = self.add("Sub", size, self.constant(1, np.int64))
            index = self.add("Sub", last, index)
        shape = [1, 1, 1]
        shape[axis] = -1
        return self.add("Reshape", index, self.constant(shape, np.int64))

    def answer(self, sure: str, doubtful: str | None = None, output: str = "probability") -> None:
        """Bool masks to the output's probability."""
        rest = self.constant(NO)
        if doubtful is not None:
            rest = self.add("Where", doubtful, self.constant(DOUBTFUL), rest)
        self.add("Where", sure, self.constant(SURE), rest, output=output)

    def bytes(self, inputs, outputs, card: Mapping[str, str]) -> bytes:
        graph = helper.make_graph(
            self.nodes,
            "analytic",
            [helper.make_tensor_value_info(*each) for each in inputs],
            [helper.make_tensor_value_info(*each) for each in outputs],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.checker.check_model(model)
        helper.set_model_props(model, dict(card))
        return model.SerializeToString()


def card(task: str, **changes: str) -> dict[str, str]:
    """The metadata of a hand-written network; `changes` are strings, as in the file."""
    own = {"name": f"analytic-{task}", "task": task}
    if task == "lesion":
        own["roi_margin_mm"] = "10"
    if task == "crf":
        own |= {"threshold": "", "parameters": json.dumps(CRF_PARAMETERS)}
    return CARD | own | changes


def liver_graph(
    liver_hu: Range, doubtful_hu: Range = (1, 0), *, blind_on_the_left: bool = False, **changes: str
) -> bytes:
    """Sure of one range of HU, in doubt about another; it may be blind in the patient's left half of the picture."""
    graph = GraphWriter()
    hounsfield = graph.add("Cast", "hounsfield", to=TensorProto.FLOAT)
    sure = graph.within(hounsfield, liver_hu)
    doubtful = graph.within(hounsfield, doubtful_hu)
    if blind_on_the_left:
        nearer_right = graph.add(
            "Less", graph.position("hounsfield", 2), graph.position("hounsfield", 2, from_end=True)
        )
        sure, doubtful = graph.add("And", sure, nearer_right), graph.add("And", doubtful, nearer_right)
    graph.answer(sure, doubtful)
    return graph.bytes([HOUNSFIELD], [PROBABILITY], card("liver", **changes))


def lesion_graph(lesion_hu: Range, doubtful_hu: Range = (1, 0), *, sloppy: bool = False, **changes: str) -> bytes:
    """Lesions by a range of HU: in the liver only, or, if sloppy, wherever that range occurs."""
    graph = GraphWriter()
    hounsfield = graph.add("Cast", "hounsfield", to=TensorProto.FLOAT)
    sure, doubtful = graph.within(hounsfield, lesion_hu), graph.within(hounsfield, doubtful_hu)
    if not sloppy:
        sure, doubtful = graph.add("And", sure, "liver"), graph.add("And", doubtful, "liver")
    graph.answer(sure, doubtful)
    return graph.bytes([HOUNSFIELD, LIVER], [PROBABILITY], card("lesion", **changes))


def growing_graph(task: str, sure_hu: Range, *, lies: bool = False, **changes: str) -> bytes:
    """Sure of one range of HU, and says what its probability grows from: logits on a grid as large as the scan.

    With `lies` the logits it shows are others than those it uses. Of a lesion, zero outside the liver.
    """
    graph = GraphWriter()
    sure = graph.within(graph.add("Cast", "hounsfield", to=TensorProto.FLOAT), sure_hu)
    graph.add("Where", sure, graph.constant(2.0), graph.constant(-3.0), output="logit")
    for axis, name in ((1, "rows"), (2, "columns")):
        position = graph.add("Reshape", graph.position("hounsfield", axis), graph.constant([-1, 1], np.int64))
        across = graph.add("Transpose", position, perm=[1, 0])
        graph.add("Cast", graph.add("Equal", position, across), to=TensorProto.FLOAT, output=name)
    used = graph.add("Neg", "logit") if lies else "logit"
    grown = graph.add("MatMul", graph.add("MatMul", "rows", used), graph.add("Transpose", "columns", perm=[1, 0]))
    inputs = [HOUNSFIELD]
    if task == "lesion":
        inputs.append(LIVER)
        inside = graph.add("Cast", "liver", to=TensorProto.FLOAT)
        graph.add("Mul", graph.add("Sigmoid", grown), inside, output="probability")
    else:
        graph.add("Sigmoid", grown, output="probability")
    shapes = {"logit": ["slices", "rows", "columns"], "rows": ["rows", "rows"], "columns": ["columns", "columns"]}
    outputs = [PROBABILITY, *((name, TensorProto.FLOAT, shape) for name, shape in shapes.items())]
    described = card(task, **changes)
    model = on_demand(onnx.load_from_string(graph.bytes(inputs, outputs, described)), "logit")
    helper.set_model_props(model, described)
    return model.SerializeToString()


def neighbour_graph(lesion_hu: Range, reach_mm: float, **changes: str) -> bytes:
    """A "lesion" in the liver wherever some slice no further away than `reach_mm` has that range of HU there."""
    graph = GraphWriter()
    within = graph.within(graph.add("Cast", "hounsfield", to=TensorProto.FLOAT), lesion_hu)
    flat = graph.add("Reshape", graph.add("Cast", within, to=TensorProto.FLOAT), graph.constant([0, -1], np.int64))
    of = graph.add("Reshape", "wanted", graph.constant([-1, 1], np.int64))
    slices = graph.add("Reshape", graph.position("hounsfield", 0), graph.constant([1, -1], np.int64))
    away = graph.add("Cast", graph.add("Abs", graph.add("Sub", slices, of)), to=TensorProto.FLOAT)
    away_mm = graph.add("Mul", away, graph.add("Gather", "spacing_mm", graph.constant(0, np.int64)))
    near = graph.add("Cast", graph.add("LessOrEqual", away_mm, graph.constant(reach_mm)), to=TensorProto.FLOAT)
    liver = graph.add("Gather", "liver", "wanted", axis=0)
    seen = graph.add("Reshape", graph.add("MatMul", near, flat), graph.add("Shape", liver))
    graph.answer(graph.add("And", graph.add("Greater", seen, graph.constant(0.5)), liver))
    described = card("lesion", **({"parameters": json.dumps({"context_mm": reach_mm})} | changes))
    return graph.bytes([HOUNSFIELD, LIVER, SPACING, WANTED], [SOME_SLICES], described)


def endless_crf_graph() -> bytes:
    """A CRF that takes years over more than eight slices, and changes nothing."""
    graph = GraphWriter()
    slices = graph.add("Gather", graph.add("Shape", "probability"), graph.constant(0, np.int64))
    many = graph.add("Greater", slices, graph.constant(8, np.int64))
    times = graph.add("Where", many, graph.constant(10**15, np.int64), graph.constant(1, np.int64))
    value = (TensorProto.FLOAT, ["slices", "rows", "columns"])
    once = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Identity", ["before"], ["after"])],
        "once",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", *value),
        ],
        [helper.make_tensor_value_info("go_on", TensorProto.BOOL, []), helper.make_tensor_value_info("after", *value)],
    )
    graph.add("Loop", times, graph.constant(True, np.bool_), "probability", output="refined", body=once)
    return graph.bytes([PROBABILITY, HOUNSFIELD, SPACING], [REFINED], card("crf"))


def ruler_graph(rows: tuple[int, int], columns: tuple[int, int], **changes: str) -> bytes:
    """A "lesion" wherever the region's edge is near: in its first and last so many rows and columns.

    It shows how much margin the cascade left around the liver.
    """
    graph = GraphWriter()
    near = []
    for axis, widths in ((1, rows), (2, columns)):
        for width, from_end in zip(widths, (False, True), strict=True):
            position = graph.position("hounsfield", axis, from_end=from_end)
            near.append(graph.add("Less", position, graph.constant(width, np.int64)))
    any_near = near[0]
    for other in near[1:]:
        any_near = graph.add("Or", any_near, other)
    everywhere = graph.add("Or", "liver", graph.add("Not", "liver"))
    graph.answer(graph.add("And", any_near, everywhere))
    return graph.bytes([HOUNSFIELD, LIVER], [PROBABILITY], card("lesion", **changes))


def contrary_graph(**changes: str) -> bytes:
    """A "lesion" wherever the mask it is given says no liver, and in rows that are liver from edge to edge.

    Behind a cascade that gives it the liver of its region, with a margin, no lesion is left.
    """
    graph = GraphWriter()
    mask = graph.add("Cast", "liver", to=TensorProto.FLOAT)
    full_row = graph.add("ReduceMin", mask, graph.constant([2], np.int64), keepdims=1)
    full_row = graph.add("Greater", full_row, graph.constant(0.5))
    unused = graph.add("Less", graph.add("Cast", "hounsfield", to=TensorProto.FLOAT), graph.constant(-1e9))
    graph.answer(graph.add("Or", unused, graph.add("Or", graph.add("Not", "liver"), full_row)))
    return graph.bytes([HOUNSFIELD, LIVER], [PROBABILITY], card("lesion", **changes))


def crf_graph(
    refines: tuple[str, ...] = ("liver", "lesion"),
    *,
    only_hu: Range | None = None,
    only_spacing_mm: tuple[float, float, float] | None = None,
    **changes: str,
) -> bytes:
    """A CRF that changes nothing; or says no outside a range of HU, or everywhere but at one spacing (k, j, i)."""
    graph = GraphWriter()
    refined = graph.add("Identity", "probability")
    if only_hu is not None:
        hounsfield = graph.add("Cast", "hounsfield", to=TensorProto.FLOAT)
        refined = graph.add("Where", graph.within(hounsfield, only_hu), refined, graph.constant(NO))
    if only_spacing_mm is not None:
        error = graph.add("Abs", graph.add("Sub", "spacing_mm", graph.constant(only_spacing_mm)))
        worst = graph.add("ReduceMax", error, graph.constant([0], np.int64), keepdims=0)
        refined = graph.add("Where", graph.add("Less", worst, graph.constant(1e-3)), refined, graph.constant(NO))
    graph.add("Identity", refined, output="refined")
    parameters = json.dumps(CRF_PARAMETERS | {"refines": refines})
    described = card("crf", **({"parameters": parameters} | changes))
    return graph.bytes([PROBABILITY, HOUNSFIELD, SPACING], [REFINED], described)


def write_models(folder: Path, *, liver: bytes, lesion: bytes, crf: bytes | None = None) -> Path:
    """A models folder with these graphs; the lesion network's card is made to name this liver network."""
    folder.mkdir(parents=True, exist_ok=True)
    liver_sha256 = hashlib.sha256(liver).hexdigest()
    graphs = {
        "liver": liver,
        "lesion": with_card(lesion, trained_with=liver_sha256),
        "crf": crf if crf is not None else crf_graph(),
    }
    networks = {}
    for task, graph in graphs.items():
        file = f"{task}-0.0.1.onnx"
        (folder / file).write_bytes(graph)
        networks[task] = {"file": file, "sha256": hashlib.sha256(graph).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps({"contract": "hepaseg/1", "networks": networks}))
    return folder


def with_card(graph: bytes, **changes: str | None) -> bytes:
    """The same graph with entries of its card changed; None removes one."""
    model = onnx.load_from_string(graph)
    properties = {each.key: each.value for each in model.metadata_props}
    properties.update({key: value for key, value in changes.items() if value is not None})
    kept = {key: value for key, value in properties.items() if changes.get(key, "") is not None}
    helper.set_model_props(model, kept)
    return model.SerializeToString()


def phantom_models(folder: Path) -> Path:
    """Networks that segment `training.phantom.abdomen(noise_hu=0)` exactly."""
    from training.phantom import LESION_RANGE_HU, LIVER_RANGE_HU

    return write_models(folder, liver=liver_graph(LIVER_RANGE_HU), lesion=lesion_graph(LESION_RANGE_HU))
