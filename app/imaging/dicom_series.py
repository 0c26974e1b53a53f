"""A zip with DICOM files → one CT series → a Volume. See docs/pacs.md for the rules."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from app.errors import CorruptFile, InputError, InvalidRequest, NotCT, TooLarge, UnsupportedFormat
from app.imaging.archive import Archive, open_archive
from app.imaging.dicom_grid import Stack, stacked
from app.imaging.dicom_header import (
    HEAD_BYTES,
    LONGEST_HEADER_BYTES,
    Instance,
    has_magic,
    may_be_bare,
    parse_header,
    text,
)
from app.imaging.dicom_slices import is_ct, is_enhanced, is_localizer, slices_of
from app.imaging.dicom_source import DicomSource
from app.imaging.dicom_voxels import read_voxels
from app.imaging.header import Note
from app.imaging.volume import Geometry, Volume

_DIRECTORY = "1.2.840.10008.1.3.10"
#: As much of a series' UID is shown: enough to tell the series of a study apart, too little to find the patient.
_SUFFIX = 8
_MOST_LISTED = 20
_OTHER_MODALITIES = {"MR", "PT", "NM", "US", "CR", "DX", "MG", "XA", "RF", "SC", "OT", "SEG", "SR", "PR", "RTSTRUCT"}


@dataclass(frozen=True, eq=False)
class Series:
    """A series that was read, what its sender should know, and what results must refer to."""

    volume: Volume
    notes: tuple[Note, ...]
    sha256: str
    source: DicomSource


@dataclass(frozen=True)
class SeriesLimits:
    """The most voxels and unpacked bytes that are read."""

    max_voxels: int
    max_bytes: int


def probe_series(path: Path, limits: SeriesLimits, series_uid: str | None = None) -> tuple[Geometry, tuple[Note, ...]]:
    """The grid of the one CT series in a zip, from its headers alone; no pixel is unpacked.

    Raises InputError: see docs/pacs.md for each code.
    """
    with open_archive(path, limits.max_bytes) as archive:
        stack, notes = _chosen(archive, limits, series_uid)
    return stack.geometry, notes


def read_series(path: Path, limits: SeriesLimits, series_uid: str | None = None) -> Series:
    """Read the one CT series in a zip, or that with `series_uid`, as Hounsfield units; raises what probing raises.

    Memory stays near two bytes a voxel and one file of the series.
    """
    with open_archive(path, limits.max_bytes) as archive:
        stack, notes = _chosen(archive, limits, series_uid)
        archive.renew()
        voxels, about_voxels = read_voxels(archive, stack)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    source = DicomSource.of(stack.slices)
    notes = (*notes, *about_voxels, *source.notes)
    return Series(Volume(voxels, stack.geometry), notes, sha256, source)


def _chosen(archive: Archive, limits: SeriesLimits, series_uid: str | None) -> tuple[Stack, tuple[Note, ...]]:
    notes = []
    if archive.unsafe:
        notes.append(Note("unsafe_names", f"{archive.unsafe} files whose names lead out of the zip were ignored."))
    series, left_out = _select(_by_series(archive), series_uid)
    if left_out:
        notes.append(Note("localizer_ignored", f"{left_out} overview pictures (localizers) were left out."))
    if len(series) > 1 and any(is_enhanced(instance) for instance in series):
        raise InputError("The series is split into several multi-frame files; send it as one.", code="split_series")
    slices = [each for instance in series for each in slices_of(instance)]
    voxels = sum(each.rows * each.columns for each in slices)
    if voxels > limits.max_voxels:
        raise TooLarge(f"The series has {voxels} voxels; at most {limits.max_voxels} are read.")
    return stacked(slices), tuple(notes)


def _by_series(archive: Archive) -> dict[str, list[Instance]]:
    """Every DICOM file but directories, by the UID of its series. Raises UnsupportedFormat if there is none."""
    series: dict[str, list[Instance]] = defaultdict(list)
    for instance in _instances(archive):
        if instance.sop_class_uid != _DIRECTORY:
            alike = series[instance.series_uid]
            if alike:
                instance.share(alike[0])
            alike.append(instance)
    if not series:
        raise UnsupportedFormat(
            "The zip holds no DICOM files. Send a CT as NIfTI or as a zip of one DICOM series.", code="no_dicom"
        )
    return series


def _instances(archive: Archive) -> Iterator[Instance]:
    """The DICOM files of an archive. One that says it is DICOM must be readable: it could be a slice."""
    for member in range(len(archive)):
        head = archive.head(member, HEAD_BYTES)
        if has_magic(head):
            yield _parsed(archive, member, head)
        elif may_be_bare(head):
            with suppress(CorruptFile):  # then it was something else that begins so
                yield _parsed(archive, member, head)


def _parsed(archive: Archive, member: int, head: bytes) -> Instance:
    instance = parse_header(head, member, is_whole=archive.size(member) <= len(head))
    if instance is None and archive.size(member) > len(head):
        # A long header; a longer one than this is a bomb.
        head = archive.head(member, LONGEST_HEADER_BYTES)
        instance = parse_header(head, member, is_whole=archive.size(member) <= len(head))
        if instance is None:
            raise TooLarge(f"A DICOM header is longer than {LONGEST_HEADER_BYTES} bytes.")
    if instance is None or not (instance.sop_class_uid or text(instance.header, "Modality")):
        raise CorruptFile("A DICOM file in the zip is damaged: it does not say what it is.")
    return instance


def _select(found: dict[str, list[Instance]], series_uid: str | None) -> tuple[list[Instance], int]:
    """The files of the one CT series, or of the wanted one, without localizers; and how many of those there were."""
    ct = {uid: [each for each in instances if is_ct(each)] for uid, instances in found.items()}
    ct = {uid: instances for uid, instances in ct.items() if instances}
    if not ct:
        raise NotCT(f"The zip holds no CT pictures, but {_modalities(found)}.")
    if not all(each.has_pixels for instances in ct.values() for each in instances):
        raise CorruptFile("A CT file in the zip is cut off: it has no pixels.")
    scans = {uid: [each for each in instances if not is_localizer(each)] for uid, instances in ct.items()}
    scans = {uid: instances for uid, instances in scans.items() if instances}
    if not scans:
        raise NotCT("The zip holds only overview pictures (localizers) of a CT.", code="only_localizer")
    wanted = list(scans) if series_uid is None else _matching(scans, series_uid)
    if len(wanted) > 1:
        raise InputError(
            f"The zip holds {len(wanted)} CT series; say which with series_uid, or send one. {_listed(scans, wanted)}",
            code="several_series",
        )
    if not wanted:
        raise InvalidRequest(
            f"The zip holds no CT series with this series_uid. {_listed(scans, list(scans))}", code="unknown_series"
        )
    left_out = sum(len(instances) for instances in ct.values()) - sum(len(instances) for instances in scans.values())
    return scans[wanted[0]], left_out


def _matching(scans: dict[str, list[Instance]], series_uid: str) -> list[str]:
    """The series with this UID; else those whose UID ends so."""
    ending = series_uid.strip().lstrip("…")
    if ending in scans:
        return [ending]
    return [uid for uid in scans if ending and uid.endswith(ending)]


def _modalities(found: dict[str, list[Instance]]) -> str:
    """What the files are, as far as they say it with a code that names no one."""
    said = {text(each.header, "Modality") for instances in found.values() for each in instances}
    known = sorted(said & _OTHER_MODALITIES)
    return f"files of modality {', '.join(known)}" if known else "other DICOM files"


def _listed(scans: dict[str, list[Instance]], uids: Sequence[str]) -> str:
    """One phrase a series that tells them apart without a word about the patient."""
    phrases = [f"UID ending in …{uid[-_SUFFIX:] or '?'}: {_described(scans[uid])}" for uid in uids[:_MOST_LISTED]]
    more = [f"and {len(uids) - _MOST_LISTED} more"] if len(uids) > _MOST_LISTED else []
    return "; ".join([*phrases, *more]) + "."


def _described(instances: list[Instance]) -> str:
    """How many slices, and how they lie."""
    try:
        slices = [each for instance in instances for each in slices_of(instance)]
    except InputError:
        return f"{len(instances)} files, not readable"
    across = abs(slices[0].normal)
    plane = ("sagittal", "coronal", "axial")[int(across.argmax())]
    return f"{len(slices)} slices, {plane}, {slices[0].columns} x {slices[0].rows}"
