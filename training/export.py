"""A trained network → an ONNX file that takes Hounsfield units, knows itself, and gives what PyTorch gives.

Shapes: S slices, R rows, C columns of the scan; h, w the working size.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from training.eight_bit import eight_bit
from training.loop import build
from training.manifest import CONTRACT, register, registered, sha256_of, write_atomically
from training.networks import MixedUNet
from training.onnx_surgery import on_demand
from training.preprocessing import CONTEXT_MM, PLANES_MM, SLAB_MM, shares, slabs
from training.recipes import Recipe, Task

#: Largest difference between PyTorch and ONNX Runtime that is still a rounding error.
PARITY_TOLERANCE = 1e-4
#: Slices, rows, columns at which parity is checked: odd, small, large, not square.
PARITY_SHAPES = ((1, 37, 29), (3, 255, 193), (2, 512, 512), (9, 301, 215))
OPSET = 18
KEYS = (
    "contract", "name", "version", "task", "threshold", "roi_margin_mm", "labels", "preprocessing", "trained_on",
    "trained_with", "metrics", "source_commit", "licence", "intended_use",
)  # fmt: skip


class NotExported(RuntimeError):
    """The network must not be shipped: it is in training mode, its card has gaps, or ONNX Runtime disagrees."""


@dataclass(frozen=True)
class CardText:
    """What the file says about itself beyond what the recipe knows."""

    version: str
    threshold: float
    trained_on: str
    peak_threshold: float | None = None
    trained_with: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    licence: str = "CC-BY-SA-4.0"
    intended_use: str = (
        "Research use on adult abdominal CT. Not a medical device: every result needs a radiologist's review."
    )


class Answer(NamedTuple):
    """What a graph gives, float32; probability = sigmoid(rows @ logit @ columns.T), of a lesion zero outside the liver.

    probability (N, R, C); logit (N, h, w) on the working grid; rows (R, h) and columns (C, w): by how much each row and
    column of it adds to each of the scan.
    """

    probability: Tensor
    logit: Tensor
    rows: Tensor
    columns: Tensor


def _answer(logit_N1hw: Tensor, hounsfield: Tensor) -> Answer:
    logit_Nhw = logit_N1hw[:, 0]
    rows = shares(logit_Nhw.shape[1], hounsfield.shape[1])
    columns = shares(logit_Nhw.shape[2], hounsfield.shape[2])
    return Answer((rows @ logit_Nhw @ columns.transpose(0, 1)).sigmoid(), logit_Nhw, rows, columns)


class LiverGraph(nn.Module):
    """int16 HU (S, R, C) → probability of liver, float32, same shape, and what it was grown from."""

    def __init__(self, prepare: nn.Module, network: MixedUNet) -> None:
        super().__init__()
        self.prepare, self.network = prepare, network

    def forward(self, hounsfield: Tensor) -> Answer:
        """Of all slices."""
        return _answer(self.network(self.prepare(hounsfield)), hounsfield)


class LesionGraph(nn.Module):
    """int16 HU and liver (bool), both (S, R, C) of the region → probability of lesion (N, R, C) of the wanted slices.

    spacing_mm: float32 (3,), along slices, rows, columns. wanted: int64 (N,), indices of slices; the others are only
    looked at. Zero outside the liver.
    """

    def __init__(self, prepare: nn.Module, network: MixedUNet) -> None:
        super().__init__()
        self.prepare, self.network = prepare, network

    def forward(self, hounsfield: Tensor, liver: Tensor, spacing_mm: Tensor, wanted: Tensor) -> Answer:
        """Of the wanted slices."""
        inside = liver.index_select(0, wanted)
        answer = _answer(self.network(self.prepare(slabs(hounsfield, wanted, spacing_mm[0]), inside)), hounsfield)
        return answer._replace(probability=answer.probability * inside.to(torch.float32))


def folded(network: MixedUNet) -> MixedUNet:
    """The same network in evaluation mode with every normalisation folded into the convolution before it."""
    network = network.eval()
    for block in (*network.encoders, network.bottleneck, *network.decoders):
        layers = list(block.children())
        for at, layer in enumerate(layers):
            if isinstance(layer, nn.BatchNorm2d):
                convolution = layers[at - 1]
                assert isinstance(convolution, nn.Conv2d)
                layers[at - 1] = nn.utils.fusion.fuse_conv_bn_eval(convolution, layer)
                layers[at] = nn.Identity()
        assert isinstance(block, nn.Sequential)
        for at, layer in enumerate(layers):
            block[at] = layer
    return network


def averaged(recipe: Recipe, checkpoint: Path) -> MixedUNet:
    """The network with the averaged weights of a checkpoint."""
    _, network = build(recipe)
    network.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["average"])
    return network


def trained(recipe: Recipe, checkpoint: Path) -> LiverGraph | LesionGraph:
    """The graph with the averaged weights of a checkpoint, folded, in evaluation mode."""
    prepare, _ = build(recipe)
    network = averaged(recipe, checkpoint)
    graph = LiverGraph(prepare, folded(network)) if recipe.task == "liver" else LesionGraph(prepare, folded(network))
    return graph.eval()


def _example(task: str, shape: tuple[int, int, int], seed: int) -> tuple[Tensor, ...]:
    """A slice-like input: smooth blobs, air around, noise; the liver of stage two is one of the blobs."""
    random = np.random.default_rng(seed)
    y, x = np.meshgrid(np.linspace(-1, 1, shape[1]), np.linspace(-1, 1, shape[2]), indexing="ij")
    body = np.where(x**2 + y**2 < 0.7, 60.0, -1000.0) + 80 * np.exp(-((x + 0.3) ** 2 + y**2) * 8)
    hounsfield = (body[None] + random.normal(0, 20, shape)).astype(np.int16)
    liver = np.broadcast_to((x + 0.3) ** 2 + y**2 < 0.15, shape)
    if task == "liver":
        return (torch.from_numpy(hounsfield),)
    spacing_mm, wanted = torch.tensor([1.0 + seed, 0.8, 0.8]), torch.arange(shape[0] // 2, shape[0])
    return torch.from_numpy(hounsfield), torch.from_numpy(liver.copy()), spacing_mm, wanted


def graph_bytes(graph: LiverGraph | LesionGraph, recipe: Recipe) -> onnx.ModelProto:
    """The ONNX model with dynamic slices, rows and columns. Raises NotExported in training mode."""
    if graph.training or any(module.training for module in graph.modules()):
        raise NotExported("the network is in training mode: its randomness would be exported")
    region = {0: torch.export.Dim("slices"), 1: torch.export.Dim("rows"), 2: torch.export.Dim("columns")}
    axes = {"hounsfield": region}
    if recipe.task == "lesion":
        axes |= {"liver": region, "spacing_mm": {}, "wanted": {0: torch.export.Dim("wanted_slices")}}
    program = torch.onnx.export(
        graph, _example(recipe.task, (7, 131, 117), 0), input_names=list(axes), output_names=list(Answer._fields),
        dynamic_shapes=tuple(axes.values()), dynamo=True, opset_version=OPSET, external_data=False, verbose=False,
    )  # fmt: skip
    assert program is not None
    return on_demand(program.model_proto, "logit")


def check_parity(model: onnx.ModelProto, graph: nn.Module, task: str) -> float:
    """The largest difference to PyTorch over all the parity shapes; raises NotExported above the tolerance."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    worst = 0.0
    for seed, shape in enumerate(PARITY_SHAPES):
        inputs = _example(task, shape, seed)
        with torch.no_grad():
            expected: npt.NDArray[np.float32] = graph(*inputs).probability.numpy()
        feeds = {node.name: value.numpy() for node, value in zip(session.get_inputs(), inputs, strict=True)}
        (found,) = session.run(["probability"], feeds)
        worst = max(worst, float(np.abs(found - expected).max()))
    if not worst <= PARITY_TOLERANCE:
        raise NotExported(f"ONNX Runtime and PyTorch differ by {worst:.2e}, more than {PARITY_TOLERANCE:.0e}")
    return worst


