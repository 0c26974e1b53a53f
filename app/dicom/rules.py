"""Which series the DICOM node takes, from whom, and how urgent they are: a TOML file, see docs/pacs.md."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydicom import dcmread
from pydicom.dataset import Dataset

from app.errors import CorruptFile, InputError, InvalidRequest
from app.imaging.dicom_header import PYDICOM_RAISES, items, number, numbers, text, unheard, words
from app.jobs.job import Priority

#: The caller that stands for all that are not named.
ANYBODY = "*"

_READ = (
    "SpecificCharacterSet", "Modality", "ImageType", "SeriesDescription", "ImageOrientationPatient", "SliceThickness",
    "NumberOfFrames", "SharedFunctionalGroupsSequence",
)  # fmt: skip
_PLANES = ("sagittal", "coronal", "axial")


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Take(_Table):
    """What a series must be; the patterns are searched for in its description, upper and lower case alike."""

    modalities: tuple[str, ...] = ("CT",)
    orientation: Literal["axial", "coronal", "sagittal", "any"] = "axial"
    least_slices: int = Field(20, ge=1)
    most_slices: int = Field(5000, ge=1)
    thickness_mm: tuple[float, float] = (0.0, 10.0)
    description: tuple[str, ...] = ()
    not_description: tuple[str, ...] = ()

    @field_validator("description", "not_description")
    @classmethod
    def _patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return patterns


class Rules(_Table):
    """The whole file. callers: AE title, or ANYBODY → the priority of what it sends."""

    take: Take = Take()
    callers: dict[str, Priority] = {ANYBODY: Priority.ROUTINE}

    def priority_of(self, caller: str) -> Priority | None:
        """None: nothing is taken from this caller."""
        return self.callers.get(caller, self.callers.get(ANYBODY))


def read_rules(path: Path | None) -> Rules:
    """The rules in a file, or the defaults. Raises InvalidRequest, saying what is wrong."""
    if path is None:
        return Rules()
    try:
        return Rules.model_validate(tomllib.loads(path.read_text("utf-8")))
    except OSError as error:
        raise InvalidRequest(f"The rules of the DICOM node cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The rules of the DICOM node are no TOML: {error}.") from None
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise InvalidRequest(f"The rules of the DICOM node: {'; '.join(faults)}.") from None


@dataclass(frozen=True)
class SeriesFacts:
    """What the rules look at. slices: without localizers; plane: axial, coronal, sagittal, or "" if not said."""

    modality: str
    slices: int
    plane: str
    thickness_mm: float | None
    description: str = field(repr=False)


def facts_of(files: Iterable[Path]) -> SeriesFacts:
    """What the headers of a series say, those of its first slice standing for all. Raises CorruptFile."""
    first: Dataset | None = None
    slices = 0
    for path in files:
        header = _header(path)
        if "LOCALIZER" in words(header, "ImageType"):
            continue
        slices += int(number(header, "NumberOfFrames")) if "NumberOfFrames" in header else 1
        first = first or header
    first = first or Dataset()
    return SeriesFacts(
        modality=text(first, "Modality"),
        slices=slices,
        plane=_plane(first),
        thickness_mm=_thickness_mm(first),
        description=text(first, "SeriesDescription"),
    )


def refusal_of(take: Take, facts: SeriesFacts) -> str | None:
    """The code of the first rule that the series breaks; None if it is taken."""
    thickness_mm = facts.thickness_mm
    low, high = take.thickness_mm
    broken = {
        "only_localizer": facts.slices == 0,
        "wrong_modality": facts.modality not in take.modalities,
        "too_few_slices": facts.slices < take.least_slices,
        "too_many_slices": facts.slices > take.most_slices,
        "wrong_orientation": take.orientation not in ("any", facts.plane),
        "wrong_thickness": thickness_mm is not None and not low <= thickness_mm <= high,
        "description_not_wanted": bool(take.description) and not _found(take.description, facts.description),
        "description_excluded": _found(take.not_description, facts.description),
    }
    return next((code for code, is_broken in broken.items() if is_broken), None)


def _found(patterns: tuple[str, ...], description: str) -> bool:
    return any(re.search(pattern, description, re.IGNORECASE) for pattern in patterns)


def _header(path: Path) -> Dataset:
    try:
        with unheard():
            header = dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(_READ))
            header.decode()
    except PYDICOM_RAISES:
        raise CorruptFile("A DICOM file of the series is damaged.") from None
    return header


def _plane(header: Dataset) -> str:
    try:
        directions = numbers(_holder(header, "PlaneOrientationSequence"), "ImageOrientationPatient", 6)
    except InputError:
        return ""
    normal = np.cross(directions[:3], directions[3:])
    return _PLANES[int(np.abs(normal).argmax())]


def _thickness_mm(header: Dataset) -> float | None:
    try:
        return float(numbers(_holder(header, "PixelMeasuresSequence"), "SliceThickness", 1)[0])
    except InputError:
        return None


def _holder(header: Dataset, group: str) -> Dataset:
    """Where an attribute stands: in the header, or of a multi-frame file in what its frames share."""
    shared = items(header, "SharedFunctionalGroupsSequence")
    found = items(shared[0], group) if shared else []
    return found[0] if found else header
