"""What a network must say about itself, and what happens to one that does not."""

import json
import threading
from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from app.errors import BrokenModel, Canceled, NotReady
from app.inference.field import EVERYWHERE
from app.inference.network import ModelCard, Network, Runtime
from app.inference.resident import Resident
from app.inference.search import Search
from tests.analytic_networks import (
    CRF_PARAMETERS,
    GraphWriter,
    card,
    crf_graph,
    endless_crf_graph,
    growing_graph,
    lesion_graph,
    liver_graph,
    neighbour_graph,
    with_card,
)
from tests.waiting import PATIENCE_S

RUNTIME = Runtime(threads=1, batch=3)
LIVER = liver_graph((50, 150))
LESION = with_card(lesion_graph((0, 40)), trained_with="0" * 64)


def network(graph: bytes, task="liver", runtime=RUNTIME) -> Network:
    return Network(graph, "f" * 64, "file.onnx", task, runtime)


def signature(inputs, outputs) -> bytes:
    graph = GraphWriter()
    for name, kind, shape in outputs:
        ones = graph.constant(np.full([1] * len(shape), 0.5))
        graph.add("Cast", graph.add("Mul", graph.add("Cast", inputs[0][0], to=1), ones), to=kind, output=name)
    return graph.bytes(inputs, outputs, card("liver"))


def test_the_card_holds_what_the_file_says():
    metrics = json.dumps({"dice": {"mean": 0.93}})
    found = network(with_card(LIVER, metrics=metrics, version="2.3.4", remark="hello")).card
    assert (found.task, found.version, found.threshold) == ("liver", "2.3.4", 0.4)
    assert found.metrics == {"dice": {"mean": 0.93}}
    assert found.roi_margin_mm is None
    assert found.model_extra == {"remark": "hello"}


def test_a_card_written_as_json_is_read_back_the_same():
    for found in (network(LIVER).card, network(LESION, "lesion").card, network(crf_graph(), "crf").card):
        assert ModelCard.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize("missing", sorted(set(card("liver"))))
def test_a_card_without_one_of_its_fields_is_refused(missing):
    with pytest.raises(BrokenModel, match=missing):
        network(with_card(LIVER, **{missing: None}))


@pytest.mark.parametrize(
    ("graph", "task", "changes"),
    [
        (LIVER, "liver", {"threshold": ""}),
        (LIVER, "liver", {"threshold": "1.5"}),
        (LIVER, "liver", {"threshold": "nan"}),
        (LESION, "lesion", {"peak_threshold": "0.3"}),  # below its threshold
        (LESION, "lesion", {"peak_threshold": "1"}),
        (LIVER, "liver", {"peak_threshold": "0.9"}),  # which nothing would look at
        (LIVER, "liver", {"version": "one"}),
        (LIVER, "liver", {"metrics": "[1]"}),
        (LIVER, "liver", {"metrics": "{"}),
        (LIVER, "liver", {"contract": "hepaseg/2"}),
        (LIVER, "liver", {"name": ""}),
        (LESION, "lesion", {"roi_margin_mm": ""}),
        (LESION, "lesion", {"roi_margin_mm": "-1"}),
        (LESION, "lesion", {"trained_with": ""}),
        (LESION, "lesion", {"trained_with": "../etc"}),
        (crf_graph(), "crf", {"parameters": ""}),
        (crf_graph(("spleen",)), "crf", {"remark": "parameters"}),
    ],
)
def test_a_card_with_a_wrong_value_is_refused_and_the_field_named(graph, task, changes):
    field = next(iter(changes)) if "remark" not in changes else "refines"
    with pytest.raises(BrokenModel, match=rf"file\.onnx: expected a card .*({field}|refines|card)"):
        network(with_card(graph, **changes), task)


def test_a_network_for_another_task_is_refused():
    with pytest.raises(BrokenModel, match="expected a network for the task lesion, found liver"):
        network(LIVER, "lesion")


