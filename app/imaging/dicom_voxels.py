"""The Hounsfield units of a stack of DICOM slices, read one by one into the volume."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.dataset import Dataset

from app.errors import CorruptFile, InvalidGeometry, InvalidVoxels
from app.imaging.archive import Archive
from app.imaging.dicom_decoding import stored_values
from app.imaging.dicom_grid import Stack
from app.imaging.dicom_header import PYDICOM_RAISES, Instance, unheard
from app.imaging.dicom_slices import Slice
from app.imaging.header import Note
from app.imaging.nifti import MAX_FRACTION_ABOVE

Hounsfield = npt.NDArray[np.int16]

AIR_HU = -1024
_LOWEST_HU, _HIGHEST_HU = -32768, 32767
#: Padding within the range of a CT is left as it is: some writers name a value that tissue has.
_TISSUE_HU = (AIR_HU, 3071)


class _Reader:
    """Slices as HU, (rows, columns); counts what had to be changed on the way."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._open: tuple[Instance, Dataset] | None = None
        self.padded = self.clipped = self.above = 0

    def read(self, slice_: Slice) -> Hounsfield:
        stored = stored_values(self._file_of(slice_.instance), slice_.frame)
        hounsfield = _rescaled(stored, slice_)
        self.padded += _without_padding(hounsfield, stored, slice_)
        high, low = np.count_nonzero(hounsfield > _HIGHEST_HU), np.count_nonzero(hounsfield < _LOWEST_HU)
        self.above += int(high)
        self.clipped += int(high + low)
        clipped: Hounsfield = np.clip(hounsfield, _LOWEST_HU, _HIGHEST_HU).astype(np.int16)
        return clipped

    def notes(self, voxel_count: int) -> Iterator[Note]:
        if self.above > MAX_FRACTION_ABOVE * voxel_count:
            raise InvalidVoxels(f"{self.above} of {voxel_count} voxels are above {_HIGHEST_HU}: not HU.")
        if self.clipped:
            yield Note("clipped_values", f"{self.clipped} voxels outside {_LOWEST_HU}..{_HIGHEST_HU} were clipped.")
        if self.padded:
            yield Note("padding", f"{self.padded} voxels of padding were read as air, {AIR_HU} HU.")

    def _file_of(self, instance: Instance) -> Dataset:
        """The whole file; that of the last slice is kept, for many slices may be in one."""
        if self._open is None or self._open[0] is not instance:
            self._open = None  # before the next is read: two at a time could be a gigabyte
            try:
                with unheard():
                    dataset = dcmread(io.BytesIO(self._archive.read(instance.member)), force=True)
            except PYDICOM_RAISES:
                raise CorruptFile("A DICOM file in the zip is damaged or cut off.") from None
            dataset.file_meta.TransferSyntaxUID = instance.transfer_syntax
            self._open = instance, dataset
        return self._open[1]


def read_voxels(archive: Archive, stack: Stack) -> tuple[Hounsfield, tuple[Note, ...]]:
    """The voxels (I, J, K) of a stack in Fortran order, and what the sender should know about them.

    Raises CorruptFile, InvalidVoxels, or InvalidGeometry where two slices at one place differ.
    """
    columns, rows, count = stack.geometry.shape
    voxels_kji = np.empty((count, rows, columns), dtype=np.int16)
    reader = _Reader(archive)
    for k, slice_ in enumerate(stack.slices):
        voxels_kji[k] = reader.read(slice_)
    for k, double in stack.doubles:
        if not np.array_equal(reader.read(double), voxels_kji[k]):
            raise InvalidGeometry(
                "Two different slices lie at the same place: the series holds more than one scan, such as two phases. "
                "Send them one by one.",
                code="doubled_slices",
            )
    notes = [*reader.notes(voxels_kji.size)]
    if stack.doubles:
        notes.append(Note("doubled_slices", f"{len(stack.doubles)} slices were there twice, and equal; one was read."))
    return voxels_kji.T, tuple(notes)


def _rescaled(stored: npt.NDArray[Any], slice_: Slice) -> npt.NDArray[Any]:
    """HU rounded to whole numbers; int64 where slope and intercept are whole, else float64."""
    if slice_.slope.is_integer() and slice_.intercept.is_integer() and max(slice_.slope, abs(slice_.intercept)) < 1e9:
        return stored.astype(np.int64) * int(slice_.slope) + int(slice_.intercept)
    return np.rint(stored * slice_.slope + slice_.intercept)


def _without_padding(hounsfield: npt.NDArray[Any], stored: npt.NDArray[Any], slice_: Slice) -> int:
    """Make padding air, in place, where its value is that of no tissue; how many pixels."""
    if slice_.padding is None:
        return 0
    low, high = slice_.padding
    padding = (stored >= low) & (stored <= high)
    padding &= (hounsfield < _TISSUE_HU[0]) | (hounsfield > _TISSUE_HU[1])
    hounsfield[padding] = AIR_HU
    return int(np.count_nonzero(padding))