def source_commit() -> str:
    """The commit that the code was at, with "+" if files had changed; "unknown" outside a repository."""
    asked = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty=+",
        "--abbrev=40",
        "--exclude=*",
    ]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "unknown"


def preprocessing_text(recipe: Recipe) -> str:
    """One sentence that says what the graph does to Hounsfield units."""
    lower, upper = recipe.window_hu
    size = f"{recipe.size}x{recipe.size}"
    if recipe.task == "lesion" and not recipe.equalise_first:
        return (
            f"inside the graph: Gaussian averages along the scan (sigma {SLAB_MM:g} mm) at {PLANES_MM} mm from the "
            f"slice, window {lower:g}..{upper:g} HU, resize to {size}, 256-level equalisation over the liver's pixels "
            "of the slice beside HU of the three planes relative to the liver's mean, liver mask"
        )
    order = (
        f"256-level equalisation, resize to {size}"
        if recipe.equalise_first
        else f"resize to {size}, 256-level equalisation"
    )
    masked = " with all but the liver black" if recipe.task == "lesion" else ""
    return f"inside the graph: window {lower:g}..{upper:g} HU, {order}{masked}, all per slice"


def card_of(recipe: Recipe, text: CardText) -> dict[str, str]:
    """The metadata, all strings. Raises NotExported if a value that the contract needs is empty."""
    lesion = recipe.task == "lesion"
    card = {
        "contract": CONTRACT,
        "name": f"hepaseg-{recipe.task}-{recipe.name}",
        "version": text.version,
        "task": recipe.task,
        "threshold": repr(text.threshold),
        "peak_threshold": "" if text.peak_threshold is None else repr(text.peak_threshold),
        "roi_margin_mm": repr(recipe.roi_margin_mm) if lesion else "",
        "step_mm": repr(recipe.step_mm) if recipe.step_mm else "",
        "labels": "lesion" if lesion else "liver, lesions included",
        "preprocessing": preprocessing_text(recipe),
        "trained_on": text.trained_on,
        "trained_with": text.trained_with,
        "metrics": json.dumps(text.metrics, sort_keys=True),
        "training": json.dumps(text.training, sort_keys=True),
        "source_commit": source_commit(),
        "licence": text.licence,
        "intended_use": text.intended_use,
        "parameters": json.dumps({"context_mm": CONTEXT_MM} if lesion else {}),
    }
    optional = set() if lesion else {"roi_margin_mm", "trained_with"}
    missing = [key for key in KEYS if not card[key] and key not in optional]
    if missing:
        raise NotExported(f"the card says nothing about {', '.join(missing)}")
    return card


