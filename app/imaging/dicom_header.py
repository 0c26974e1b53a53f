"""The header of one DICOM file: read with a bound on everything, and asked for numbers that may not be there.

No value of a header is ever part of an error: a damaged file can hold a patient's name anywhere.
"""

from __future__ import annotations

import io
import logging
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.config import IGNORE, settings
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from app.errors import CorruptFile, InvalidGeometry, TooLarge, UnsupportedFormat
from app.imaging.volume import Float64

#: Most headers end within this; where one does not, the whole file is read.
HEAD_BYTES = 1 << 16
#: Some multi-frame headers need more; none needs more than this, and an upload is looked at in the API process.
LONGEST_HEADER_BYTES = 1 << 24
#: Items of sequences in one header: each becomes an object a hundred times its size.
MOST_ITEMS = 100_000
_ITEM = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
#: The tag of the pixels, little and big endian.
_PIXELS = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")
_MAGIC_OFFSET = 128
#: How a file without preamble begins: group 8 or 2, a low element, little or big endian.
_BARE = (b"\x08\x00", b"\x02\x00", b"\x00\x08")

#: What the results must say about patient and study (type 1 and 2 of the standard), and nothing more.
PATIENT_AND_STUDY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber",
    "FrameOfReferenceUID", "PositionReferenceIndicator",
    "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
)  # fmt: skip
_READ = (
    "SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "Modality", "SeriesInstanceUID",
    "SeriesNumber", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SamplesPerPixel",
    "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleIntercept", "RescaleSlope", "RescaleType",
    "ModalityLUTSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    *PATIENT_AND_STUDY,
)  # fmt: skip

#: What pydicom raises on damaged files, found by fuzzing.
PYDICOM_RAISES = (
    InvalidDicomError, BytesLengthException, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError,
    NotImplementedError,
    struct.error, OverflowError, RecursionError, OSError, LookupError, AssertionError, RuntimeError,
)  # fmt: skip


def silence(library: str) -> None:
    """Let a library log nothing, whatever the level of the root logger."""
    logging.getLogger(library).setLevel(logging.CRITICAL + 1)


# pydicom repeats what it does not like in warnings and log lines; that can be the patient's name.
silence("pydicom")
settings.reading_validation_mode = IGNORE


