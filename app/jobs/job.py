"""Job: one scan on its way through the queue, as a frozen value. No patient data, no file names."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from app.errors import Conflict, HepasegError


class Status(StrEnum):
    """Where a job stands."""

    #: Waits for a worker.
    QUEUED = "queued"
    #: A worker holds its lease.
    RUNNING = "running"
    #: Its results are published.
    SUCCEEDED = "succeeded"
    #: It ended without a result; `error` says why.
    FAILED = "failed"
    #: Somebody stopped it.
    CANCELED = "canceled"
    #: Its scan and results are erased; only the id and the times are left.
    EXPIRED = "expired"


#: Every change of status that may happen; all others are refused.
TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.CANCELED}),
    Status.RUNNING: frozenset({Status.QUEUED, Status.SUCCEEDED, Status.FAILED, Status.CANCELED}),
    Status.SUCCEEDED: frozenset({Status.EXPIRED}),
    Status.FAILED: frozenset({Status.EXPIRED}),
    Status.CANCELED: frozenset({Status.EXPIRED}),
    Status.EXPIRED: frozenset(),
}

#: A job in one of these has ended and its results, if any, are final.
FINISHED = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELED})


class Priority(StrEnum):
    """How urgent a job is."""

    ROUTINE = "routine"
    URGENT = "urgent"
    STAT = "stat"

    @property
    def steps(self) -> int:
        """Steps above routine."""
        return list(Priority).index(self)


class _Written(BaseModel):
    model_config = ConfigDict(frozen=True)


class Failure(_Written):
    """Why a job failed: `code` for programs, `detail` for people."""

    code: str
    title: str
    detail: str

    @classmethod
    def of(cls, error: HepasegError) -> Self:
        """The failure that an error of ours is."""
        return cls(code=error.code, title=error.title, detail=error.detail)


INTERNAL_ERROR = Failure(code="internal_error", title="Internal error", detail="Internal error.")


class Notice(_Written):
    """Something a reader of the result should know."""

    code: str
    detail: str


class Job(_Written):
    """One scan in the queue. Times are UTC. `moved_to` gives the next state; the constructor refuses what cannot be."""

    id: str
    status: Status = Status.QUEUED
    priority: Priority = Priority.ROUTINE
    created_at: AwareDatetime
    #: When its present or last attempt began.
    started_at: AwareDatetime | None = None
    completed_at: AwareDatetime | None = None
    #: Its place in the queue: the earlier, the sooner it is claimed.
    due_at: AwareDatetime
    #: Size of the scan, for the estimate of the waiting time.
    voxels: int = Field(0, ge=0)
    #: Counts the claims; also the fencing token: whoever holds an older one has lost the job.
    attempt: int = Field(0, ge=0)
    #: Attempts that ended with the death of their worker.
    lost_attempts: int = Field(0, ge=0)
    owner: str | None = None
    lease_until: AwareDatetime | None = None
    cancel_requested: bool = False
    stage: str | None = None
    progress: float = Field(0.0, ge=0.0, le=1.0)
    warnings: tuple[Notice, ...] = ()
    error: Failure | None = None
    #: The attempt whose files are the results.
    published: int | None = None
    idempotency_key: str | None = None
    #: sha256 of what was sent.
    fingerprint: str | None = None
    #: Grows with each visible change.
    revision: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        running = self.status is Status.RUNNING
        rules = {
            "an error belongs to a failed job, and only to it": (self.error is not None)
            == (self.status is Status.FAILED),
            "results belong to a succeeded job, and only to it": (self.published is not None)
            == (self.status is Status.SUCCEEDED),
            "an owner and a lease belong to a running job": (self.owner is not None) == running
            and (self.lease_until is not None) == running,
            "a job that has ended has a time of its end": self.status not in FINISHED or self.completed_at is not None,
            "a job that has not ended has none": self.status not in (Status.QUEUED, Status.RUNNING)
            or self.completed_at is None,
        }
        for rule, kept in rules.items():
            if not kept:
                raise ValueError(rule)
        return self

    def changed(self, **changes: object) -> Job:
        """The job with other values, checked again, one revision on."""
        return Job.model_validate({**dict(self), "revision": self.revision + 1, **changes})

    def moved_to(self, status: Status, at: datetime, **changes: object) -> Job:
        """The job in another status since `at`; raises Conflict if TRANSITIONS does not list the change."""
        if status not in TRANSITIONS[self.status]:
            raise Conflict(f"The job is {self.status}; it cannot become {status}.")
        if self.status is Status.RUNNING:
            changes = {"owner": None, "lease_until": None, **changes}
        if status in FINISHED:
            changes = {"completed_at": at, "stage": None, **changes}
        return self.changed(status=status, **changes)

    def erased(self, at: datetime) -> Job:
        """The job with nothing left but its id and times, from whatever state it is in."""
        job = self
        if job.status is Status.EXPIRED:
            return job
        if job.status not in FINISHED:
            job = job.moved_to(Status.CANCELED, at)
        gone = {"error": None, "published": None, "warnings": (), "idempotency_key": None, "fingerprint": None}
        return job.moved_to(Status.EXPIRED, at, **gone, voxels=0, progress=0.0)


def utc_now() -> datetime:
    """The time, with its zone."""
    return datetime.now(UTC)
