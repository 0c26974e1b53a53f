"""A result as DICOM files: built, read back, compared, and only then given a name in the output folder.

What builds them is imported when a series came in: who segments NIfTI need not wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app.imaging.atomic import written_whole
from app.imaging.volume import Segmentation
from app.quality import Finding
from app.report import Report

if TYPE_CHECKING:
    from app.dicom.seg import Kind
    from app.imaging.dicom_source import DicomSource

#: What is written beside the other results if a DICOM series came in.
DICOM_FILES = ("seg.dcm", "sr.dcm")
#: And this, if it is wanted.
STRUCTURES = "rtstruct.dcm"


@dataclass(frozen=True)
class DicomForm:
    """seg_kind: how masks are stored; few archives and viewers know LABELMAP yet. rtstruct: whether outlines too."""

    seg_kind: Kind = "BINARY"
    rtstruct: bool = False


DEFAULT_FORM = DicomForm()


def write_dicom(
    output: Path, source: DicomSource, segmentation: Segmentation, report: Report, form: DicomForm = DEFAULT_FORM
) -> None:
    """Write `DICOM_FILES` into `output`: the masks as a segmentation object, the numbers as a structured report; and,
    if `form` wants them, the outlines as a structure set.

    Raises BrokenResultError, and writes nothing, if what would be written does not say exactly what was found.
    """
    from app.dicom.rtstruct import build_structures
    from app.dicom.seg import build_segmentation, encoded
    from app.dicom.segments import segments_of
    from app.dicom.sr import build_report
    from app.dicom.verification import verify_report, verify_segmentation, verify_structures
    from app.imaging.dicom_header import unheard

    segments = segments_of(report)
    with unheard():  # highdicom repeats the patient's name in warnings
        seg = build_segmentation(source, segmentation, segments, form.seg_kind)
        sr = build_report(source, seg, segments, report)
        files = dict(zip(DICOM_FILES, (encoded(seg), encoded(sr)), strict=True))
        if form.rtstruct:
            files[STRUCTURES] = encoded(build_structures(source, segmentation, seg, segments, report))
    seg_uid = str(seg.SOPInstanceUID)
    verify_segmentation(files["seg.dcm"], segmentation, segments, report, source)
    verify_report(files["sr.dcm"], seg_uid, segments, report)
    if form.rtstruct:
        verify_structures(files[STRUCTURES], segmentation, segments, report, (seg_uid, source))
    for name, content in files.items():
        with written_whole(output / name) as file:
            file.write(content)


def remarks(report_lesions: int) -> tuple[Finding, ...]:
    """What a reader of the DICOM files should know that they cannot say themselves."""
    from app.dicom.segments import MOST_LESIONS

    if report_lesions <= MOST_LESIONS:
        return ()
    detail = f"Of {report_lesions} lesions only the {MOST_LESIONS} largest are in the DICOM results."
    return (Finding(code="lesions_not_in_dicom", severity="warn", detail=detail),)
