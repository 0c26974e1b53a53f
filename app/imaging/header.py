"""The NIfTI header: what it says, checked against what a scan can be, and the one rule for its orientation.

The rule (docs/geometry.md): the sform if `sform_code` > 0, else the qform if `qform_code` > 0, else the voxel
sizes alone, as NiBabel, FSL and SPM read them (first axis to the patient's left), with a note.
Nothing here allocates anything larger than a header.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt

from app.errors import CorruptFile, InvalidGeometry, InvalidVoxels, UnsupportedFormat
from app.imaging.content import begins_like_nifti, describe
from app.imaging.stream import ScanStream
from app.imaging.volume import Float64, Geometry

#: Voxel edges outside this range are those of no CT.
MIN_SPACING_MM, MAX_SPACING_MM = 0.05, 50.0
#: No scanner's table is longer, and no scan has more slices: what claims more would only hold up the queue.
MAX_EXTENT_MM, MAX_AXIS_VOXELS = 2500.0, 4096
#: No number of an affine in mm is larger than this.
MAX_AFFINE_MM = 1e5
#: sform and qform disagree if a corner voxel lies farther apart than this part of the smallest voxel edge.
CONFLICT_VOXELS = 0.1
#: Voxel sizes of header and affine disagree beyond this relative difference.
SPACING_TOLERANCE = 0.01
#: Room for header extensions between header and voxels.
MAX_OFFSET_BYTES = 1 << 24

NIFTI1 = nib.nifti1.header_dtype
NIFTI2 = nib.nifti2.header_dtype
_MAGIC = {1: (NIFTI1, 344, b"n+1\0"), 2: (NIFTI2, 4, b"n+2\0")}
#: NIfTI's number of each datatype that can hold Hounsfield units or labels.
TYPES = {
    2: np.uint8, 4: np.int16, 8: np.int32, 16: np.float32, 64: np.float64,
    256: np.int8, 512: np.uint16, 768: np.uint32, 1024: np.int64, 1280: np.uint64,
}  # fmt: skip
_REFUSED_TYPES = {
    1: "single bits", 32: "complex numbers", 128: "RGB colours", 1536: "128-bit floats",
    1792: "complex numbers", 2048: "complex numbers", 2304: "RGBA colours",
}  # fmt: skip
_MILLIMETRES = 2
#: So many roundings can add up in the squares of a quaternion: as NiBabel has it.
_ROUNDED = 3


@dataclass(frozen=True)
class Note:
    """What the sender should know about a file although it was read: a stable code and a sentence."""

    code: str
    detail: str


@dataclass(frozen=True, eq=False)
class NiftiHeader:
    """A header that passed every check.

    fields: the header as stored, a NumPy record of NIFTI1 or NIFTI2 (of either byte order). dtype: of the
    stored voxels. slope, inter: stored * slope + inter = HU; 1 and 0 if the file is not scaled. offset_bytes:
    where the voxels begin.
    """

    fields: np.void
    version: int
    geometry: Geometry
    dtype: np.dtype[np.generic]
    slope: float
    inter: float
    offset_bytes: int
    notes: tuple[Note, ...]

    @property
    def scaled(self) -> bool:
        """Whether stored values must be scaled to become HU."""
        return (self.slope, self.inter) != (1.0, 0.0)

    @property
    def lowest_hu(self) -> float:
        """The lowest value that a stored voxel can mean; minus infinity for floats."""
        if self.dtype.kind not in "iu" or self.slope < 0:
            return -math.inf
        stored = 0 if self.dtype.kind == "u" else -(2 ** (8 * self.dtype.itemsize - 1))
        return stored * self.slope + self.inter

    @property
    def voxel_count(self) -> int:
        """Voxels that the header announces; a Python int, so it cannot overflow."""
        i, j, k = self.geometry.shape
        return i * j * k

    @property
    def total_bytes(self) -> int:
        """Bytes of the whole unpacked file that the header announces."""
        return self.offset_bytes + self.voxel_count * self.dtype.itemsize


# Fields of a damaged header may be signalling NaNs, or overflow when they are squared; each is checked below.
@np.errstate(invalid="ignore", over="ignore")
def read_header(stream: ScanStream) -> NiftiHeader:
    """Read and check the header at the start of a stream.

    Raises UnsupportedFormat, CorruptFile, InvalidGeometry or InvalidVoxels.
    """
    version, fields = _fields(stream)
    shape = _shape(fields["dim"])
    dtype = _dtype(int(fields["datatype"])).newbyteorder(fields["dim"].dtype.byteorder)
    slope, inter = _scaling(float(fields["scl_slope"]), float(fields["scl_inter"]))
    offset_bytes = _offset(float(fields["vox_offset"]), fields.dtype.itemsize + 4)
    geometry, notes = _grid(fields, shape)
    return NiftiHeader(fields, version, geometry, dtype, slope, inter, offset_bytes, tuple(notes))


def _fields(stream: ScanStream) -> tuple[int, np.void]:
    """The header's version and its record, in the byte order in which it is stored."""
    block = stream.read(NIFTI1.itemsize)
    for version, (record, position, magic) in _MAGIC.items():
        if block[position : position + 4] != magic:
            continue
        block += stream.read(record.itemsize - len(block))
        if len(block) == record.itemsize:
            return version, np.frombuffer(block, record.newbyteorder(_byte_order(block)))[0]
    if not block:
        raise UnsupportedFormat("The file is empty.", code="empty_file")
    if begins_like_nifti(block) and (len(block) < NIFTI1.itemsize or block[4:8] == b"n+2\0"):
        raise CorruptFile(f"The file is cut off: it ends after {len(block)} bytes, within the header.")
    raise UnsupportedFormat(f"Neither NIfTI nor DICOM: the file is {describe(block)}.")


