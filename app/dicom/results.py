"""A result as DICOM files: built, read back, compared, and only then given a name in the output folder."""

from __future__ import annotations

from pathlib import Path

from app.dicom.seg import Kind, build_segmentation, encoded
from app.dicom.segments import MOST_LESIONS, segments_of
from app.dicom.sr import build_report
from app.dicom.verification import verify_report, verify_segmentation
from app.imaging.atomic import written_whole
from app.imaging.dicom_header import unheard
from app.imaging.dicom_source import DicomSource
from app.imaging.volume import Segmentation
from app.quality import Finding
from app.report import Report

#: What is written beside the other results if a DICOM series came in.
DICOM_FILES = ("seg.dcm", "sr.dcm")


def write_dicom(
    output: Path, source: DicomSource, segmentation: Segmentation, report: Report, kind: Kind = "BINARY"
) -> None:
    """Write `DICOM_FILES` into `output`: the masks as a segmentation object, the numbers as a structured report.

    kind: how the masks are stored; few archives and viewers know LABELMAP yet. Raises BrokenResultError, and writes
    nothing, if what would be written does not say exactly what was found.
    """
    segments = segments_of(report)
    with unheard():  # highdicom repeats the patient's name in warnings
        seg = build_segmentation(source, segmentation, segments, kind)
        sr = encoded(build_report(source, seg, segments, report))
        segmentation_uid = str(seg.SOPInstanceUID)
        content = encoded(seg)
    verify_segmentation(content, segmentation, segments, report, source)
    verify_report(sr, segmentation_uid, segments, report)
    for name, written in zip(DICOM_FILES, (content, sr), strict=True):
        with written_whole(output / name) as file:
            file.write(written)


def remarks(report_lesions: int) -> tuple[Finding, ...]:
    """What a reader of the DICOM files should know that they cannot say themselves."""
    if report_lesions <= MOST_LESIONS:
        return ()
    detail = f"Of {report_lesions} lesions only the {MOST_LESIONS} largest are in the DICOM results."
    return (Finding(code="lesions_not_in_dicom", severity="warn", detail=detail),)
