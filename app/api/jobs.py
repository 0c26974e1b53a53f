"""/jobs: how they stand, what came of them, and away with them."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent

from app.api.parts import HasParts
from app.api.problems import responses
from app.api.views import JobBody, JobPage, body_of, read_result, summary_of
from app.errors import Conflict, InvalidRequest, NotFound
from app.jobs.job import FINISHED, Job, Status
from app.jobs.results import DICOM_NAMES, RECEIPT_NAME

router = APIRouter(prefix="/jobs", tags=["jobs"])

#: Of the files that not every published job has: why one is not there.
_WHY_MISSING = dict.fromkeys(DICOM_NAMES, "no DICOM series was sent, or this service does not write it") | {
    RECEIPT_NAME: "this job was run before there were receipts"
}

_LOOK_EVERY_S = 0.2
_GZIP, _DICOM = "application/gzip", "application/dicom"
_BINARY = {"schema": {"type": "string", "format": "binary"}}


@router.get("", responses=responses(422))
def list_jobs(
    parts: HasParts,
    status: Annotated[Status | None, Query(description="only these; erased jobs are listed only on demand")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=200, description="`next` of the page before")] = None,
) -> JobPage:
    """Jobs, newest first."""
    found = parts.store.page(status, limit + 1, None if cursor is None else _read_cursor(cursor))
    shown = found[:limit]
    more = len(found) > limit
    return JobPage(jobs=[summary_of(parts, job) for job in shown], next=_cursor_of(shown[-1]) if more else None)


@router.get("/{job_id}", responses=responses(404, 410, 422))
def get_job(parts: HasParts, job_id: str) -> JobBody:
    """How a job stands, with its report once it has succeeded."""
    return body_of(parts, parts.store.get_alive(job_id))


@router.post("/{job_id}/cancel", responses=responses(404, 409, 410, 422))
def cancel_job(parts: HasParts, job_id: str) -> JobBody:
    """Cancel a job: at once if it waits, within moments if it runs. Again is no error; after its end it is."""
    return body_of(parts, parts.store.cancel(job_id))


@router.delete("/{job_id}", status_code=204, responses=responses(404, 422))
def erase_job(parts: HasParts, job_id: str) -> None:
    """Erase every byte of a job, canceling it first if need be. Afterwards it is answered with 410."""
    parts.store.erase(job_id)
    parts.files.erase(job_id)


async def _alive(parts: HasParts, job_id: str) -> Job:
    return await run_in_threadpool(parts.store.get_alive, job_id)


@router.get(
    "/{job_id}/events", response_class=EventSourceResponse, responses=responses(404, 410, 422), response_model=None
)
async def watch_job(
    parts: HasParts,
    job: Annotated[Job, Depends(_alive)],
    last_event_id: Annotated[str | None, Header(description="events up to this one are not repeated")] = None,
) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events: `stage` and `progress` while the job runs, `completed` with the whole job at its end.

    A service that stops ends them before; a browser then connects again by itself.
    """
    seen = last_event_id
    stage: str | None = None
    while job.status not in FINISHED and job.status is not Status.EXPIRED:
        if str(job.revision) != seen:
            kind = "progress" if job.stage == stage else "stage"
            seen, stage = str(job.revision), job.stage
            data = {"status": job.status, "stage": job.stage, "progress": job.progress}
            yield ServerSentEvent(event=kind, id=seen, data=data)
        if parts.closing.is_set():
            return
        await asyncio.sleep(_LOOK_EVERY_S)
        job = await run_in_threadpool(parts.store.get, job.id)
    body = await run_in_threadpool(body_of, parts, job)
    yield ServerSentEvent(event="completed", id=str(job.revision), data=body.model_dump(mode="json", by_alias=True))


def _add_result(name: str, media_type: str, what: str) -> None:
    content = {media_type: {} if media_type == "application/json" else _BINARY}

    @router.get(
        f"/{{job_id}}/{name}",
        name=f"get_{name.replace('.', '_')}",
        response_class=Response,
        responses={
            200: {"description": what, "content": content},
            304: {"description": "Not modified"},
            **responses(404, 409, 410, 422),
        },
    )
    def get_result(parts: HasParts, job_id: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
        job = parts.store.get_alive(job_id)
        if job.published is None:
            state = job.status if job.status in FINISHED else f"still {job.status}"
            raise Conflict(f"There is no {name}: the job is {state}.")
        if name in _WHY_MISSING and name not in parts.files.names(job.id, job.published):
            raise NotFound(f"There is no {name}: {_WHY_MISSING[name]}.")
        headers = {"ETag": f'"{job.id}-{job.published}-{name}"', "Cache-Control": "private, no-cache"}
        if if_none_match is not None and headers["ETag"] in if_none_match:
            return Response(status_code=304, headers=headers)
        headers["Content-Disposition"] = f'attachment; filename="{job.id}-{name}"'
        return Response(read_result(parts, job, name), media_type=media_type, headers=headers)

    get_result.__doc__ = what


_add_result("labels.nii.gz", _GZIP, "Labels on the grid of the scan: 0 background, 1 liver, 2 lesion (uint8).")
_add_result("liver.nii.gz", _GZIP, "The liver with its lesions: 0 or 1 (uint8).")
_add_result("lesions.nii.gz", _GZIP, "Each lesion with the id it has in the report.")
_add_result("report.json", "application/json", "What was measured.")
_add_result("preview.png", "image/png", "Slices with the contours drawn in.")
_add_result("receipt.json", "application/json", "What went in, what ran and what came out, by SHA-256, signed.")
_add_result("seg.dcm", _DICOM, "Liver and lesions as a DICOM segmentation; 404 if no DICOM series was sent.")
_add_result("sr.dcm", _DICOM, "What was measured as a DICOM structured report; 404 if no DICOM series was sent.")
_add_result("rtstruct.dcm", _DICOM, "Outlines as an RT structure set; 404 without DICOM, or where none is written.")


def _cursor_of(job: Job) -> str:
    return base64.urlsafe_b64encode(f"{job.created_at.timestamp()!r} {job.id}".encode()).decode()


def _read_cursor(cursor: str) -> tuple[datetime, str]:
    try:
        seconds, job_id = base64.b64decode(cursor, altchars=b"-_", validate=True).decode().split(" ")
        bytes.fromhex(job_id)  # as every id is; a NUL would be more than PostgreSQL can be asked for
        return datetime.fromtimestamp(float(seconds), UTC), job_id
    except (binascii.Error, ValueError, OverflowError, OSError):
        raise InvalidRequest("`cursor` is not one that a page gave as `next`.") from None
