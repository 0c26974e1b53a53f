"""NIfTI voxels, in and out: Hounsfield units and labels on exactly the grid that the header states.

Voxels are read in blocks, so that beside the int16 result no copy of the scan is ever held; an int16 file
without scaling is unpacked straight into the result. Memory order is Fortran's, as in the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from isal import igzip

from app.errors import InvalidReference, InvalidVoxels
from app.imaging.atomic import written_whole
from app.imaging.header import NIFTI1, NIFTI2, TYPES, NiftiHeader, Note, qforms, read_header
from app.imaging.stream import ScanStream, open_stream
from app.imaging.volume import Float64, Geometry, Label, Volume

Hounsfield = npt.NDArray[np.int16]

#: Voxels converted at a time: their float64 copy stays in the processor's cache.
_BLOCK_VOXELS = 1 << 18
_LOWEST_HU, _HIGHEST_HU = -32768, 32767
#: Below the range of int16 lies padding: it is clipped. Of values above it, a CT has at most this fraction.
MAX_FRACTION_ABOVE = 0.01

_LABEL_INTENT = 1002
_LONGEST_NIFTI1_AXIS = 32767
#: Further away a qform is left out.
_SAME_QFORM_MM = 0.01
_GRID_FIELDS = (
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z", "xyzt_units",
)  # fmt: skip


@dataclass
class _Tally:
    """How many values were not what Hounsfield units can be."""

    not_finite: int = 0
    below: int = 0
    above: int = 0


def read_hounsfield(stream: ScanStream, header: NiftiHeader) -> tuple[Hounsfield, tuple[Note, ...]]:
    """The voxels after the header as HU rounded to int16, (i, j, k) in Fortran order, and notes about them.

    Raises CorruptFile if the stream ends too early, InvalidVoxels if values are not finite or out of range.
    """
    hounsfield = np.empty(header.voxel_count, dtype=np.int16)
    tally = _Tally()
    stream.skip_to(header.offset_bytes)
    if header.dtype == np.int16 and not header.scaled:
        stream.fill(hounsfield.data.cast("B"))
    else:
        for start, stored in _blocks(stream, header):
            hounsfield[start : start + stored.size] = _rounded(_unscaled(stored, header), tally)
    return hounsfield.reshape(header.geometry.shape, order="F"), tuple(_judged(tally, header.voxel_count))


def read_label_values(stream: ScanStream, header: NiftiHeader) -> npt.NDArray[np.uint8]:
    """The voxels after the header as labels, (i, j, k) in Fortran order, of whatever datatype they are stored.

    Raises CorruptFile if the stream ends too early, InvalidReference if a value is none of `Label`.
    """
    labels = np.empty(header.voxel_count, dtype=np.uint8)
    stream.skip_to(header.offset_bytes)
    for start, stored in _blocks(stream, header):
        values = _unscaled(stored, header)
        foreign = np.logical_and.reduce([values != label for label in Label])
        if foreign.any():
            raise InvalidReference(
                "A label file holds 0 (background), 1 (liver) and 2 (lesion) only; "
                f"it also holds {values[foreign][0]:g}."
            )
        labels[start : start + values.size] = values
    return labels.reshape(header.geometry.shape, order="F")


def write_labels(path: Path, labels: npt.NDArray[Any], geometry: Geometry, header_of: Path | None = None) -> None:
    """Write uint8 or uint16 labels (i, j, k) as .nii.gz on `geometry`, whole or not at all.

    With `header_of`, the NIfTI that was sent, its sform, qform, codes and units come back exactly as they
    were. Nothing else of it is copied: no description, no names, no extensions. Equal labels, equal bytes.
    Raises ValueError if labels, geometry and that file do not belong together.
    """
    if labels.dtype not in (np.uint8, np.uint16) or labels.shape != geometry.shape:
        raise ValueError(f"expected uint8 or uint16 {geometry.shape}, got {labels.dtype} {labels.shape}")
    fields = _like(header_of, geometry, labels.dtype) if header_of else _new_header(geometry, labels.dtype)
    fields["intent_code"] = _LABEL_INTENT
    fields["cal_max"] = max(1, int(labels.max()))
    _write(path, fields, labels)


def write_volume(path: Path, volume: Volume) -> None:
    """Write the Hounsfield units of a volume as an int16 .nii.gz, whole or not at all."""
    _write(path, _new_header(volume.geometry, volume.voxels.dtype), volume.voxels)


def _blocks(stream: ScanStream, header: NiftiHeader) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """(index of its first voxel, voxels as stored), block by block; each is overwritten by the next."""
    buffer = np.empty(min(_BLOCK_VOXELS, header.voxel_count), dtype=header.dtype)
    for start in range(0, header.voxel_count, _BLOCK_VOXELS):
        block = buffer[: header.voxel_count - start]
        stream.fill(block.view(np.uint8).data)
        yield start, block


@np.errstate(invalid="ignore", over="ignore")  # what overflows becomes infinite, and is counted as such
def _unscaled(stored: npt.NDArray[Any], header: NiftiHeader) -> Float64:
    values: Float64 = stored.astype(np.float64)
    if header.scaled:
        values *= header.slope
        values += header.inter
    return values


def _rounded(values: Float64, tally: _Tally) -> Float64:
    """Values rounded to whole HU in the range of int16; what had to be changed more than that is counted."""
    np.rint(values, out=values)
    if values.min() >= _LOWEST_HU and values.max() <= _HIGHEST_HU:  # False if any is NaN
        return values
    finite = np.isfinite(values)
    tally.not_finite += values.size - int(np.count_nonzero(finite))
    values[~finite] = 0
    tally.below += int(np.count_nonzero(values < _LOWEST_HU))
    tally.above += int(np.count_nonzero(values > _HIGHEST_HU))
    return np.clip(values, _LOWEST_HU, _HIGHEST_HU, out=values)


def _judged(tally: _Tally, voxel_count: int) -> Iterator[Note]:
    if tally.not_finite:
        raise InvalidVoxels(f"{tally.not_finite} of {voxel_count} voxels are NaN or infinite.")
    if tally.above > MAX_FRACTION_ABOVE * voxel_count:
        raise InvalidVoxels(f"{tally.above} of {voxel_count} voxels are above {_HIGHEST_HU}: not HU.")
    if tally.below or tally.above:
        clipped = tally.below + tally.above
        yield Note("clipped_values", f"{clipped} voxels outside {_LOWEST_HU}..{_HIGHEST_HU} were clipped.")


def _new_header(geometry: Geometry, dtype: np.dtype[Any]) -> np.void:
    """A header whose sform is the affine, in the scanner's coordinates, and whose qform is too where it can be.

    Its three 32-bit numbers know a turn by almost 180 degrees only to a few hundredths of one, and programs differ.
    """
    long = max(geometry.shape) > _LONGEST_NIFTI1_AXIS
    header = nib.Nifti2Header() if long else nib.Nifti1Header()
    header.set_data_shape(geometry.shape)
    header.set_data_dtype(dtype)
    header.set_qform(geometry.affine, code="scanner")
    if any(geometry.apart_mm(Geometry(geometry.shape, read)) > _SAME_QFORM_MM for read in qforms(header.structarr)):
        header.set_qform(None)
    header.set_sform(geometry.affine, code="scanner")
    header.set_xyzt_units("mm")
    fields = _blank(NIFTI2 if long else NIFTI1, geometry.shape, dtype)
    _copy_grid(np.frombuffer(header.binaryblock, fields.dtype)[0], fields)
    return fields


def _like(sent: Path, geometry: Geometry, dtype: np.dtype[Any]) -> np.void:
    """A header with the grid fields of the file that was sent, number by number."""
    with open_stream(sent) as stream:
        header = read_header(stream)
    if not geometry.matches(header.geometry):
        raise ValueError(f"labels on {geometry} do not belong to a scan on {header.geometry}")
    fields = _blank(NIFTI2 if header.version == 2 else NIFTI1, geometry.shape, dtype)
    _copy_grid(header.fields, fields)
    return fields


def _blank(record: np.dtype[Any], shape: tuple[int, int, int], dtype: np.dtype[Any]) -> np.void:
    """A little-endian NIfTI header without a grid: nothing in it but how to read the voxels."""
    fields: np.void = np.zeros(1, dtype=record.newbyteorder("<"))[0]
    code = next(code for code, known in TYPES.items() if known == dtype)
    fields["sizeof_hdr"], fields["magic"] = record.itemsize, b"n+2" if record == NIFTI2 else b"n+1"
    if record == NIFTI2:
        fields["eol_check"] = (13, 10, 26, 10)
    fields["dim"] = (3, *shape, 1, 1, 1, 1)
    fields["datatype"], fields["bitpix"] = code, 8 * dtype.itemsize
    fields["vox_offset"], fields["scl_slope"] = record.itemsize + 4, 1
    return fields


def _copy_grid(source: np.void, target: np.void) -> None:
    target["pixdim"][:4] = source["pixdim"][:4]
    for name in _GRID_FIELDS:
        target[name] = source[name]


def _write(path: Path, fields: np.void, voxels: npt.NDArray[Any]) -> None:
    stored = np.asfortranarray(voxels.astype(voxels.dtype.newbyteorder("<"), copy=False))
    with (
        written_whole(path) as file,
        # No time and no name in the gzip header: the same labels give the same bytes.
        igzip.IGzipFile(filename="", fileobj=file, mode="wb", compresslevel=1, mtime=0) as packed,
    ):
        packed.write(fields.tobytes() + bytes(4))
        packed.write(stored.T.reshape(-1).view(np.uint8))