def _byte_order(block: bytes) -> Literal["<", ">"]:
    if not begins_like_nifti(block):
        raise CorruptFile(f"The header is damaged: its size field is {block[:4].hex()}.")
    return "<" if block[0] else ">"  # the lowest byte of 348 and of 540 is not zero, the highest is


def _shape(dim: npt.NDArray[np.integer[Any]]) -> tuple[int, int, int]:
    """Voxels along i, j, k; axes beyond the third may only have length 1."""
    axes, *lengths = (int(n) for n in dim)
    if not 1 <= axes <= 7:
        raise CorruptFile(f"The header is damaged: it counts {axes} dimensions, and NIfTI has 1 to 7.")
    stated = tuple(lengths[:axes])
    if axes < 3 or min(stated) < 1:
        raise InvalidGeometry(f"A scan has three axes with at least one voxel each; this file has {stated}.")
    if max(stated[3:], default=1) > 1:
        raise InvalidGeometry(
            f"The file has {axes} dimensions {stated}; send one volume with three: one phase, one time point."
        )
    return stated[0], stated[1], stated[2]


def _dtype(code: int) -> np.dtype[np.generic]:
    if code in _REFUSED_TYPES:
        raise InvalidVoxels(f"The voxels are {_REFUSED_TYPES[code]}; a CT has one number a voxel.")
    if code not in TYPES:
        raise InvalidVoxels(f"The header names datatype {code}, which NIfTI does not define.")
    return np.dtype(TYPES[code])


def _scaling(slope: float, inter: float) -> tuple[float, float]:
    """As NIfTI has it: a slope of zero (or none at all) means that the values are not scaled."""
    if slope == 0 or not np.isfinite(slope):
        return 1.0, 0.0
    if not np.isfinite(inter):
        raise InvalidVoxels(f"The header scales the voxels by {slope} and shifts them by {inter}.")
    return slope, inter


def _offset(offset: float, least: int) -> int:
    if not (least <= offset <= MAX_OFFSET_BYTES and offset.is_integer()):
        raise CorruptFile(f"The header is damaged: the voxels cannot begin at byte {offset:g}.")
    return int(offset)


def _grid(fields: np.void, shape: tuple[int, int, int]) -> tuple[Geometry, list[Note]]:
    """The grid by the one rule above, and what the sender should know about it."""
    spacing_mm = _stored_spacing(fields)
    notes = list(_units(int(fields["xyzt_units"])))
    if fields["sform_code"] > 0:
        geometry = _checked(_sform(fields), shape)
        notes += _conflicts(geometry, fields)
    elif fields["qform_code"] > 0:
        geometry = _checked(qforms(fields)[0], shape)
    else:
        affine = nib.volumeutils.shape_zoom_affine(shape, spacing_mm, x_flip=True)
        geometry = _checked(np.asarray(affine, dtype=np.float64), shape)
        detail = "The file states no orientation; its axes were taken to point left, anterior and superior."
        notes.append(Note("no_orientation", detail))
    return geometry, notes


def _stored_spacing(fields: np.void) -> Float64:
    """The voxel sizes in mm, (3,); they may not be zero or NaN even where the sform makes them redundant."""
    spacing_mm: Float64 = np.abs(fields["pixdim"][1:4].astype(np.float64))
    if not (np.isfinite(spacing_mm).all() and spacing_mm.all()):
        raise InvalidGeometry(f"The voxel sizes in the header are {spacing_mm.tolist()} mm.")
    return spacing_mm