def _forget_traces(graph: onnx.GraphProto) -> None:
    """Remove what the exporter notes on everything: which lines of which files, on which machine, made it."""
    for noted in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del noted.metadata_props[:]
    for branch in (attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")):
        _forget_traces(branch)


def with_card(model: onnx.ModelProto, card: dict[str, str]) -> bytes:
    """The model's bytes with the card as its only metadata, in a fixed order."""
    del model.metadata_props[:]
    _forget_traces(model.graph)
    onnx.helper.set_model_props(model, card)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def export(
    recipe: Recipe, checkpoint: Path, text: CardText, models_dir: Path, images_BCHW: Tensor | None = None
) -> Path:
    """Write `TASK-VERSION.onnx` and its manifest entry; nothing is written if a check fails.

    images: what the network sees of slices of training patients; with them `TASK-VERSION-int8.onnx` is written too.
    """
    card_of(recipe, text)  # a gap shows itself before anything else is done
    return written(trained(recipe, checkpoint), recipe, text, models_dir, images_BCHW)


def written(
    graph: LiverGraph | LesionGraph,
    recipe: Recipe,
    text: CardText,
    models_dir: Path,
    images_BCHW: Tensor | None = None,
) -> Path:
    """The same of a graph at hand."""
    card = card_of(recipe, text)
    model = graph_bytes(graph, recipe)
    check_parity(model, graph, recipe.task)
    small = None if images_BCHW is None else eight_bit(model, graph.network, images_BCHW)
    models_dir.mkdir(parents=True, exist_ok=True)
    path = models_dir / f"{recipe.task}-{text.version}.onnx"
    write_atomically(path, with_card(model, card))
    if small is None:
        register(models_dir, recipe.task, path.name)
        return path
    int8 = path.with_name(f"{path.stem}-int8.onnx")
    write_atomically(int8, with_card(small, card | {"int8_of": sha256_of(path)}))
    register(models_dir, recipe.task, path.name, int8.name)
    return path


def recarded(models_dir: Path, task: Task, changes: dict[str, str]) -> None:
    """Write new values into the card of an exported network and of its 8-bit form: weights stay as they are."""
    entry = registered(models_dir)[task]
    path = models_dir / entry["file"]
    _recard(path, changes)
    if "int8" not in entry:
        register(models_dir, task, path.name)
        return
    int8 = models_dir / entry["int8"]["file"]
    _recard(int8, changes | {"int8_of": sha256_of(path)})
    register(models_dir, task, path.name, int8.name)


def _recard(path: Path, changes: dict[str, str]) -> None:
    model = onnx.load(path)
    card = {entry.key: entry.value for entry in model.metadata_props} | changes
    write_atomically(path, with_card(model, card))
