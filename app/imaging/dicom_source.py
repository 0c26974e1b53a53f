"""What results must say about the series they come from: patient, study and a reference to each slice. No pixels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID, generate_uid

from app.imaging.dicom_header import PATIENT_AND_STUDY, items, text, words
from app.imaging.dicom_slices import ENHANCED_CT, Slice
from app.imaging.header import Note
from app.imaging.volume import Float64

_UIDS = ("StudyInstanceUID", "FrameOfReferenceUID")
#: Values of another form would make the results invalid; these attributes may be empty.
_FORMS = {
    "PatientBirthDate": r"\d{8}",
    "StudyDate": r"\d{8}",
    "StudyTime": r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?",
    "PatientSex": r"[MFO]",
}
_COMPRESSION = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
_FRAME_GROUPS = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")


@dataclass(frozen=True, eq=False)
class SourceImage:
    """A slice of the volume: its file, its number in that from 1 (None if it is alone), its place (3,) in LPS mm."""

    sop_class_uid: str
    sop_instance_uid: str
    frame_number: int | None
    position_mm: Float64


@dataclass(frozen=True, eq=False)
class DicomSource:
    """The series a volume was read from, as results refer to it. It names the patient: never log it, never show it.

    patient_and_study: what the standard requires (type 1 and 2), in UTF-8. images: in the order of k. directions
    (2, 3): along a row and down a column, LPS. spacing_mm (2,): between columns, between rows. multiframe: the
    functional groups of an enhanced file, None otherwise. notes: what was missing and had to be made up.
    """

    patient_and_study: Dataset = field(repr=False)
    series_uid: str = field(repr=False)
    images: tuple[SourceImage, ...] = field(repr=False)
    directions: Float64
    spacing_mm: Float64
    multiframe: Dataset | None = field(repr=False)
    notes: tuple[Note, ...]

    @property
    def slice_distance_mm(self) -> float:
        """From one slice to the next."""
        first, last = self.images[0].position_mm, self.images[-1].position_mm
        return float(np.linalg.norm(last - first)) / (len(self.images) - 1)

    @classmethod
    def of(cls, slices: Sequence[Slice]) -> DicomSource:
        """Collect it from the slices of a stack, in the order of k."""
        first = slices[0].instance
        is_enhanced = first.sop_class_uid in ENHANCED_CT
        header = _patient_and_study(first.header)
        made_up = [keyword for keyword in _UIDS if not _is_uid(text(header, keyword))]
        for keyword in made_up:
            setattr(header, keyword, generate_uid(prefix=None))
        images = [_image(each, is_enhanced=is_enhanced) for each in slices]
        series_uid = first.series_uid if _is_uid(first.series_uid) else ""
        # Some anonymisers give all slices one UID: a viewer could not tell which of them is meant.
        said = Counter(map(_name, images))
        has_own = [_is_uid(uid) and said[uid, number] == 1 for uid, number in map(_name, images)]
        is_complete = series_uid and not made_up and all(has_own)
        note = Note("uids_missing", "The series lacks identifiers; its DICOM results cannot be linked to it by a PACS.")
        return cls(
            patient_and_study=header,
            series_uid=series_uid or generate_uid(prefix=None),
            images=tuple(each if own else _renamed(each) for each, own in zip(images, has_own, strict=True)),
            directions=slices[0].directions,
            spacing_mm=slices[0].spacing_mm,
            multiframe=_functional_groups(first.header) if is_enhanced else None,
            notes=() if is_complete else (note,),
        )


def _patient_and_study(header: Dataset) -> Dataset:
    """The required attributes, each there even if empty, without what has not the form it must have."""
    copied = Dataset()
    copied.SpecificCharacterSet = "ISO_IR 192"
    for keyword in PATIENT_AND_STUDY:
        values = words(header, keyword)
        if keyword in _COMPRESSION and not values:
            continue
        value = "\\".join(values)
        if keyword in _FORMS and not re.fullmatch(_FORMS[keyword], value):
            value = ""
        setattr(copied, keyword, value)
    return copied


def _image(slice_: Slice, *, is_enhanced: bool) -> SourceImage:
    instance = slice_.instance
    number = slice_.frame + 1 if is_enhanced else None
    return SourceImage(instance.sop_class_uid, instance.sop_instance_uid, number, slice_.position_mm)


def _name(image: SourceImage) -> tuple[str, int | None]:
    return image.sop_instance_uid, image.frame_number


def _renamed(image: SourceImage) -> SourceImage:
    return replace(image, sop_instance_uid=generate_uid(prefix=None))


def _is_uid(value: str) -> bool:
    return bool(value) and UID(value).is_valid


def _functional_groups(header: Dataset) -> Dataset:
    """Where each frame lies, and nothing else: other groups can hold dates and names."""
    kept = Dataset()
    kept.NumberOfFrames = header.NumberOfFrames
    for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        groups = []
        for frame in items(header, keyword):
            places = Dataset()
            for name in _FRAME_GROUPS:
                if name in frame:
                    setattr(places, name, frame[name].value)
            groups.append(places)
        setattr(kept, keyword, groups)
    return kept
