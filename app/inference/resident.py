"""Stacks of slices in the memory of the device that runs a network: uploaded once, and read from there in windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

Array = npt.NDArray[Any]


class Resident:
    """Stacks (K, J, I) by the names of a network's inputs; slices lie one behind the other: a window is no copy.

    device: as ONNX Runtime names it, "cuda", or "cpu" in tests. least: of fewer slices the last is there repeatedly.
    """

    def __init__(self, stacks: Mapping[str, Array], device: str, least: int) -> None:
        self._device = device
        self._arrays = arrays = {name: np.ascontiguousarray(_filled(stack, least)) for name, stack in stacks.items()}
        self.count = len(next(iter(arrays.values())))
        self._values = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(array, device, 0) for name, array in arrays.items()
        }

    def run(
        self,
        session: onnxruntime.InferenceSession,
        outputs: Sequence[str],
        window: slice,
        others: Mapping[str, Array],
    ) -> list[Array]:
        """What the session gives for the slices in the window; the other inputs are small and uploaded each time."""
        if not 0 <= window.start < window.stop <= self.count:
            raise ValueError(f"no slices {window.start} to {window.stop} among {self.count}")  # it would read beyond
        binding = session.io_binding()
        for name, array in self._arrays.items():
            start = self._values[name].data_ptr() + window.start * array.strides[0]
            shape = (window.stop - window.start, *array.shape[1:])
            binding.bind_input(name, self._device, 0, array.dtype, shape, start)
        for name, array in others.items():
            # not bind_cpu_input: it does not know inputs that may be left out
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
        for name in outputs:
            binding.bind_output(name, self._device)
        session.run_with_iobinding(binding)
        found: list[Array] = binding.copy_outputs_to_cpu()
        return found


def _filled(stack: Array, least: int) -> Array:
    return stack if len(stack) >= least else stack[np.minimum(np.arange(least), len(stack) - 1)]
