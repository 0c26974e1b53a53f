"""What a DICOM file says about each of its slices, one by one or many in one file (enhanced multi-frame)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from pydicom.dataset import Dataset

from app.errors import CorruptFile, InvalidGeometry, InvalidVoxels, NotCT, TooLarge, UnsupportedFormat
from app.imaging.dicom_decoding import PLUGINS
from app.imaging.dicom_header import Instance, items, number, numbers, text, words
from app.imaging.volume import Float64

CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
#: A file without these says nothing about a slice.
_LOCALIZER = "LOCALIZER"
_GREY = ("MONOCHROME1", "MONOCHROME2")
#: Directions of rows and columns are unit vectors at a right angle, but for this.
_DIRECTION_TOLERANCE = 1e-3
_HOUNSFIELD = ("", "HU", "HU_MOD", "US")
MOST_FRAMES = 20_000


@dataclass(frozen=True, eq=False)
class Slice:
    """One picture of a series.

    instance, frame: the file and, from 0, the picture in it. position_mm (3,): the centre of its first voxel, LPS.
    directions (2, 3): unit vectors along a row and down a column, LPS. spacing_mm: between columns, between rows.
    slope, intercept: stored * slope + intercept = HU. padding: stored values from and to which it is padding.
    """

    instance: Instance = field(repr=False)
    frame: int
    position_mm: Float64
    directions: Float64
    spacing_mm: Float64
    columns: int
    rows: int
    slope: float
    intercept: float
    padding: tuple[int, int] | None

    @property
    def normal(self) -> Float64:
        """Unit vector across the slice, LPS."""
        across: Float64 = np.cross(*self.directions)
        return across


def is_ct(instance: Instance) -> bool:
    """Whether the file holds CT pictures."""
    header = instance.header
    sop_class, modality = instance.sop_class_uid, text(header, "Modality")
    return modality in ("CT", "") and (sop_class in (CT, *ENHANCED_CT) or (modality == "CT" and not sop_class))


def is_enhanced(instance: Instance) -> bool:
    """Whether the file holds many slices, described by functional groups."""
    return instance.sop_class_uid in ENHANCED_CT


def is_localizer(instance: Instance) -> bool:
    """Whether the file holds the overview picture on which a scan is planned."""
    return _LOCALIZER in words(instance.header, "ImageType")


def slices_of(instance: Instance) -> tuple[Slice, ...]:
    """Every picture of a file. Raises an InputError that says what it lacks."""
    header = instance.header
    _require_grey(header)
    if instance.transfer_syntax not in PLUGINS:
        name = instance.transfer_syntax.name if instance.transfer_syntax.is_transfer_syntax else "unknown"
        raise UnsupportedFormat(
            f"The pictures are compressed in a way that is not read ({name}).", code="unsupported_transfer_syntax"
        )
    if is_enhanced(instance):
        return tuple(_frames(instance))
    if int(number(header, "NumberOfFrames") if "NumberOfFrames" in header else 1) != 1:
        raise CorruptFile("A CT file holds several pictures, but does not say where they lie.")
    return (_slice(instance, 0, dict.fromkeys(_GROUPS, header)),)


#: Where an enhanced file keeps what others have at the top.
_GROUPS = {
    "position": "PlanePositionSequence",
    "orientation": "PlaneOrientationSequence",
    "measures": "PixelMeasuresSequence",
    "values": "PixelValueTransformationSequence",
}


def _frames(instance: Instance) -> Iterator[Slice]:
    header = instance.header
    count = int(number(header, "NumberOfFrames"))
    per_frame = items(header, "PerFrameFunctionalGroupsSequence")
    shared = (items(header, "SharedFunctionalGroupsSequence") or [Dataset()])[0]
    if count > MOST_FRAMES:
        raise TooLarge(f"A file announces {count} slices; at most {MOST_FRAMES} are read.")
    if len(per_frame) != count or count < 1:
        raise CorruptFile(f"A file announces {count} slices, but describes {len(per_frame)}.")
    for frame, own in enumerate(per_frame):
        kind = _group(own, shared, "CTImageFrameTypeSequence")
        if _LOCALIZER in words(kind, "FrameType"):
            raise NotCT("A file holds an overview picture (localizer) among its slices.", code="only_localizer")
        yield _slice(instance, frame, {name: _group(own, shared, key) for name, key in _GROUPS.items()})


def _group(own: Dataset, shared: Dataset, keyword: str) -> Dataset:
    """A functional group of one frame: its own, else the one shared by all; empty if there is neither."""
    return (items(own, keyword) or items(shared, keyword) or [Dataset()])[0]


def _slice(instance: Instance, frame: int, groups: dict[str, Dataset]) -> Slice:
    header = instance.header
    rows, columns = int(number(header, "Rows")), int(number(header, "Columns"))
    if min(rows, columns) < 1:
        raise InvalidGeometry(f"A slice has {columns} x {rows} pixels.")
    spacing_mm = numbers(groups["measures"], "PixelSpacing", 2)[::-1]
    if min(spacing_mm) <= 0:
        raise InvalidGeometry("A slice has pixels of no size.")
    slope, intercept = _rescale(groups["values"])
    return Slice(
        instance=instance,
        frame=frame,
        position_mm=numbers(groups["position"], "ImagePositionPatient", 3),
        directions=_directions(groups["orientation"]),
        spacing_mm=spacing_mm,
        columns=columns,
        rows=rows,
        slope=slope,
        intercept=intercept,
        padding=_padding(header),
    )


def _directions(group: Dataset) -> Float64:
    """(2, 3): along a row, down a column; unit vectors."""
    directions = numbers(group, "ImageOrientationPatient", 6).reshape(2, 3)
    lengths = np.linalg.norm(directions, axis=1)
    if np.abs(lengths - 1).max() > _DIRECTION_TOLERANCE or abs(directions[0] @ directions[1]) > _DIRECTION_TOLERANCE:
        raise InvalidGeometry("The rows and columns of a slice are not at a right angle.", code="invalid_orientation")
    unit: Float64 = directions / lengths[:, None]
    return unit


def _rescale(group: Dataset) -> tuple[float, float]:
    """Slope and intercept to Hounsfield units."""
    if items(group, "ModalityLUTSequence"):
        raise InvalidVoxels("The grey values become Hounsfield units by a table; that is not read.")
    if text(group, "RescaleType").upper() not in _HOUNSFIELD:
        raise InvalidVoxels("The grey values are not in Hounsfield units (RescaleType).", code="not_hounsfield")
    slope, intercept = number(group, "RescaleSlope"), number(group, "RescaleIntercept")
    if slope <= 0:
        raise InvalidVoxels(f"The grey values are multiplied by {slope:g}: these cannot be Hounsfield units.")
    return slope, intercept


def _require_grey(header: Dataset) -> None:
    """Raises InvalidVoxels unless there is one whole number of one or two bytes a pixel."""
    if int(number(header, "SamplesPerPixel") if "SamplesPerPixel" in header else 1) != 1 or (
        "PhotometricInterpretation" in header and text(header, "PhotometricInterpretation") not in _GREY
    ):
        raise InvalidVoxels("The pictures are in colour; a CT has one number a pixel.", code="colour_image")
    allocated, stored = int(number(header, "BitsAllocated")), int(number(header, "BitsStored"))
    high = int(number(header, "HighBit")) if "HighBit" in header else stored - 1
    if allocated not in (8, 16) or not 1 <= stored <= allocated or high != stored - 1:
        raise InvalidVoxels(f"Pixels of {allocated} bits with {stored} used are not read; a CT has 16.")
    if number(header, "PixelRepresentation") not in (0, 1):
        raise CorruptFile("A slice does not say whether its values have a sign.")


def _padding(header: Dataset) -> tuple[int, int] | None:
    """The stored values, lowest and highest, that stand for padding."""
    if not text(header, "PixelPaddingValue"):
        return None
    ends = [int(number(header, "PixelPaddingValue"))]
    if text(header, "PixelPaddingRangeLimit"):
        ends.append(int(number(header, "PixelPaddingRangeLimit")))
    signed = [_in_range(end, header) for end in ends]
    return min(signed), max(signed)


def _in_range(value: int, header: Dataset) -> int:
    """The same bits as a pixel has them: some writers give the value without its sign, or the other way round."""
    bits = int(number(header, "BitsAllocated"))
    value %= 1 << bits
    return value - (1 << bits) if number(header, "PixelRepresentation") and value >> (bits - 1) else value
