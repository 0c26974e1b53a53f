"""From a file to a Volume: what the file is is decided by its content, never by its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from app.errors import InputError, InvalidReference, TooLarge
from app.imaging.header import NiftiHeader, Note, read_header
from app.imaging.nifti import read_hounsfield, read_label_values
from app.imaging.stream import ScanStream, open_stream
from app.imaging.volume import SAME_GRID_MM, Geometry, Segmentation, Volume


@dataclass(frozen=True)
class Limits:
    """The largest scan that is read: voxels, and unpacked bytes. Checked before anything is allocated."""

    max_voxels: int = 512 * 512 * 1500
    max_bytes: int = 2 << 30


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class ScanHeader:
    """What a scan says about itself: voxels and their size in mm along i, j, k, and where i, j, k point."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    orientation: str
    dtype: str
    notes: tuple[Note, ...]


@dataclass(frozen=True, eq=False)
class Scan:
    """A scan that was read, what its sender should know, and the SHA-256 of the file as it was sent."""

    volume: Volume
    notes: tuple[Note, ...]
    sha256: str


def probe_scan(path: Path, limits: Limits = DEFAULT_LIMITS) -> ScanHeader:
    """Check the header alone; reads the first few hundred kilobytes at most.

    Raises UnsupportedFormat, CorruptFile, TooLarge, InvalidGeometry or InvalidVoxels, all of them InputError.
    """
    with open_stream(path) as stream:
        header = _admitted(stream, limits)
    geometry = header.geometry
    return ScanHeader(
        shape=geometry.shape,
        spacing_mm=geometry.spacing_mm,
        orientation=geometry.axis_codes,
        dtype=header.dtype.name,
        notes=header.notes,
    )


def read_scan(path: Path, limits: Limits = DEFAULT_LIMITS) -> Scan:
    """Read a scan as Hounsfield units; raises what `probe_scan` raises.

    Memory stays near two bytes a voxel, whatever the file holds or claims to hold.
    """
    with open_stream(path) as stream:
        header = _admitted(stream, limits)
        hounsfield, notes = read_hounsfield(stream, header)
        sha256 = stream.finish()
    return Scan(Volume(hounsfield, header.geometry), (*header.notes, *notes), sha256)


def read_labels(path: Path, geometry: Geometry) -> Segmentation:
    """A reference segmentation: values exactly 0, 1 or 2 (of any datatype), on the very grid of the scan.

    Raises InvalidReference for whatever is wrong with it.
    """
    try:
        with open_stream(path) as stream:
            header = read_header(stream)
            _require_same_grid(header.geometry, geometry)
            stream.expect(header.total_bytes)
            labels = read_label_values(stream, header)
            stream.finish()
    except InvalidReference:
        raise
    except InputError as error:
        raise InvalidReference(f"The reference cannot be read. {error.detail}") from error
    return Segmentation(labels, geometry)


def _admitted(stream: ScanStream, limits: Limits) -> NiftiHeader:
    """The header, if what it announces is within the limits and within what the file can hold."""
    header = read_header(stream)
    if header.voxel_count > limits.max_voxels:
        raise TooLarge(
            f"The header announces {header.voxel_count} voxels {header.geometry.shape}; "
            f"at most {limits.max_voxels} are read."
        )
    if header.total_bytes > limits.max_bytes:
        raise TooLarge(f"The scan unpacks to {header.total_bytes} bytes; {limits.max_bytes} are allowed.")
    stream.expect(header.total_bytes)
    return header


def _require_same_grid(reference: Geometry, scan: Geometry) -> None:
    if reference.shape != scan.shape:
        raise InvalidReference(f"The reference has {reference.shape} voxels, the scan {scan.shape}.")
    if not scan.matches(reference):
        raise InvalidReference(
            f"Scan ({scan.axis_codes}) and reference ({reference.axis_codes}) have the same shape, but lie "
            f"up to {scan.apart_mm(reference):.3g} mm apart, where {SAME_GRID_MM} mm is allowed."
        )
