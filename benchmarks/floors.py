"""What the machine allows: arithmetic over its measured matrix product, bytes over its measured bandwidth."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from app.inference.between import every, stride
from app.inference.session import Runtime
from training.networks import MixedUNet
from training.preprocessing import LesionInput, LiverInput
from training.recipes import Task, default

SIZE = 2048


def _median_s(run: Callable[[], object], repeats: int = 7) -> float:
    run()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def product_gflops(precision: str) -> float:
    """10^9 operations a second of ONNX Runtime's matrix product, "float32" or "int8"."""
    left, right, out = (TensorProto.FLOAT,) * 3 if precision == "float32" else (
        TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32,
    )  # fmt: skip
    random = np.random.default_rng(0)
    weight = random.integers(-100, 100, (SIZE, SIZE)).astype(helper.tensor_dtype_to_np_dtype(right))
    operator = "MatMul" if precision == "float32" else "MatMulInteger"
    node = helper.make_node(operator, ["a", "b"], ["c"])
    shape = [SIZE, SIZE]
    graph = helper.make_graph(
        [node], "product", [helper.make_tensor_value_info("a", left, shape)],
        [helper.make_tensor_value_info("c", out, shape)], [numpy_helper.from_array(weight, "b")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = Runtime().cores
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    data = random.integers(0, 100, (SIZE, SIZE)).astype(helper.tensor_dtype_to_np_dtype(left))
    return 2 * SIZE**3 / _median_s(lambda: session.run(None, {"a": data})) / 1e9


def copy_gb_s() -> float:
    """10^9 bytes a second, read and written, of a copy by one thread."""
    source = np.ones(1 << 28, np.uint8)
    target = np.empty_like(source)
    return 2 * source.nbytes / _median_s(lambda: np.copyto(target, source)) / 1e9


def slice_gflop(task: Task) -> float:
    """10^9 operations of the network for one slice; a multiplication and an addition are two."""
    from torch.utils.flop_counter import FlopCounterMode

    recipe = default(task)
    channels = LiverInput.channels if task == "liver" else LesionInput.channels
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        MixedUNet(channels, recipe.width).eval()(torch.zeros(1, channels, recipe.size, recipe.size))
    return float(counted.get_total_flops()) / 1e9


def looked_at(task: Task, slices: int, slice_mm: float) -> int:
    """How many of the slices the network looks at, as the recipe that is shipped says."""
    return len(every(range(slices), stride(default(task).step_mm, slice_mm, slices)))


def floor_s(shape: tuple[int, int, int], slice_mm: float, liver_slices: int, precision: str) -> dict[str, float]:
    """Seconds: the networks' arithmetic, and the scan read twice and the three label files written once.

    liver_slices: how many of the slices hold liver.
    """
    seen: dict[Task, int] = {"liver": shape[2], "lesion": liver_slices}
    work = sum(looked_at(task, slices, slice_mm) * slice_gflop(task) for task, slices in seen.items())
    moved = math.prod(shape) * (2 * 2 + 1 + 1 + 2) / 1e9
    return {"arithmetic": work / product_gflops(precision), "bytes": moved / copy_gb_s()}
