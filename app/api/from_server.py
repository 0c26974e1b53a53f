"""POST /segment with JSON: a series that the DICOMweb server of the settings holds."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.api.parts import Parts
from app.api.problems import Malformed
from app.api.upload import Upload, job_id_of
from app.errors import InvalidRequest
from app.jobs.job import Priority

_MOST_BYTES = 4096

Uid = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+$", max_length=64)]


class _Sent(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SeriesAtServer(_Sent):
    """Where the series is."""

    study: Uid = Field(description="StudyInstanceUID", examples=["1.2.840.1"])
    series: Uid = Field(description="SeriesInstanceUID", examples=["1.2.840.1.2"])


class FromServer(_Sent):
    """A series at the configured DICOMweb server; the results are stored there too."""

    dicomweb: SeriesAtServer
    priority: Priority = Priority.ROUTINE
    prior: str | None = None


def is_json(request: Request) -> bool:
    """Whether the request names a series and does not bring one."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


async def fetch(request: Request, parts: Parts, folder: Path) -> Upload:
    """Bring the series into `folder`. Raises Malformed, InvalidRequest, TooLarge, PeerFailed, OSError."""
    wanted = await _wanted(request)
    settings = parts.settings
    if not settings.dicomweb_url:
        raise InvalidRequest("No DICOMweb server is configured here.", code="dicomweb_not_configured")
    # What it needs is loaded only where it is used.
    from app.dicom.web import DicomWeb

    server, series = DicomWeb(settings.dicomweb_url), wanted.dicomweb
    most = settings.max_upload_bytes
    await run_in_threadpool(server.fetch, series.study, series.series, folder / "scan", most)
    prior = None if wanted.prior is None else job_id_of(wanted.prior)
    words = ["dicomweb", series.study, series.series, wanted.priority, *([prior] if prior else [])]
    fingerprint = hashlib.sha256("\n".join(words).encode()).hexdigest()
    return Upload(wanted.priority, has_reference=False, fingerprint=fingerprint, deliver_to=("dicomweb",), prior=prior)


async def _wanted(request: Request) -> FromServer:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BYTES:
            raise InvalidRequest(f"The JSON has more than {_MOST_BYTES} bytes.")
    try:
        return FromServer.model_validate_json(bytes(body))
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False, include_context=False)
        if any(fault["type"] == "json_invalid" for fault in faults):
            raise Malformed("The body is no JSON.") from None
        # Names of unknown fields are not repeated: they are what was sent.
        said = [f"{'.'.join(map(str, fault['loc'][:1]))}: {fault['msg']}" for fault in faults
                if fault["type"] != "extra_forbidden"]  # fmt: skip
        detail = (
            "; ".join(said) or "The JSON has `dicomweb` with `study` and `series`, `priority` and `prior`, and no more."
        )
        raise InvalidRequest(detail) from None
