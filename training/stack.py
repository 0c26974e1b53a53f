"""Slices of several files as one array that is never whole in memory: all of LiTS takes tens of gigabytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from app.imaging.atomic import written_whole

Array = npt.NDArray[Any]


class Stack:
    """Arrays (n, ...) of one shape one after the other, or some of their rows; indexing reads what is asked for."""

    def __init__(self, parts: Sequence[Array], rows: npt.NDArray[np.intp] | None = None) -> None:
        self._parts = list(parts)
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        self._rows = np.arange(self._starts[-1]) if rows is None else rows

    @property
    def shape(self) -> tuple[int, ...]:
        """As of an array."""
        return (len(self._rows), *self._parts[0].shape[1:])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, at: int | slice | npt.NDArray[np.intp]) -> Array:
        """A row for a number, else the rows at these places; a copy in memory."""
        if isinstance(at, int):
            row: Array = self[at : at + 1][0]
            return row
        rows = self._rows[at]
        found = np.empty((len(rows), *self.shape[1:]), self._parts[0].dtype)
        of_part = np.searchsorted(self._starts, rows, side="right") - 1
        for place, (row, part) in enumerate(zip(rows, of_part, strict=True)):
            found[place] = self._parts[part][row - self._starts[part]]
        return found

    def chosen(self, at: npt.NDArray[np.intp]) -> Stack:
        """Some of the rows; nothing is read."""
        return Stack(self._parts, self._rows[at])


class Rows:
    """A .npy that is being written, block (n, ...) by block of one shape and type."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._count = file, 0

    def append(self, block: Array) -> None:
        """Write a block after those before it."""
        if self._count == 0:
            self._like = block[:0]
            self._write_header()
        self._file.write(np.ascontiguousarray(block).data)
        self._count += len(block)

    def finish(self) -> None:
        """State the number of rows. NumPy pads its header so that this number has room to grow."""
        if self._count:
            self._file.seek(0)
            self._write_header()

    def _write_header(self) -> None:
        shape, dtype = (self._count, *self._like.shape[1:]), np.lib.format.dtype_to_descr(self._like.dtype)
        described = {"descr": dtype, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, described)


@contextmanager
def rows_written(path: Path) -> Iterator[Rows]:
    """A .npy to append to; it takes its name when all is written, and who reads the old one keeps it."""
    with written_whole(path) as file:
        rows = Rows(file)
        yield rows
        rows.finish()
