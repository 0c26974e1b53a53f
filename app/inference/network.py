"""Network: an ONNX graph, checked, that turns slices into probabilities.

The contract: Hounsfield units in, probability on the same grid out. Slices are LPS: rows to posterior,
columns to left. Windowing, equalisation and resizing live inside the graph; no grey value changes here.

A graph may also give what its probability grows from, `logit`, `rows` and `columns` (see `app.inference.field`), and
then takes `grow`, a bool that is true by default: false leaves out the probability.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from pydantic import ValidationError

from app.errors import BrokenModel
from app.imaging.volume import Mask
from app.inference.between import Between, every, stride
from app.inference.card import CONTRACT, ContextParameters, CrfParameters, ModelCard, Sha256, Task
from app.inference.field import Field, Grown, Growth, Whole, reaches
from app.inference.resident import Resident
from app.inference.search import Search
from app.inference.session import RUNTIME_ERRORS, Runtime, opened, while_asking

__all__ = [
    "CONTRACT",
    "ContextParameters",
    "CrfParameters",
    "Hounsfield",
    "ModelCard",
    "Network",
    "Probability",
    "Runtime",
    "Sha256",
    "Task",
]

Hounsfield = npt.NDArray[np.int16]
Probability = npt.NDArray[np.float32]
Feeds = dict[str, npt.NDArray[Any]]
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
#: A graph that shows what its probability grows from gives these too.
GROWN_OUTPUTS: Signature = (
    ("logit", "tensor(float)", 3),
    ("rows", "tensor(float)", 2),
    ("columns", "tensor(float)", 2),
)
#: And takes this one, which is true where it is not given.
GROW = "grow"
#: How far the probability may lie from what it is said to grow from.
SAME = 1e-4


class Network:
    """A checked ONNX graph, ready to run.

    graph: the file's bytes (so that what was hashed is what runs); name: of the file, for messages.
    Raises BrokenModel if the graph, its card or its signature is not what the contract says for `task`, and
    NotReady if a GPU was asked for and not got.
    """

    def __init__(self, graph: bytes, sha256: str, name: str, task: Task, runtime: Runtime) -> None:
        self.sha256 = sha256
        self.name = name
        self.runtime = runtime
        # Slices are independent: a core works faster on some of its own than cores do together on the same ones.
        self._workers = runtime.cores if task != "crf" and runtime.provider == "cpu" else 1
        self._session = opened(graph, name, runtime, threads=1 if self._workers > 1 else runtime.cores)
        self.card = _card(self._session, name)
        if self.card.task != task:
            raise BrokenModel(f"{name}: expected a network for the task {task}, found {self.card.task}.")
        self._context_mm = self._context()
        self._takes = INPUTS[task] if self._context_mm is None else INPUTS[task] + CONTEXT_INPUTS
        _check_signature(name, "inputs", self._takes, self._session.get_inputs())
        self._grows = GROW in {node.name for node in self._session.get_overridable_initializers()}
        gives = OUTPUTS[task] + GROWN_OUTPUTS if self._grows else OUTPUTS[task]
        _check_signature(name, "outputs", gives, self._session.get_outputs())
        self._try_once()

    @property
    def providers(self) -> tuple[str, ...]:
        """What ONNX Runtime runs this network on, in order of preference."""
        return tuple(self._session.get_providers())

    def infer(self, on_wait: Callable[[], None] = lambda: None, /, **inputs: npt.NDArray[np.generic]) -> Probability:
        """One run of the graph. Raises BrokenModel unless probabilities of the right shape come out.

        on_wait: called now and then while it lasts; what it raises ends the run.
        """
        output: Probability = self._outputs([OUTPUTS[self.card.task][0][0]], inputs, on_wait)[0]
        expected = next(iter(inputs.values())).shape
        if "wanted" in inputs:
            expected = (len(inputs["wanted"]), *expected[1:])
        if output.shape != expected:
            raise BrokenModel(f"{self.name}: expected an output of shape {expected}, found {output.shape}.")
        if output.size and not (output.min() >= 0 and output.max() <= 1):
            raise BrokenModel(f"{self.name}: expected probabilities, found {output.min()} to {output.max()}.")
        return output

    def run(
        self,
        hounsfield_kji: Hounsfield,
        liver_kji: Mask | None = None,
        slice_mm: float | None = None,
        on_batch: OnBatch | None = None,
    ) -> Probability:
        """Probability of every voxel (K, J, I), batch by batch; the size of the batch does not change it.

        slice_mm: distance of slices; a network that looks at neighbours raises ValueError without it.
        """
        probability_kji = np.empty(hounsfield_kji.shape, np.float32)

        def compute(slices: Sequence[int]) -> None:
            probability_kji[slices] = self.infer(**self._feeds(hounsfield_kji, liver_kji, slice_mm, slices))

        self._each(range(len(hounsfield_kji)), compute, on_batch)
        return probability_kji

    def field(
        self,
        hounsfield_kji: Hounsfield,
        liver_kji: Mask | None = None,
        slice_mm: float | None = None,
        on_batch: OnBatch | None = None,
        search: Search | None = None,
    ) -> Field:
        """The same probability, to be looked at where it is needed: held on the working grid if the graph shows it.

        slice_mm: as for `run`; with it, of slices that lie nearer than the card's `step_mm` not all are looked at.
        search: leaves out the slices, with probability 0, that are far from what is sought; a GPU, which is fast and
        wants batches of one size, looks at all.
        """
        if not self._grows or not hounsfield_kji.size:
            return Whole(self.run(hounsfield_kji, liver_kji, slice_mm, on_batch))
        wanted = self._wanted(len(hounsfield_kji), liver_kji)
        looked_at = every(wanted, self.step(slice_mm, len(wanted)))
        first = self._outputs(
            [name for name, _, _ in GROWN_OUTPUTS], self._feeds(hounsfield_kji, liver_kji, slice_mm, looked_at[:1])
        )
        logit_shw = np.zeros((len(looked_at), *first[0].shape[1:]), np.float32)
        logits = self._logits(hounsfield_kji, liver_kji, slice_mm, looked_at)

        def compute(numbers: Sequence[int]) -> None:
            logit_shw[numbers] = logits(numbers)

        seen = None
        if search is None or self.runtime.device is not None:
            self._each(range(len(looked_at)), compute, on_batch)
        else:
            seen = self._searched(search, logit_shw, compute, on_batch)
        if not np.isfinite(logit_shw).all():
            raise BrokenModel(f"{self.name}: expected finite logits.")
        between = Between.of(len(hounsfield_kji), looked_at, seen)
        return Grown(logit_shw, between, Growth(first[1], first[2]), liver_kji, self.runtime.cores)

    def step(self, slice_mm: float | None, count: int) -> int:
        """Every how many of `count` slices, so far apart, one is looked at."""
        step_mm = self.card.step_mm
        return 1 if slice_mm is None or step_mm is None else stride(step_mm, slice_mm, count)

    def _wanted(self, count: int, liver_kji: Mask | None) -> Sequence[int]:
        """The slices that matter, at least one; in batches of one size, these lie side by side if they must."""
        if liver_kji is None:
            return range(count)
        wanted = [int(k) for k in np.flatnonzero(liver_kji.any(axis=(1, 2)))] or [0]  # elsewhere it is zero
        if self.runtime.device is None or self._context_mm is not None:
            return wanted
        return range(wanted[0], wanted[-1] + 1)

    def _logits(
        self, hounsfield_kji: Hounsfield, liver_kji: Mask | None, slice_mm: float | None, looked_at: Sequence[int]
    ) -> Callable[[Sequence[int]], Probability]:
        """What gives the logits of slices, by their numbers among those looked at.

        Where a GPU computes them, the scan is uploaded here, once; of what needs no neighbours only those slices.
        """
        no_growth = {GROW: np.array(False)}
        device = self.runtime.device
        if device is None:
            return lambda numbers: self._outputs(
                ["logit"],
                self._feeds(hounsfield_kji, liver_kji, slice_mm, [looked_at[n] for n in numbers]) | no_growth,
            )[0]
        alone, size = self._context_mm is None, self.runtime.slices
        step = looked_at[1] - looked_at[0] if len(looked_at) > 1 else 1
        part = slice(looked_at[0], looked_at[-1] + 1, step)
        stacks: Feeds = {"hounsfield": hounsfield_kji} | ({} if liver_kji is None else {"liver": liver_kji})
        if alone:
            stacks = {name: stack[part] for name, stack in stacks.items()}
        resident = Resident(stacks, device, size if alone else 0)

        def logits(numbers: Sequence[int]) -> Probability:
            slices = numbers if alone else [looked_at[n] for n in numbers]
            asked, own = _as_many(slices, size, resident.count if alone else None)
            window, others = self._window(resident.count, slice_mm, asked)
            assert isinstance(window, slice)  # noqa: S101 - see `_wanted`
            try:
                return resident.run(self._session, ["logit"], window, others | no_growth)[0][own]
            except RUNTIME_ERRORS as error:
                raise BrokenModel(f"{self.name}: the graph does not run: {error}") from error

        return logits

    def _searched(
        self, search: Search, logit_shw: Probability, compute: Callable[[Sequence[int]], None], on_batch: OnBatch | None
    ) -> Mask:
        """Have the logits of the slices computed that are worth it; returns which these are, of (S,)."""
        count = len(logit_shw)
        seen, first = np.zeros(count, np.bool_), search.first(count)
        self._each(first, compute, None if on_batch is None else lambda done: on_batch(done * len(first) / count))
        seen[first] = True
        then = search.then(seen & reaches(logit_shw, search.threshold))
        share = len(first) / (len(first) + len(then))
        self._each(then, compute, None if on_batch is None else lambda done: on_batch(share + done * (1.0 - share)))
        seen[then] = True
        if on_batch is not None and not then:
            on_batch(1.0)
        return seen

    def _outputs(
        self, names: Sequence[str], inputs: Feeds, on_wait: Callable[[], None] = lambda: None
    ) -> list[npt.NDArray[Any]]:
        feeds = {name: np.ascontiguousarray(array) for name, array in inputs.items()}

        def run(options: onnxruntime.RunOptions) -> list[npt.NDArray[Any]]:
            if self.card.task == "crf":
                # It runs once a scan on a whole region: what it used would otherwise be held for ever.
                arenas = "cpu:0" if self.runtime.provider == "cpu" else "gpu:0"
                options.add_run_config_entry("memory.enable_memory_arena_shrinkage", arenas)
            found: list[npt.NDArray[Any]] = self._session.run(list(names), feeds, options)
            return found

        try:
            # Only the CRF takes so long that somebody may want it to end.
            return while_asking(run, on_wait) if self.card.task == "crf" else run(onnxruntime.RunOptions())
        except RUNTIME_ERRORS as error:
            raise BrokenModel(f"{self.name}: the graph does not run: {error}") from error

    def _each(self, wanted: Sequence[int], compute: Callable[[Sequence[int]], None], on_batch: OnBatch | None) -> None:
        """Have each batch of the wanted slices computed, as many at a time as there are workers."""
        size = self.runtime.slices
        parts = [wanted[first : first + size] for first in range(0, len(wanted), size)]
        with ThreadPoolExecutor(self._workers, f"{self.card.task}-network") as pool:
            done: Iterable[None] = pool.map(compute, parts) if self._workers > 1 else map(compute, parts)
            finished = 0
            try:
                for part, _ in zip(parts, done, strict=True):
                    finished += len(part)
                    if on_batch is not None:
                        on_batch(finished / len(wanted))
            except BaseException:
                pool.shutdown(cancel_futures=True)  # or the pool would finish the whole scan first
                raise

    def _feeds(
        self, hounsfield_kji: Hounsfield, liver_kji: Mask | None, slice_mm: float | None, wanted: Sequence[int]
    ) -> Feeds:
        """What the graph takes for the wanted slices, which ascend."""
        read, feeds = self._window(len(hounsfield_kji), slice_mm, wanted)
        if liver_kji is not None:
            feeds["liver"] = liver_kji[read]
        return {"hounsfield": hounsfield_kji[read], **feeds}

    def _window(self, count: int, slice_mm: float | None, wanted: Sequence[int]) -> tuple[slice | list[int], Feeds]:
        """Which of so many slices the graph reads for the wanted ones, and what it takes besides."""
        if self._context_mm is None:
            beside = wanted[-1] - wanted[0] == len(wanted) - 1
            return (slice(wanted[0], wanted[-1] + 1) if beside else list(wanted)), {}  # a slice is no copy
        if slice_mm is None:
            raise ValueError(f"{self.name} looks at neighbouring slices: how far away are they?")
        reach = math.ceil(self._context_mm / slice_mm)
        read = slice(max(0, wanted[0] - reach), min(wanted[-1] + 1 + reach, count))
        spacing_mm = np.array([slice_mm, 1, 1], np.float32)
        return read, {"spacing_mm": spacing_mm, "wanted": np.array(wanted, np.int64) - read.start}

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
        inputs: dict[Task, Feeds] = {
            "liver": {"hounsfield": hounsfield},
            "lesion": self._feeds(hounsfield, hounsfield > 0, 2.5, [1, 2]),
            "crf": {
                "probability": half,
                "hounsfield": hounsfield,
                "spacing_mm": np.array([3, 1, 1], np.float32),
            },
        }
        probability = self.infer(**inputs[self.card.task])
        if self._grows:
            self._check_growth(hounsfield, probability)

    def _check_growth(self, hounsfield: Hounsfield, probability: Probability) -> None:
        """Raise BrokenModel unless the probability is what grows from the logits."""
        liver = hounsfield > 0 if self.card.task == "lesion" else None
        field = self.field(hounsfield, liver, 2.5)
        grown = field.within((slice(3 - len(probability), 3), slice(None), slice(None)))
        apart = float(np.abs(grown - probability).max())
        if not apart <= SAME:
            raise BrokenModel(
                f"{self.name}: the probability lies {apart:.1e} from what its logit, rows and columns give."
            )


def _as_many(slices: Sequence[int], size: int, count: int | None) -> tuple[Sequence[int], slice]:
    """So many slices that hold these, and where these are among them: a GPU runs batches of one size, for with each new
    one cuDNN searches its algorithms again.

    count: of slices that there are, where they must lie side by side; else the last is asked for again and again.
    """
    if count is None:
        return [*slices, *[slices[-1]] * (size - len(slices))], slice(0, len(slices))
    first = min(slices[0], count - size)
    return range(first, first + size), slice(slices[0] - first, slices[0] - first + len(slices))


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
