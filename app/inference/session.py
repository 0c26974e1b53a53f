"""ONNX Runtime sessions: on what, with how many threads, and how memory is kept."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors

from app.errors import BrokenModel, NotReady

T = TypeVar("T")
Provider = Literal["cpu", "cuda", "tensorrt"]

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
#: How often a long run asks whether it shall go on.
_ASK_EVERY_S = 0.25
_NAMES: dict[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_ON_GPU: dict[str, Any] = {
    # grown by what is asked for, not doubled: two processes can share a card, and a scan's peak is known
    "arena_extend_strategy": "kSameAsRequested",
    # shapes are fixed, so that the search is made once for each
    "cudnn_conv_algo_search": "EXHAUSTIVE",
}


@dataclass(frozen=True)
class Runtime:
    """Where and how fast, never what.

    threads: 0 means as many as this process may use. batch: slices at a time; 0 lets the provider decide.
    precision: "int8" has a CPU with VNNI run a network's 8-bit form where there is one; "float32" never.
    `crf_backend` is for comparison: "none" leaves probabilities unrefined, and "pydensecrf" needs that extra.
    """

    threads: int = 0
    provider: Provider = "cpu"
    batch: int = 0
    crf_backend: Literal["onnx", "pydensecrf", "none"] = "onnx"
    precision: Literal["int8", "float32"] = "int8"

    @property
    def in_8_bits(self) -> bool:
        """Whether the 8-bit form of a network is what runs."""
        return self.precision == "int8" and self.provider == "cpu" and _adds_in_32_bits()

    @property
    def cores(self) -> int:
        """Threads that compute at a time."""
        # affinity, not cpu_count: in a container a process may use fewer cores than the machine has
        return self.threads or len(os.sched_getaffinity(0))

    @property
    def device(self) -> str | None:
        """Whose memory a scan is uploaded to once, as ONNX Runtime names it; None for a CPU, which has it already."""
        return None if self.provider == "cpu" else "cuda"

    @property
    def slices(self) -> int:
        """Slices in one run: on a CPU few, whose activations stay in the cache; a GPU wants many."""
        return self.batch or (4 if self.provider == "cpu" else 16)


def _adds_in_32_bits(cpu: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether products of bytes are added up without overflow: x86 without VNNI adds two of them in 16 bits."""
    if platform.machine().lower() not in ("x86_64", "amd64", "i686"):
        return True
    try:
        return "vnni" in cpu.read_text()
    except OSError:
        return False


def opened(graph: bytes, name: str, runtime: Runtime, threads: int) -> onnxruntime.InferenceSession:
    """A session on the provider that was asked for. Raises NotReady without it, BrokenModel for what is no graph."""
    provider = _NAMES[runtime.provider]
    if provider not in onnxruntime.get_available_providers():
        raise NotReady(f"{provider} was asked for, and this ONNX Runtime has none.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=_in_order(runtime.provider))
    except RUNTIME_ERRORS as error:
        raise BrokenModel(f"{name}: expected an ONNX graph, found what does not load: {error}") from error
    if provider not in session.get_providers():
        # ONNX Runtime falls back on the CPU and says nothing
        raise NotReady(f"{name}: {provider} was asked for, and only {session.get_providers()} was got.")
    return session


def while_asking(run: Callable[[onnxruntime.RunOptions], T], on_wait: Callable[[], None]) -> T:
    """What `run` gives; meanwhile `on_wait` is called again and again, and what it raises ends the run between nodes.

    The options that `run` gets are its own: no other run of the session, at the time or later, is ended with it.
    """
    options = onnxruntime.RunOptions()
    with ThreadPoolExecutor(1, "network") as pool:
        running = pool.submit(run, options)
        try:
            while wait([running], _ASK_EVERY_S).not_done:
                on_wait()
        except BaseException:
            options.terminate = True
            raise
        return running.result()


def _in_order(provider: Provider) -> list[str | tuple[str, dict[str, Any]]]:
    """The provider, and behind it those that take the nodes it has no kernel for."""
    gpu: tuple[str, dict[str, Any]] = (_NAMES["cuda"], _ON_GPU)
    order: dict[Provider, list[str | tuple[str, dict[str, Any]]]] = {
        "cpu": [_NAMES["cpu"]],
        "cuda": [gpu, _NAMES["cpu"]],
        "tensorrt": [_NAMES["tensorrt"], gpu, _NAMES["cpu"]],
    }
    return order[provider]