@pytest.mark.parametrize("graph", [b"", b"not a graph", LIVER[: len(LIVER) // 2]])
def test_what_is_no_graph_is_refused(graph):
    with pytest.raises(BrokenModel, match=r"file\.onnx: expected"):
        network(graph)


HU = ("hounsfield", TensorProto.INT16, ["s", "r", "c"])
OUT = ("probability", TensorProto.FLOAT, ["s", "r", "c"])


@pytest.mark.parametrize(
    ("inputs", "outputs", "what"),
    [
        ([("image", *HU[1:])], [OUT], "image"),
        ([("hounsfield", TensorProto.FLOAT, HU[2])], [OUT], "float"),
        ([("hounsfield", TensorProto.INT16, ["b", 1, "r", "c"])], [(*OUT[:2], ["b", 1, "r", "c"])], "rank 4"),
        ([HU, ("liver", TensorProto.BOOL, HU[2])], [OUT], "liver"),
        ([HU], [("logit", *OUT[1:])], "logit"),
        ([HU], [("probability", TensorProto.FLOAT16, OUT[2])], "float16"),
        ([HU], [OUT, ("second", *OUT[1:])], "second"),
    ],
)
def test_a_graph_with_another_signature_is_refused(inputs, outputs, what):
    with pytest.raises(BrokenModel, match=rf"expected the (in|out)puts .* found .*{what}"):
        network(signature(inputs, outputs))


def test_a_graph_of_fixed_size_is_refused():
    model = onnx.load_from_string(LIVER)
    for axis in (1, 2):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 96
    with pytest.raises(BrokenModel, match="does not run"):
        network(model.SerializeToString())


@pytest.mark.parametrize("value", [float("nan"), 1.01, -0.01])
def test_a_graph_that_gives_no_probabilities_is_refused(value):
    graph = GraphWriter()
    zero = graph.add("Mul", graph.add("Cast", "hounsfield", to=1), graph.constant(0))
    graph.add("Add", zero, graph.constant(value), output="probability")
    with pytest.raises(BrokenModel, match="expected probabilities"):
        network(graph.bytes([HU], [OUT], card("liver")))


def test_a_graph_whose_output_has_another_shape_is_refused():
    graph = GraphWriter()
    half = graph.add("Mul", graph.add("Cast", "hounsfield", to=1), graph.constant(0))
    graph.add("Transpose", half, perm=[0, 2, 1], output="probability")
    with pytest.raises(BrokenModel, match="expected an output of shape"):
        network(graph.bytes([HU], [("probability", TensorProto.FLOAT, ["s", "c", "r"])], card("liver")))


def test_a_probability_that_does_not_grow_from_what_is_shown_is_refused():
    network(growing_graph("liver", (50, 150)))
    with pytest.raises(
        BrokenModel, match=r"file\.onnx: the probability lies .* from what its logit, rows and columns give"
    ):
        network(growing_graph("liver", (50, 150), lies=True))


@pytest.mark.parametrize("task", ["liver", "lesion"])
@pytest.mark.parametrize("batch", [1, 3, 20])
def test_what_grows_is_what_the_graph_gives_whole(task, batch):
    hounsfield = np.random.default_rng(3).integers(0, 200, (8, 5, 7)).astype(np.int16)
    inputs = [hounsfield]
    if task == "lesion":
        inputs.append(hounsfield > 20)
        inputs[1][2:5] = False
    graph = growing_graph(task, (50, 150), roi_margin_mm="10", trained_with="0" * 64)
    growing = network(graph, task, Runtime(threads=2, batch=batch))
    fractions = []
    field = growing.field(*inputs, on_batch=fractions.append)
    whole = growing.run(*inputs)
    assert np.abs(field.within((slice(None),) * 3) - whole).max() < 1e-6
    assert np.array_equal(field.at_least(0.4), whole >= 0.4)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def noted_windows(monkeypatch) -> list[slice]:
    windows: list[slice] = []
    run = Resident.run

    def noted(self, session, outputs, window, *rest):
        windows.append(window)
        return run(self, session, outputs, window, *rest)

    monkeypatch.setattr(Resident, "run", noted)
    return windows


@pytest.fixture
def on_device(monkeypatch):
    """What a GPU does with its own memory, done with that of the CPU."""
    return lambda: monkeypatch.setattr(Runtime, "device", "cpu")


@pytest.mark.parametrize("task", ["liver", "lesion"])
@pytest.mark.parametrize("batch", [1, 3, 8, 20])
def test_a_scan_that_is_uploaded_once_gives_the_same_in_batches_of_one_size(task, batch, on_device, monkeypatch):
    hounsfield = np.random.default_rng(3).integers(0, 200, (8, 5, 7)).astype(np.int16)
    inputs = [hounsfield]
    if task == "lesion":
        inputs.append(hounsfield > 20)
        inputs[1][[0, 3, 4]] = False
    graph = growing_graph(task, (50, 150), roi_margin_mm="10", trained_with="0" * 64)
    expected = network(graph, task, Runtime(threads=1, batch=batch)).field(*inputs)
    on_device()
    windows = noted_windows(monkeypatch)
    fractions: list[float] = []
    search = Search(0.4, 2, 1, 1.0) if task == "liver" else None
    found = network(graph, task, Runtime(threads=1, batch=batch)).field(
        *inputs, on_batch=fractions.append, search=search
    )
    assert np.array_equal(found.at_least(0.4), expected.at_least(0.4))
    assert np.array_equal(found.within(EVERYWHERE), expected.within(EVERYWHERE))
    assert {window.stop - window.start for window in windows} == {batch}
    assert fractions[-1] == 1.0


@pytest.mark.parametrize("task", ["liver", "lesion"])
@pytest.mark.parametrize(("slice_mm", "step"), [(0.3, 5), (0.5, 3), (0.75, 2), (0.8, 1), (2.5, 1)])
@pytest.mark.parametrize("on", ["processor", "device"])
def test_of_thin_slices_some_are_looked_at_and_those_between_are_interpolated(
    task, slice_mm, step, on, on_device, monkeypatch
):
    monkeypatch.setattr("app.inference.between.FEWEST", 3)
    hounsfield = np.random.default_rng(4).integers(0, 200, (23, 5, 7)).astype(np.int16)
    inputs = [hounsfield]
    seen = np.arange(23)
    if task == "lesion":
        seen = np.arange(3, 19)
        inputs.append(hounsfield > -1)
        inputs[1][[0, 1, 2, 19, 20, 21, 22]] = False
    graph = growing_graph(task, (50, 150), roi_margin_mm="10", trained_with="0" * 64)
    every_one = network(graph, task).field(*inputs).within(EVERYWHERE).astype(np.float64)
    if on == "device":
        on_device()
    thrifty = network(with_card(graph, step_mm="1.5"), task, Runtime(threads=1, batch=4))
    calls: list[float] = []
    found = thrifty.field(*inputs, slice_mm=slice_mm, on_batch=calls.append).within(EVERYWHERE)
    looked_at = seen[(len(seen) - 1) % step // 2 :: step]
    assert len(calls) == -(-len(looked_at) // 4)
    logit = np.log(every_one[looked_at] / (1 - every_one[looked_at]))
    expected = np.zeros(hounsfield.shape)
    for j, i in np.ndindex(5, 7):
        expected[seen, j, i] = 1 / (1 + np.exp(-np.interp(seen, looked_at, logit[:, j, i])))
    assert np.abs(found - expected).max() < 1e-5


def test_of_a_stack_without_liver_nothing_grows():
    graph = growing_graph("lesion", (50, 150), roi_margin_mm="10", trained_with="0" * 64)
    field = network(graph, "lesion").field(np.full((4, 5, 6), 100, np.int16), np.zeros((4, 5, 6), bool))
    assert not field.at_least(0.1).any()


def test_a_whole_volume_is_run_in_batches_without_losing_a_slice():
    hounsfield = np.random.default_rng(1).integers(0, 200, (8, 5, 7)).astype(np.int16)
    fractions = []
    probability = network(LIVER).run(hounsfield, on_batch=fractions.append)
    assert np.array_equal(probability > 0.5, (hounsfield >= 50) & (hounsfield <= 150))
    assert probability.dtype == np.float32
    assert fractions == [3 / 8, 6 / 8, 1.0]


@pytest.mark.parametrize("slice_mm", [0.7, 2.5, 10.0])
@pytest.mark.parametrize("batch", [1, 3, 50])
def test_a_network_sees_its_neighbouring_slices_whatever_the_batch_and_the_spacing(slice_mm, batch):
    hounsfield = np.random.default_rng(2).integers(0, 1000, (23, 4, 5)).astype(np.int16)
    liver = hounsfield % 3 > 0
    graph = with_card(neighbour_graph((0, 40), 6.0), trained_with="0" * 64)
    found = network(graph, "lesion", Runtime(threads=1, batch=batch)).run(hounsfield, liver, slice_mm)
    expected = [
        (hounsfield[[m for m in range(23) if abs(m - k) * slice_mm <= 6.0]] <= 40).any(axis=0) for k in range(23)
    ]
    assert np.array_equal(found > 0.5, np.array(expected) & liver)


def test_a_network_that_looks_at_neighbours_wants_to_know_how_far_away_they_are():
    graph = with_card(neighbour_graph((0, 40), 6.0), trained_with="0" * 64)
    some = np.zeros((3, 4, 5), np.int16)
    with pytest.raises(ValueError, match="how far away"):
        network(graph, "lesion").run(some, some == 0)


@pytest.mark.parametrize("parameters", ["{}", '{"context_mm": -1}', '{"context_mm": "far"}'])
def test_a_network_that_does_not_say_how_far_it_looks_is_refused(parameters):
    graph = with_card(neighbour_graph((0, 40), 6.0, parameters=parameters), trained_with="0" * 64)
    with pytest.raises(BrokenModel, match="context_mm"):
        network(graph, "lesion")


def test_views_of_any_memory_order_give_the_same_answer():
    hounsfield = np.random.default_rng(1).integers(0, 200, (7, 5, 8)).astype(np.int16).T[:, ::-1]
    liver = hounsfield > 20
    found = network(LESION, "lesion").run(hounsfield, liver)
    assert np.array_equal(found > 0.5, liver & (hounsfield <= 40))


def test_what_the_callback_raises_ends_the_run():
    def cancel(fraction: float) -> None:
        raise Canceled("Canceled.")

    with pytest.raises(Canceled):
        network(LIVER).run(np.zeros((9, 4, 4), np.int16), on_batch=cancel)


def test_a_run_that_is_ended_computes_no_further_batch():
    entered: list[int] = []
    ended = threading.Event()

    def compute(slices: Sequence[int]) -> None:
        entered.append(slices[0])
        if slices[0]:
            ended.wait(PATIENCE_S)  # at work until the first batch has been told

    def cancel(fraction: float) -> None:
        threading.Timer(0.5, ended.set).start()
        raise Canceled("Canceled.")

    with pytest.raises(Canceled):
        network(LIVER, runtime=Runtime(threads=2))._each(range(400), compute, cancel)
    assert len(entered) <= 3


def test_a_long_run_of_the_crf_ends_when_it_is_told_to_and_harms_no_other():
    probability = np.random.default_rng(1).random((9, 5, 4), np.float32)
    crf = network(endless_crf_graph(), "crf")
    rest = {"hounsfield": np.zeros_like(probability, np.int16), "spacing_mm": np.ones(3, np.float32)}
    asked: list[int] = []

    def cancel() -> None:
        asked.append(1)
        if len(asked) > 2:
            raise Canceled("Canceled.")

    with pytest.raises(Canceled):
        crf.infer(cancel, probability=probability, **rest)
    assert len(asked) == 3
    few = {"probability": probability[:8], "hounsfield": rest["hounsfield"][:8]}
    assert np.array_equal(crf.infer(**few, spacing_mm=rest["spacing_mm"]), probability[:8])


def test_a_gpu_that_is_asked_for_and_absent_is_never_replaced_in_silence():
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(NotReady, match="CUDAExecutionProvider"):
        network(LIVER, runtime=Runtime(provider="cuda"))


def test_a_network_tells_where_it_runs():
    assert network(LIVER).providers == ("CPUExecutionProvider",)


def test_a_graph_may_not_read_other_files():
    model = onnx.load_from_string(LIVER)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "../../etc/passwd"), ("offset", "0"), ("length", "4")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    with pytest.raises(BrokenModel):
        network(model.SerializeToString())


def test_the_parameters_of_a_crf_are_read_from_its_card():
    assert network(crf_graph(("lesion",)), "crf").card.parameters == CRF_PARAMETERS | {"refines": ["lesion"]}
