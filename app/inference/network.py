"""Network and ModelCard: an ONNX graph and what it says about itself.

The contract: Hounsfield units in, probability on the same grid out. Slices are LPS: rows to posterior,
columns to left. Windowing, equalisation and resizing live inside the graph; no grey value changes here.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from app.errors import BrokenModel, NotReady
from app.imaging.volume import Mask

CONTRACT = "hepaseg/1"

Task = Literal["liver", "lesion", "crf"]
Hounsfield = npt.NDArray[np.int16]
Probability = npt.NDArray[np.float32]
#: Called with the fraction done after every batch; what it raises ends the run.
OnBatch = Callable[[float], None]

#: Of each input or output: name, ONNX type, rank.
Signature = tuple[tuple[str, str, int], ...]
INPUTS: dict[Task, Signature] = {
    "liver": (("hounsfield", "tensor(int16)", 3),),
    "lesion": (("hounsfield", "tensor(int16)", 3), ("liver", "tensor(bool)", 3)),
    "crf": (
        ("probability", "tensor(float)", 3),
        ("hounsfield", "tensor(int16)", 3),
        ("spacing_mm", "tensor(float)", 1),
    ),
}
#: A lesion network that looks at neighbouring slices takes these too: the probability of the wanted slices comes out.
CONTEXT_INPUTS: Signature = (("spacing_mm", "tensor(float)", 1), ("wanted", "tensor(int64)", 1))
OUTPUTS: dict[Task, Signature] = {
    "liver": (("probability", "tensor(float)", 3),),
    "lesion": (("probability", "tensor(float)", 3),),
    "crf": (("refined", "tensor(float)", 3),),
}

#: What ONNX Runtime raises for a file that is no graph, or a graph that it cannot run.
RUNTIME_ERRORS = (
    runtime_errors.Fail,
    runtime_errors.InvalidArgument,
    runtime_errors.InvalidGraph,
    runtime_errors.InvalidProtobuf,
    runtime_errors.NotImplemented,
    runtime_errors.RuntimeException,
    runtime_errors.EPFail,
    runtime_errors.NoSuchFile,
)


@dataclass(frozen=True)
class Runtime:
    """Where and how fast, never what: no field of this changes a label.

    threads: of each network; 0 means as many as this process may use. batch: slices at a time.
    `crf_backend` is for comparison: "none" leaves probabilities unrefined, and "pydensecrf" needs that extra.
    """

    threads: int = 0
    provider: Literal["cpu", "cuda"] = "cpu"
    batch: int = 8
    crf_backend: Literal["onnx", "pydensecrf", "none"] = "onnx"


def _parsed(value: object) -> object:
    return json.loads(value or "{}") if isinstance(value, str) else value


def _empty_is_none(value: object) -> object:
    return None if value == "" else value


JsonObject = Annotated[dict[str, Any], BeforeValidator(_parsed)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class CrfParameters(BaseModel):
    """The constants of a dense CRF: which probabilities it refines, and its two kernels.

    Widths are standard deviations. The same values are folded into the graph; here they are to be read.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    refines: tuple[Literal["liver", "lesion"], ...]
    iterations: int = Field(ge=1, le=50)
    appearance_weight: float = Field(ge=0)
    appearance_mm: float = Field(gt=0)
    appearance_hu: float = Field(gt=0)
    smoothness_weight: float = Field(ge=0)
    smoothness_mm: float = Field(gt=0)


class ContextParameters(BaseModel):
    """How far from a slice, in mm along the scan, a lesion network with CONTEXT_INPUTS looks at others."""

    model_config = ConfigDict(frozen=True, extra="allow")

    context_mm: float = Field(ge=0, le=100)