def _units(xyzt_units: int) -> Iterable[Note]:
    if xyzt_units & 0x07 not in {0, _MILLIMETRES}:
        yield Note("units_ignored", "The header says that lengths are not in mm; they were taken as mm.")


def _sform(fields: np.void) -> Float64:
    rows = [fields[name].astype(np.float64) for name in ("srow_x", "srow_y", "srow_z")]
    return np.vstack([*rows, [0.0, 0.0, 0.0, 1.0]])


def qforms(fields: np.void) -> tuple[Float64, ...]:
    """The affine that quaternion and voxel sizes make; at almost half a turn two, of which the first is read.

    The quaternion's first number is left out of the file, and is the root of what the others leave of 1. Where that is
    no more than their rounding, NiBabel takes it for none, and other programs by the letter.
    """
    bcd = np.array([fields[f"quatern_{axis}"] for axis in "bcd"], dtype=np.float64)
    left = 1.0 - float(bcd @ bcd)
    if not left >= -1e-4:  # NaN must fail too
        raise InvalidGeometry(f"The quaternion {bcd.tolist()} of the header is no rotation.")
    by_the_letter = max(0.0, left) ** 0.5
    rounding = _ROUNDED * np.finfo(fields["quatern_b"].dtype).eps
    return tuple(_turned(fields, [a, *bcd]) for a in ((0.0, by_the_letter) if left < rounding else (by_the_letter,)))


def _turned(fields: np.void, quaternion: list[float]) -> Float64:
    affine = np.eye(4)
    affine[:3, :3] = nib.quaternions.quat2mat(quaternion) * _stored_spacing(fields)
    if fields["pixdim"][0] < 0:
        affine[:3, 2] *= -1
    affine[:3, 3] = [fields[f"qoffset_{axis}"] for axis in "xyz"]
    return affine


def _checked(affine: Float64, shape: tuple[int, int, int]) -> Geometry:
    """The grid, if a scan can have it. Raises InvalidGeometry."""
    if not np.abs(affine).max() <= MAX_AFFINE_MM:  # NaN must fail too
        raise InvalidGeometry("The affine of the scan has numbers that are not finite or far too large.")
    geometry = Geometry(shape, affine)
    require_voxel_size(geometry)
    if geometry.is_sheared:
        raise InvalidGeometry(
            "The axes of the scan are not perpendicular, as after a gantry tilt; resample it to a straight grid first.",
            code="sheared_grid",
        )
    return geometry


def require_voxel_size(geometry: Geometry) -> None:
    """Raise InvalidGeometry for voxels smaller or larger than those of any scan."""
    if not all(MIN_SPACING_MM <= edge <= MAX_SPACING_MM for edge in geometry.spacing_mm):
        edges = " x ".join(f"{edge:.4g}" for edge in geometry.spacing_mm)
        raise InvalidGeometry(f"Voxels of {edges} mm: edges must be {MIN_SPACING_MM} to {MAX_SPACING_MM} mm.")


def require_extent(geometry: Geometry) -> None:
    """Raise InvalidGeometry for a grid that is larger than any scan."""
    extent_mm = max(n * edge for n, edge in zip(geometry.shape, geometry.spacing_mm, strict=True))
    if extent_mm > MAX_EXTENT_MM or max(geometry.shape) > MAX_AXIS_VOXELS:
        raise InvalidGeometry(
            f"The scan has {geometry.shape} voxels and is {extent_mm:.0f} mm long; at most {MAX_AXIS_VOXELS} voxels "
            f"and {MAX_EXTENT_MM:.0f} mm along an axis are those of a CT. Are the voxel sizes in mm?"
        )


def _conflicts(geometry: Geometry, fields: np.void) -> Iterable[Note]:
    """Where qform or voxel sizes contradict the sform that was taken."""
    if fields["qform_code"] <= 0:
        if not np.allclose(_stored_spacing(fields), geometry.spacing_mm, rtol=SPACING_TOLERANCE, atol=0):
            yield Note("pixdim_conflict", "The sform was taken; its voxel sizes differ from those in pixdim.")
        return
    try:
        apart_mm = min(geometry.apart_mm(_checked(affine, geometry.shape)) for affine in qforms(fields))
    except InvalidGeometry as error:
        yield Note("qform_sform_conflict", f"The sform was taken; the qform is unusable: {error.detail}")
        return
    if apart_mm > CONFLICT_VOXELS * min(geometry.spacing_mm):
        yield Note("qform_sform_conflict", f"The sform was taken; the qform is up to {apart_mm:.3g} mm away.")
