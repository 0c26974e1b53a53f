"""Jobs as clients see them."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from app.api.example import REPORT
from app.api.parts import Parts
from app.api.problems import Problem, problem_of
from app.errors import Gone
from app.jobs.deliveries import Deliveries, Destination
from app.jobs.job import FINISHED, Job, Notice, Priority, Status
from app.jobs.waiting import place_of

_ID = "0f8c5b2e6d3a4f7190b1c2d3e4f5a6b7"
_EXAMPLE: dict[str, Any] = {
    "id": _ID,
    "status": "queued",
    "priority": "routine",
    "stage": None,
    "progress": 0.0,
    "queue": {"position": 1, "eta_s": 12.5},
    "created_at": "2026-11-02T09:30:00Z",
    "started_at": None,
    "completed_at": None,
    "error": None,
    "warnings": [],
    "deliveries": [],
    "report": None,
    "links": {
        "self": f"/jobs/{_ID}",
        "cancel": f"/jobs/{_ID}/cancel",
        "events": f"/jobs/{_ID}/events",
        "labels": None,
        "liver": None,
        "lesions": None,
        "report": None,
        "preview": None,
        "receipt": None,
        "seg": None,
        "sr": None,
        "rtstruct": None,
    },
}


class QueuePlace(BaseModel):
    """Where a waiting job stands."""

    position: int = Field(description="1 is next")
    eta_s: float | None = Field(description="seconds until it should be finished; null before there is experience")


class Links(BaseModel):
    """Addresses of a job; null where there is nothing (yet, or any more)."""

    model_config = ConfigDict(populate_by_name=True)

    this: str = Field(alias="self")
    cancel: str | None
    events: str
    labels: str | None
    liver: str | None
    lesions: str | None
    report: str | None
    preview: str | None
    receipt: str | None
    seg: str | None = Field(description="only if a DICOM series was sent")
    sr: str | None = Field(description="only if a DICOM series was sent")
    rtstruct: str | None = Field(description="only if a DICOM series was sent and HEPASEG_RTSTRUCT is set")


class JobSummary(BaseModel):
    """A job as it stands in a list."""

    id: str
    status: Literal["queued", "running", "succeeded", "failed", "canceled", "expired"]
    priority: Priority
    stage: str | None = Field(description="what a running job is doing")
    progress: float = Field(ge=0, le=1)
    queue: QueuePlace | None = Field(description="only while the job waits")
    created_at: AwareDatetime
    started_at: AwareDatetime | None
    completed_at: AwareDatetime | None
    error: Problem | None = Field(description="why it failed")
    warnings: list[Notice]
    links: Links


class DeliveryBody(BaseModel):
    """A result on its way to a PACS."""

    file: str
    to: Destination = Field(description="dicom: by C-STORE; dicomweb: by STOW-RS")
    status: Literal["waiting", "delivered", "not_sent"] = Field(
        description="waiting: for the job, or for the next attempt; not_sent: the job has ended without results"
    )
    attempts: int
    error: str | None = Field(description="why the last attempt came to nothing")
    delivered_at: AwareDatetime | None


class JobBody(JobSummary):
    """A job with its report."""

    model_config = ConfigDict(json_schema_extra={"example": _EXAMPLE})

    deliveries: list[DeliveryBody] = Field(description="results that are sent to a PACS")
    report: dict[str, Any] | None = Field(
        description="what was measured, once the job has succeeded; docs/answers.md defines every number",
        examples=[REPORT],
    )


class JobPage(BaseModel):
    """Jobs, newest first. `next` is the cursor of the page after this one, null on the last."""

    jobs: list[JobSummary]
    next: str | None


def summary_of(parts: Parts, job: Job) -> JobSummary:
    """A job without its report."""
    return JobSummary.model_validate(_fields(parts, job))


def body_of(parts: Parts, job: Job) -> JobBody:
    """A job with its report; raises Gone if the results were erased meanwhile."""
    report = None
    if job.published is not None:
        report = json.loads(read_result(parts, job, "report.json"))
    return JobBody.model_validate({**_fields(parts, job), "deliveries": _deliveries(parts, job), "report": report})


def _deliveries(parts: Parts, job: Job) -> list[DeliveryBody]:
    is_over = job.status in FINISHED and job.published is None
    return [
        DeliveryBody(
            file=each.name,
            to=each.destination,
            status="delivered" if each.delivered_at else "not_sent" if is_over else "waiting",
            attempts=each.attempts,
            error=each.error,
            delivered_at=each.delivered_at,
        )
        for each in Deliveries(parts.store.engine).of(job.id)
    ]


def read_result(parts: Parts, job: Job, name: str) -> bytes:
    """A published file; raises Gone if it was erased meanwhile."""
    try:
        return parts.files.result(job.id, job.published or 0, name).read_bytes()
    except FileNotFoundError:
        raise Gone("The results of this job are erased.") from None


def _fields(parts: Parts, job: Job) -> dict[str, Any]:
    place = None
    if job.status is Status.QUEUED:
        place = place_of(parts.store, job, workers=len(parts.registry.ready()))
    return {
        **job.model_dump(include=set(JobSummary.model_fields) - {"error", "warnings"}),
        "warnings": job.warnings,
        "queue": None if place is None else QueuePlace(position=place.position, eta_s=place.eta_s),
        "error": None if job.error is None else problem_of(job.error, f"/jobs/{job.id}"),
        "links": _links(parts, job),
    }


def _links(parts: Parts, job: Job) -> Links:
    here = f"/jobs/{job.id}"
    written = set() if job.published is None else parts.files.names(job.id, job.published)

    def result(name: str) -> str | None:
        return f"{here}/{name}" if name in written else None

    return Links(
        this=here,
        cancel=None if job.status in FINISHED else f"{here}/cancel",
        events=f"{here}/events",
        labels=result("labels.nii.gz"),
        liver=result("liver.nii.gz"),
        lesions=result("lesions.nii.gz"),
        report=result("report.json"),
        preview=result("preview.png"),
        receipt=result("receipt.json"),
        seg=result("seg.dcm"),
        sr=result("sr.dcm"),
        rtstruct=result("rtstruct.dcm"),
    )