class ModelCard(BaseModel):
    """What a network says about itself; strings in the file, where an empty one means "not applicable".

    threshold: a voxel belongs if its probability is at least this. roi_margin_mm: around the liver, for the
    region that a lesion network is shown. trained_with: sha256 of the liver network that a lesion network was
    trained behind.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    contract: Literal["hepaseg/1"]
    name: str = Field(min_length=1)
    version: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    task: Task
    threshold: Annotated[float | None, BeforeValidator(_empty_is_none)] = Field(gt=0, lt=1)
    roi_margin_mm: Annotated[float | None, BeforeValidator(_empty_is_none)] = Field(ge=0, le=500)
    labels: str
    preprocessing: str
    trained_on: str
    trained_with: Annotated[Sha256 | None, BeforeValidator(_empty_is_none)]
    metrics: JsonObject
    source_commit: str
    licence: str
    intended_use: str
    parameters: JsonObject = Field(default_factory=dict)

    @model_validator(mode="after")
    def _complete_for_its_task(self) -> Self:
        needed = {"liver": ["threshold"], "lesion": ["threshold", "roi_margin_mm", "trained_with"], "crf": []}
        missing = [name for name in needed[self.task] if getattr(self, name) is None]
        if missing:
            raise ValueError(f"a {self.task} network must state {', '.join(missing)}")
        if self.task == "crf":
            CrfParameters.model_validate(self.parameters)
        return self


class Network:
    """A checked ONNX graph, ready to run.

    graph: the file's bytes (so that what was hashed is what runs); name: of the file, for messages.
    Raises BrokenModel if the graph, its card or its signature is not what the contract says for `task`, and
    NotReady if CUDA was asked for and not got.
    """

    def __init__(self, graph: bytes, sha256: str, name: str, task: Task, runtime: Runtime) -> None:
        self.sha256 = sha256
        self.name = name
        self.runtime = runtime
        self._session = _session(graph, name, runtime)
        self.card = _card(self._session, name)
        if self.card.task != task:
            raise BrokenModel(f"{name}: expected a network for the task {task}, found {self.card.task}.")
        self._context_mm = self._context()
        self._takes = INPUTS[task] if self._context_mm is None else INPUTS[task] + CONTEXT_INPUTS
        _check_signature(name, "inputs", self._takes, self._session.get_inputs())
        _check_signature(name, "outputs", OUTPUTS[task], self._session.get_outputs())
        self._try_once()

    @property
    def providers(self) -> tuple[str, ...]:
        """What ONNX Runtime runs this network on, in order of preference."""
        return tuple(self._session.get_providers())

    def infer(self, **inputs: npt.NDArray[np.generic]) -> Probability:
        """One run of the graph. Raises BrokenModel unless probabilities of the right shape come out."""
        feeds = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        options = onnxruntime.RunOptions()
        if self.card.task == "crf" and self.runtime.provider == "cpu":
            # It runs once a scan on a whole region: what it used would otherwise be held for ever.
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        try:
            (output,) = self._session.run(None, feeds, options)
        except RUNTIME_ERRORS as error:
            raise BrokenModel(f"{self.name}: the graph does not run: {error}") from error
        expected = next(iter(inputs.values())).shape
        if "wanted" in inputs:
            expected = (len(inputs["wanted"]), *expected[1:])
        if output.shape != expected:
            raise BrokenModel(f"{self.name}: expected an output of shape {expected}, found {output.shape}.")
        if output.size and not (output.min() >= 0 and output.max() <= 1):
            raise BrokenModel(f"{self.name}: expected probabilities, found {output.min()} to {output.max()}.")
        probability: Probability = output
        return probability

    def batches(
        self, hounsfield_kji: Hounsfield, liver_kji: Mask | None = None, slice_mm: float | None = None
    ) -> Iterator[tuple[slice, Probability]]:
        """Which slices, and their probability (slices, rows, columns), batch after batch.

        slice_mm: distance of slices; a network that looks at neighbours raises ValueError without it.
        """
        count = len(hounsfield_kji)
        for first in range(0, count, self.runtime.batch):
            part = slice(first, min(first + self.runtime.batch, count))
            yield part, self.infer(**self._feeds(hounsfield_kji, liver_kji, slice_mm, part))

    def _feeds(
        self, hounsfield_kji: Hounsfield, liver_kji: Mask | None, slice_mm: float | None, part: slice
    ) -> dict[str, npt.NDArray[np.generic]]:
        read, feeds = part, dict[str, npt.NDArray[np.generic]]()
        if self._context_mm is not None:
            if slice_mm is None:
                raise ValueError(f"{self.name} looks at neighbouring slices: how far away are they?")
            reach = math.ceil(self._context_mm / slice_mm)
            read = slice(max(0, part.start - reach), min(part.stop + reach, len(hounsfield_kji)))
            feeds["spacing_mm"] = np.array([slice_mm, 1, 1], np.float32)
            feeds["wanted"] = np.arange(part.start - read.start, part.stop - read.start)
        if liver_kji is not None:
            feeds["liver"] = liver_kji[read]
        return {"hounsfield": hounsfield_kji[read], **feeds}

    def run(
        self,
        hounsfield_kji: Hounsfield,
        liver_kji: Mask | None = None,
        slice_mm: float | None = None,
        on_batch: OnBatch | None = None,
    ) -> Probability:
        """Probability of every voxel (K, J, I), batch by batch; the size of the batch does not change it."""
        probability_kji = np.empty(hounsfield_kji.shape, np.float32)
        for part, probability in self.batches(hounsfield_kji, liver_kji, slice_mm):
            probability_kji[part] = probability
            if on_batch is not None:
                on_batch(part.stop / len(hounsfield_kji))
        return probability_kji

    def _context(self) -> float | None:
        """How far a lesion network looks along the scan; None for one that judges each slice alone."""
        declared = {node.name for node in self._session.get_inputs()}
        if self.card.task != "lesion" or not declared & {name for name, _, _ in CONTEXT_INPUTS}:
            return None
        try:
            return ContextParameters.model_validate(self.card.parameters).context_mm
        except ValidationError as error:
            message = f"{self.name}: it takes neighbouring slices, and its card has no valid context_mm."
            raise BrokenModel(message) from error

    def _try_once(self) -> None:
        # odd sizes: a graph with fixed ones shows itself here, not on the first scan
        shape = (3, 37, 29)
        hounsfield = np.linspace(-200, 400, num=int(np.prod(shape))).astype(np.int16).reshape(shape)
        half = np.full(shape, 0.5, np.float32)
        inputs: dict[Task, dict[str, npt.NDArray[np.generic]]] = {
            "liver": {"hounsfield": hounsfield},
            "lesion": self._feeds(hounsfield, hounsfield > 0, 2.5, slice(1, 3)),
            "crf": {
                "probability": half,
                "hounsfield": hounsfield,
                "spacing_mm": np.array([3, 1, 1], np.float32),
            },
        }
        self.infer(**inputs[self.card.task])


def _session(graph: bytes, name: str, runtime: Runtime) -> onnxruntime.InferenceSession:
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[runtime.provider]
    if provider not in onnxruntime.get_available_providers():
        raise NotReady(f"{provider} was asked for, and this ONNX Runtime has none.")
    options = onnxruntime.SessionOptions()
    # affinity, not cpu_count: in a container a process may use fewer cores than the machine has
    options.intra_op_num_threads = runtime.threads or len(os.sched_getaffinity(0))
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = [provider] if runtime.provider == "cpu" else [provider, "CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=providers)
    except RUNTIME_ERRORS as error:
        raise BrokenModel(f"{name}: expected an ONNX graph, found what does not load: {error}") from error
    if provider not in session.get_providers():
        raise NotReady(f"{name}: {provider} was asked for, and only {session.get_providers()} was got.")
    return session


def _card(session: onnxruntime.InferenceSession, name: str) -> ModelCard:
    try:
        return ModelCard.model_validate(session.get_modelmeta().custom_metadata_map)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'card'}: {fault['msg']}" for fault in error.errors())
        raise BrokenModel(f"{name}: expected a card of {CONTRACT}, found faults in it: {faults}") from error


def _check_signature(name: str, what: str, expected: Signature, nodes: list[Any]) -> None:
    found = tuple((node.name, node.type, len(node.shape)) for node in nodes)
    if found != expected:
        raise BrokenModel(f"{name}: expected the {what} {_described(expected)}, found {_described(found)}.")


def _described(signature: Signature) -> str:
    return ", ".join(f"{name} {kind} of rank {rank}" for name, kind, rank in signature) or "none"
