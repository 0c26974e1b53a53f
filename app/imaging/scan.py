"""From a file to a Volume: what the file is is decided by its content, never by its name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app.errors import InputError, InvalidReference, InvalidRequest, TooLarge
from app.imaging.archive import ZIP_MAGICS
from app.imaging.header import NiftiHeader, Note, read_header, require_extent
from app.imaging.nifti import read_hounsfield, read_label_values
from app.imaging.stream import ScanStream, open_stream
from app.imaging.volume import SAME_GRID_MM, Geometry, Segmentation, Volume

if TYPE_CHECKING:
    from app.imaging.dicom_series import SeriesLimits
    from app.imaging.dicom_source import DicomSource


@dataclass(frozen=True)
class Limits:
    """The largest scan that is read: voxels, and unpacked bytes. Checked before anything is allocated."""

    max_voxels: int = 512 * 512 * 1500
    max_bytes: int = 2 << 30


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class ScanHeader:
    """What a scan says about itself. lowest_hu: the lowest value that its stored voxels can mean."""

    geometry: Geometry
    dtype: str
    lowest_hu: float
    notes: tuple[Note, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along i, j, k."""
        return self.geometry.shape


@dataclass(frozen=True, eq=False)
class Scan:
    """A scan that was read, what its sender should know, and the SHA-256 of the file as it was sent.

    dicom: what results must refer to if it was a DICOM series, None if it was NIfTI.
    """

    volume: Volume
    notes: tuple[Note, ...]
    sha256: str
    dicom: DicomSource | None = None


def probe_scan(path: Path, limits: Limits = DEFAULT_LIMITS, series_uid: str | None = None) -> ScanHeader:
    """Check the header alone; reads the first few hundred kilobytes at most, of a DICOM series those of each slice.

    Raises UnsupportedFormat, CorruptFile, TooLarge, InvalidGeometry or InvalidVoxels, of a zip also NotCT,
    InvalidRequest or one with code "several_series"; all of them are InputError.
    """
    if _is_zip(path):
        from app.imaging.dicom_series import probe_series

        geometry, notes = probe_series(path, _series_limits(limits), series_uid)
        return ScanHeader(geometry, "int16", -math.inf, notes)
    _require_no_series(series_uid)
    with open_stream(path) as stream:
        header = _admitted(stream, limits)
    return ScanHeader(header.geometry, header.dtype.name, header.lowest_hu, header.notes)


def read_scan(path: Path, limits: Limits = DEFAULT_LIMITS, series_uid: str | None = None) -> Scan:
    """Read a scan as Hounsfield units: NIfTI, or a zip with one DICOM series or with that of `series_uid`.

    Raises what `probe_scan` raises. Memory stays near two bytes a voxel, whatever the file holds or claims to hold.
    """
    if _is_zip(path):
        from app.imaging.dicom_series import read_series

        series = read_series(path, _series_limits(limits), series_uid)
        return Scan(series.volume, series.notes, series.sha256, series.source)
    _require_no_series(series_uid)
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


def read_own_labels(path: Path, limits: Limits = DEFAULT_LIMITS) -> tuple[Segmentation, str]:
    """Labels exactly 0, 1 or 2 of another scan, on their own grid, and the SHA-256 of the file.

    Raises an InputError for whatever is wrong with them.
    """
    with open_stream(path) as stream:
        header = _admitted(stream, limits)
        labels = read_label_values(stream, header)
        sha256 = stream.finish()
    return Segmentation(labels, header.geometry), sha256


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in ZIP_MAGICS


def _series_limits(limits: Limits) -> SeriesLimits:
    from app.imaging.dicom_series import SeriesLimits

    return SeriesLimits(limits.max_voxels, limits.max_bytes)


def _require_no_series(series_uid: str | None) -> None:
    if series_uid is not None:
        raise InvalidRequest("series_uid selects a series of a zip; a NIfTI file has none.")


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
    require_extent(header.geometry)
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
