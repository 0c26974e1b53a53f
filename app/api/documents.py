"""/jobs/{id}: what goes with a result: scan and reference as they came, a sheet to print, the lesions as a table."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse

from app.api.parts import HasParts, Parts
from app.api.problems import responses
from app.api.views import read_result
from app.errors import Conflict, Gone, NotFound
from app.imaging.archive import ZIP_MAGICS
from app.imaging.content import GZIP_MAGIC
from app.jobs.job import FINISHED, Job

if TYPE_CHECKING:
    from app.report import Report

router = APIRouter(prefix="/jobs", tags=["jobs"])

Documented = dict[int | str, dict[str, Any]]

_PIECE_BYTES = 1 << 20
_PRIVATE = {"Cache-Control": "private, no-cache"}
_FILE = {"schema": {"type": "string", "format": "binary"}}
_TEXT = {"schema": {"type": "string"}}
_SENT: Documented = {
    200: {"description": "A NIfTI file", "content": {"application/gzip": _FILE, "application/octet-stream": _FILE}}
}
_HTML: Documented = {200: {"description": "The sheet", "content": {"text/html": _TEXT}}}
_CSV: Documented = {200: {"description": "A row per lesion", "content": {"text/csv": _TEXT}}}


@router.get("/{job_id}/scan", response_class=Response, responses={**_SENT, **responses(404, 409, 410, 422)})
def get_scan(parts: HasParts, job_id: str) -> Response:
    """The CT as NIfTI, so that a viewer can show it under the labels: as it was sent, or made of the DICOM series.

    That of a DICOM series is there once the job has succeeded.
    """
    job = parts.store.get_alive(job_id)
    path = parts.files.scan(job.id)
    if _is_zip(path):
        path = parts.files.result(job.id, _published(job, "scan as NIfTI"), "scan.nii.gz")
    return _as_sent(path, f"{job.id}-scan")


@router.get("/{job_id}/reference", response_class=Response, responses={**_SENT, **responses(404, 410, 422)})
def get_reference(parts: HasParts, job_id: str) -> Response:
    """The reference as it was sent; 404 if none was."""
    job = parts.store.get_alive(job_id)
    path = parts.files.reference(job.id)
    if path is None:
        raise NotFound("No reference was sent with this scan.")
    return _as_sent(path, f"{job.id}-reference")


@router.get("/{job_id}/sheet.html", response_class=Response, responses={**_HTML, **responses(404, 409, 410, 422)})
def get_sheet(parts: HasParts, job_id: str) -> Response:
    """One page to print or keep: picture, numbers, networks. It needs no other file."""
    from app.sheet import SHEET_POLICY, sheet_html

    job, report = _report_of(parts, job_id)
    page = sheet_html(report, read_result(parts, job, "preview.png"), job_id=job.id, made_at=job.completed_at)
    headers = {"Content-Security-Policy": SHEET_POLICY, "Cache-Control": "private, no-cache"}
    return Response(page, media_type="text/html", headers=headers)


@router.get("/{job_id}/lesions.csv", response_class=Response, responses={**_CSV, **responses(404, 409, 410, 422)})
def get_lesions_csv(parts: HasParts, job_id: str) -> Response:
    """The lesions as a table for a spreadsheet."""
    from app.sheet import lesions_csv

    job, report = _report_of(parts, job_id)
    headers = {"Content-Disposition": f'attachment; filename="{job.id}-lesions.csv"'}
    return Response(lesions_csv(report), media_type="text/csv", headers=headers)


@router.get("/{job_id}/follow_up.csv", response_class=Response, responses={**_CSV, **responses(404, 409, 410, 422)})
def get_follow_up_csv(parts: HasParts, job_id: str) -> Response:
    """What became of each lesion since the prior scan, for a spreadsheet; 404 if no prior was sent."""
    from app.followup.shown import follow_up_csv

    job, report = _report_of(parts, job_id)
    if report.follow_up is None:
        raise NotFound("There is no follow_up.csv: no prior was sent with this scan.")
    headers = {"Content-Disposition": f'attachment; filename="{job.id}-follow_up.csv"'}
    return Response(follow_up_csv(report.follow_up), media_type="text/csv", headers=headers)


def _report_of(parts: Parts, job_id: str) -> tuple[Job, Report]:
    # What measures is large, and a service that is never asked for a sheet does without it.
    from app.report import Report

    job = parts.store.get_alive(job_id)
    _published(job, "report")
    return job, Report.model_validate_json(read_result(parts, job, "report.json"))


def _published(job: Job, what: str) -> int:
    """The attempt that holds the results; raises Conflict if there are none."""
    if job.published is None:
        state = job.status if job.status in FINISHED else f"still {job.status}"
        raise Conflict(f"There is no {what}: the job is {state}.")
    return job.published


def _as_sent(path: Path, name: str) -> Response:
    """The file in pieces, from a descriptor that stays good if the job is erased meanwhile."""
    file = _opened(path)
    packed = file.peek(2).startswith(GZIP_MAGIC)
    kind, suffix = ("application/gzip", ".nii.gz") if packed else ("application/octet-stream", ".nii")
    headers = {
        **_PRIVATE,
        "Content-Length": str(os.fstat(file.fileno()).st_size),
        "Content-Disposition": f'attachment; filename="{name}{suffix}"',
    }
    return StreamingResponse(_pieces(file), media_type=kind, headers=headers)


def _pieces(file: BufferedReader) -> Iterator[bytes]:
    with file:
        yield from iter(lambda: file.read(_PIECE_BYTES), b"")


def _opened(path: Path) -> BufferedReader:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise Gone("The scan of this job is erased.") from None


def _is_zip(path: Path) -> bool:
    with _opened(path) as file:
        return file.read(4).startswith(ZIP_MAGICS)
