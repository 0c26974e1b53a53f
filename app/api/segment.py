"""POST /segment: take a scan in, so that nothing can lose it any more, and answer."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from app.api.from_server import SeriesAtServer, fetch, is_json
from app.api.parts import HasParts, Parts
from app.api.prior import keep_prior
from app.api.problems import responses
from app.api.upload import Upload, receive, refuse_too_long
from app.api.views import JobBody, body_of
from app.errors import NO_ROOM, InputError, InvalidReference, NotReady, StorageFull
from app.imaging.scan import ScanHeader, probe_scan
from app.jobs.job import FINISHED, Job
from app.jobs.store import Order
from app.jobs.webhooks import check_address
from app.quality import check_header, require

router = APIRouter(tags=["segment"])

_LONGEST_WAIT_S = 60
_LOOK_EVERY_S = 0.1

#: The `Idempotency-Key` of who wants the same body to be the same job.
BY_CONTENT = "content"
_PRIORITY = {"type": "string", "enum": ["routine", "urgent", "stat"], "default": "routine"}
_PRIOR = {
    "type": "string",
    "pattern": "^[0-9a-f]{32}$",
    "description": "id of a finished job of the same patient: the report says what has changed since",
}
_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "additionalProperties": False,
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "CT as .nii, .nii.gz or .zip with one DICOM series; decided by content",
                        },
                        "reference": {
                            "type": "string",
                            "format": "binary",
                            "description": "NIfTI with 0 background, 1 liver, 2 lesion on the grid of `file`",
                        },
                        "prior": _PRIOR,
                        "prior_labels": {
                            "type": "string",
                            "format": "binary",
                            "description": "instead of `prior`: NIfTI with 0, 1, 2 of an earlier scan, on its own grid",
                        },
                        "priority": _PRIORITY,
                        "series_uid": {
                            "type": "string",
                            "maxLength": 64,
                            "description": "which series of a zip with several: its UID, or how it ends",
                        },
                    },
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["dicomweb"],
                    "additionalProperties": False,
                    "properties": {
                        "dicomweb": SeriesAtServer.model_json_schema(),
                        "priority": _PRIORITY,
                        "prior": _PRIOR,
                    },
                }
            },
        },
    }
}
_LOCATION: dict[str, Any] = {"headers": {"Location": {"schema": {"type": "string"}, "description": "/jobs/{id}"}}}


@router.post(
    "/segment",
    status_code=202,
    response_model=JobBody,
    openapi_extra=_FORM,
    responses={
        202: {"description": "Accepted: the scan is safe and waits for a worker", **_LOCATION},
        200: {"description": "Finished within the time that Prefer allowed", "model": JobBody, **_LOCATION},
        **responses(400, 413, 415, 422, 429, 502, 503, 507),
    },
)
async def segment(
    request: Request,
    parts: HasParts,
    prefer: Annotated[
        str | None, Header(description="wait=N: answer when the job has ended, or after N (up to 60) seconds")
    ] = None,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=255,
            description="A repetition with the same key and body gives the same job; `content`: with the same body",
        ),
    ] = None,
    hepaseg_webhook: Annotated[
        str | None, Header(max_length=2000, description="https address that is told, signed, when the job has ended")
    ] = None,
) -> Response:
    """Segment the liver and its lesions in a CT, sent as a form, or named as a series of the DICOMweb server."""
    await run_in_threadpool(admit, request, parts, idempotency_key)
    webhook = None if hepaseg_webhook is None else check_address(hepaseg_webhook, parts.settings)
    largest = parts.settings.max_upload_bytes

    async def bring(folder: Path) -> Upload:
        sent = await (fetch(request, parts, folder) if is_json(request) else receive(request, folder, largest))
        return replace(sent, webhook=webhook)

    job = await take_in(parts, bring, idempotency_key)
    wait_s = _wait_of(prefer)
    if wait_s:
        job = await _ended_within(parts, job, wait_s)
    body = await run_in_threadpool(body_of, parts, job)
    headers = {"Location": f"/jobs/{job.id}"}
    if wait_s:
        headers["Preference-Applied"] = f"wait={wait_s}"
    if job.status in FINISHED:
        return JSONResponse(body.model_dump(mode="json", by_alias=True), 200 if wait_s else 202, headers)
    headers["Retry-After"] = str(_retry_after_s(body))
    return JSONResponse(body.model_dump(mode="json", by_alias=True), 202, headers)


def admit(request: Request, parts: Parts, key: str | None = None) -> None:
    """Refuse what can be refused before the body is read."""
    refuse_too_long(request, parts.settings.max_upload_bytes)
    broken = parts.registry.broken()
    if broken is not None:
        raise NotReady(broken)
    parts.store.refuse_if_full(None if key == BY_CONTENT else key)
    announced = request.headers.get("content-length", "")
    needed = parts.settings.min_free_bytes + (int(announced) if announced.isdigit() else 0)
    if parts.files.free_bytes() < needed:
        raise StorageFull("There is no room for another scan.")


async def take_in(parts: Parts, bring: Callable[[Path], Awaitable[Upload]], key: str | None = None) -> Job:
    """`bring` what was sent into a folder, then the job into the queue; leave nothing behind if either fails."""
    job_id = secrets.token_hex(16)
    folder = await run_in_threadpool(parts.files.create, job_id)
    try:
        upload = await bring(folder)
        return await run_in_threadpool(_enqueue, parts, folder, upload, key)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise StorageFull("There is no room left for this scan.") from None
        raise
    finally:
        # Not awaited: it must happen even if this task is being canceled. The row alone says whether the job is taken.
        if not parts.store.has(job_id):
            parts.files.erase(job_id)


def _enqueue(parts: Parts, folder: Path, upload: Upload, key: str | None) -> Job:
    header = _check(parts, folder, upload)
    keep_prior(parts, folder, upload)
    parts.registry.refuse_if_too_large(math.prod(header.shape))
    if upload.series_uid is not None:
        (folder / "series_uid").write_text(upload.series_uid)
    parts.files.seal(folder)
    order = Order(
        job_id=folder.name,
        priority=upload.priority,
        voxels=math.prod(header.shape),
        idempotency_key=_key_of_content(parts, upload) if key == BY_CONTENT else key,
        retry=key == BY_CONTENT,
        fingerprint=upload.fingerprint,
        deliver_to=upload.deliver_to,
        webhook=upload.webhook,
    )
    job, new = parts.store.add(order)
    parts.files.release(folder.name)
    if new:
        parts.bell.ring(job.id)
    return job


def _key_of_content(parts: Parts, upload: Upload) -> str:
    """The same for the same body, as long as the same networks answer."""
    networks = json.dumps(parts.registry.models(), sort_keys=True)
    return "content:" + hashlib.sha256(f"{upload.fingerprint}\n{networks}".encode()).hexdigest()


def _check(parts: Parts, folder: Path, upload: Upload) -> ScanHeader:
    """What the headers show to be of no use is refused at once; the rest shows when the job runs."""
    limits = parts.settings.limits()
    header = probe_scan(folder / "scan", limits, upload.series_uid)
    require(check_header(header.geometry, header.lowest_hu))
    if upload.has_reference:
        try:
            reference = probe_scan(folder / "reference", limits)
        except InputError as error:
            raise InvalidReference(f"The reference cannot be read. {error.detail}") from error
        if reference.shape != header.shape:
            raise InvalidReference(f"The reference has {reference.shape} voxels, the scan {header.shape}.")
    return header


async def _ended_within(parts: Parts, job: Job, wait_s: int) -> Job:
    deadline = time.monotonic() + wait_s
    while job.status not in FINISHED and time.monotonic() < deadline and not parts.closing.is_set():
        await asyncio.sleep(_LOOK_EVERY_S)
        job = await run_in_threadpool(parts.store.get_alive, job.id)
    return job


def _wait_of(prefer: str | None) -> int:
    """Seconds that the Prefer header allows; what it says beyond that is ignored, as RFC 7240 asks."""
    found = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})", prefer or "", re.ASCII | re.IGNORECASE)
    return min(int(found.group(1)), _LONGEST_WAIT_S) if found else 0


def _retry_after_s(body: JobBody) -> int:
    expected = body.queue.eta_s if body.queue and body.queue.eta_s else 1.0
    return max(1, min(60, math.ceil(expected)))