@contextmanager
def unheard() -> Iterator[None]:
    """Keep pydicom's warnings, which repeat values of the header, to itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True, eq=False)
class Instance:
    """One DICOM file of an archive: `member` is its number there, `header` the attributes of interest.

    The header names the patient: it must never be shown. has_pixels: whether it ends where the pixels begin.
    """

    member: int
    header: Dataset = field(repr=False)
    transfer_syntax: UID
    has_pixels: bool

    @property
    def sop_class_uid(self) -> str:
        """Of the object, or, where it is empty, of the file."""
        return self._uid("SOPClassUID", "MediaStorageSOPClassUID")

    @property
    def sop_instance_uid(self) -> str:
        """Of the object, or, where it is empty, of the file."""
        return self._uid("SOPInstanceUID", "MediaStorageSOPInstanceUID")

    @property
    def series_uid(self) -> str:
        """Empty where the file has none."""
        return text(self.header, "SeriesInstanceUID")

    def share(self, other: Instance) -> None:
        """Hold once what both headers say alike: of thousands of slices, nearly everything. Raises CorruptFile."""
        try:
            for own, others in ((self.header, other.header), (self.header.file_meta, other.header.file_meta)):
                for tag in own.keys() & others.keys():
                    if own[tag].VR != "SQ" and own[tag] == others[tag]:
                        own[tag] = others[tag]
        except PYDICOM_RAISES:  # what nobody looked at before, such as the meta information, is decoded only here
            raise CorruptFile("A DICOM file in the zip is damaged: its header cannot be read.") from None

    def _uid(self, keyword: str, in_file_meta: str) -> str:
        return text(self.header, keyword) or text(self.header.file_meta, in_file_meta)


def has_magic(head: bytes) -> bool:
    """Whether a file that begins so says that it is DICOM."""
    return head[_MAGIC_OFFSET : _MAGIC_OFFSET + 4] == b"DICM"


def may_be_bare(head: bytes) -> bool:
    """Whether a file that begins so may be DICOM without the preamble, as some old exports are."""
    return head[:2] in _BARE and head[2:4] in (b"\x00\x00", b"\x05\x00", b"\x08\x00", b"\x00\x05", b"\x00\x08")


def parse_header(head: bytes, member: int, *, is_whole: bool) -> Instance | None:
    """The header at the start of `head`; None if more of the file is needed (never with `is_whole`).

    Raises CorruptFile, TooLarge or UnsupportedFormat.
    """
    if DeflatedExplicitVRLittleEndian.encode() in head:  # pydicom would unpack it all, whatever its size
        raise UnsupportedFormat(
            "A file is compressed as a whole (deflated transfer syntax): store it uncompressed.",
            code="unsupported_transfer_syntax",
        )
    if sum(head.count(item) for item in _ITEM) > MOST_ITEMS:
        raise TooLarge(f"A DICOM header holds more than {MOST_ITEMS} items.")
    source = io.BytesIO(head) if is_whole else _Beginning(head)
    try:
        with unheard():
            header = dcmread(source, stop_before_pixels=True, force=True, specific_tags=list(_READ))
            header.decode()
    except _NeedsMoreError:
        return None
    except PYDICOM_RAISES:
        raise CorruptFile("A DICOM file in the zip is damaged: its header cannot be read.") from None
    return Instance(member, header, _transfer_syntax(header), head[source.tell() :][:4] in _PIXELS)


def text(dataset: Dataset, keyword: str) -> str:
    """A value as text, without padding; empty if it is not there. Raises CorruptFile."""
    value = _value(dataset, keyword)
    return "" if value is None else str(value).strip("\0 ")


def words(dataset: Dataset, keyword: str) -> list[str]:
    """The values of an attribute of several, as text. Raises CorruptFile."""
    value = _value(dataset, keyword)
    if value is None:
        return []
    return [str(each).strip("\0 ") for each in (value if isinstance(value, MultiValue | list | tuple) else [value])]


def numbers(dataset: Dataset, keyword: str, count: int) -> Float64:
    """Exactly `count` finite numbers, (count,). Raises InvalidGeometry with code "missing_tags", or CorruptFile."""
    value = _value(dataset, keyword)
    if value is None or value == "":
        raise InvalidGeometry(f"A slice has no {keyword}, without which it cannot be used.", code="missing_tags")
    try:
        values = np.atleast_1d(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError):
        raise CorruptFile(f"A slice has a {keyword} that is no number.") from None
    if values.shape != (count,) or not np.isfinite(values).all():
        raise CorruptFile(f"A slice has a {keyword} that is not {count} finite number{'s' * (count > 1)}.")
    return values


def number(dataset: Dataset, keyword: str) -> float:
    """One finite number; raises as `numbers` does."""
    return float(numbers(dataset, keyword, 1)[0])


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; none if it is not there. Raises CorruptFile."""
    value = _value(dataset, keyword)
    if value is None:
        return []
    try:
        found: list[Any] = list(value)
    except PYDICOM_RAISES:
        found = [None]
    if not all(isinstance(item, Dataset) for item in found):
        raise CorruptFile(f"A DICOM file in the zip is damaged: {keyword} is no sequence.")
    return found


def _transfer_syntax(header: Dataset) -> UID:
    """As the file says, or, of a file without file meta information, as it could be read."""
    stated = text(header.file_meta, "TransferSyntaxUID")
    is_implicit, is_little_endian = header.original_encoding
    bare = ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian
    return UID(stated) if stated or not is_little_endian else bare


def _value(dataset: Dataset, keyword: str) -> Any:  # noqa: ANN401 - whatever pydicom makes of it
    try:
        with unheard():
            value = dataset.get(keyword)
    except PYDICOM_RAISES:
        raise CorruptFile(f"A DICOM file in the zip is damaged: its {keyword} cannot be read.") from None
    return value


class _NeedsMoreError(Exception):
    """The file goes on after what was read of it, and the header with it."""


class _Beginning(io.BytesIO):
    """The first bytes of a file: reading past them is not the end of the file."""

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size)
        if size is None or len(piece) < size or size < 0:
            raise _NeedsMoreError
        return piece
