"""Store: the truth about jobs. Every change is one transaction, so a process may die at any moment.

A worker holds a job by a lease that it renews; the attempt is its fencing token. Whoever comes back too late, after a
stop or a cut connection, finds another attempt in the row and has LOST: it can neither renew nor publish.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from app.errors import Conflict, Gone, InvalidRequest, NotFound, Overloaded
from app.jobs.database import admit_one_at_a_time, is_shared, open_engine, time_of, writing
from app.jobs.deliveries import Destination, delivered, forget, plan
from app.jobs.job import FINISHED, Failure, Job, Notice, Priority, Status, utc_now
from app.jobs.tables import jobs
from app.jobs.webhooks import forget_call, plan_call
from app.settings import Settings

TOO_MANY_ATTEMPTS = Failure(
    code="too_many_attempts",
    title="Given up",
    detail="The worker died each time it worked on this scan; it may need more memory than there is.",
)


class Signal(Enum):
    """What a worker learns when it renews its lease."""

    GO = "go"
    #: Somebody asked for the job to be canceled.
    CANCEL = "cancel"
    #: The job is no longer this worker's: stop, and publish nothing.
    LOST = "lost"


@dataclass(frozen=True)
class Claim:
    """The right to work on a job, good as long as its row says so."""

    job_id: str
    attempt: int
    owner: str


@dataclass(frozen=True)
class Order:
    """A scan to be queued. `idempotency_key` and `fingerprint` (sha256 of what was sent) recognise a repetition."""

    job_id: str
    priority: Priority = Priority.ROUTINE
    voxels: int = 0
    idempotency_key: str | None = None
    fingerprint: str | None = None
    #: Where its DICOM results are sent once it has succeeded.
    deliver_to: tuple[Destination, ...] = ()
    #: Address to tell the end to.
    webhook: str | None = None
    #: Whether a repetition of what failed or was canceled is a new job.
    retry: bool = False


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended; `error` with FAILED, `warnings` with SUCCEEDED. QUEUED hands the job back."""

    status: Status
    error: Failure | None = None
    warnings: tuple[Notice, ...] = field(default=())


class Store:
    """The table of jobs.

    clock: gives aware times. Without one it is this machine's, but for leases and signs of life in a database that
    several machines share: these are by the database's clock, so that nobody's own can cost a job an attempt.
    """

    def __init__(self, engine: Engine, settings: Settings, clock: Callable[[], datetime] | None = None) -> None:
        self.engine = engine
        self._settings = settings
        self.clock = clock or utc_now
        self._by_database = clock is None and is_shared(engine)

    @classmethod
    def open(cls, settings: Settings, clock: Callable[[], datetime] | None = None) -> Store:
        """The store on the database of `settings`, made if there is none."""
        return cls(open_engine(settings), settings, clock)

    # --- the client's side

    def add(self, order: Order) -> tuple[Job, bool]:
        """Queue a job: (the job, whether it is new).

        A repeated idempotency key gives the job it made. Raises InvalidRequest if it came with another body,
        Overloaded if the queue is full.
        """
        now = self.clock()
        with writing(self.engine) as connection:
            admit_one_at_a_time(connection)
            known = self._of_key(connection, order.idempotency_key)
            if known is not None and order.retry and known.status in (Status.FAILED, Status.CANCELED):
                connection.execute(sa.update(jobs).where(jobs.c.id == known.id).values(idempotency_key=None))
                known = None
            if known is not None:
                if known.fingerprint != order.fingerprint:
                    raise InvalidRequest("This Idempotency-Key was used before, with another body.")
                return known, False
            self._refuse_if_full(connection)
            job = Job(
                id=order.job_id,
                priority=order.priority,
                created_at=now,
                due_at=now - timedelta(seconds=order.priority.steps * self._settings.aging_s),
                voxels=order.voxels,
                idempotency_key=order.idempotency_key,
                fingerprint=order.fingerprint,
            )
            connection.execute(sa.insert(jobs).values(_row_of(job)))
            plan(connection, job.id, order.deliver_to, delivered(self._settings), now)
            plan_call(connection, job.id, order.webhook, now)
        return job, True

    def refuse_if_full(self, idempotency_key: str | None) -> None:
        """Raise Overloaded before a body is read that could not be queued; a repetition passes."""
        with self.engine.connect() as connection:
            if self._of_key(connection, idempotency_key) is None:
                self._refuse_if_full(connection)

    def get(self, job_id: str) -> Job:
        """The job; raises NotFound."""
        with self.engine.connect() as connection:
            return _found(connection, job_id, lock=False)

    def has(self, job_id: str) -> bool:
        """Whether there is such a job, erased or not."""
        with self.engine.connect() as connection:
            return connection.execute(sa.select(jobs.c.id).where(jobs.c.id == job_id)).first() is not None

    def get_alive(self, job_id: str) -> Job:
        """The job; raises NotFound, and Gone if it is erased or has expired."""
        job = self.get(job_id)
        if job.status is Status.EXPIRED:
            raise Gone("The scan and results of this job are erased.")
        return job

    def page(self, status: Status | None, limit: int, before: tuple[datetime, str] | None = None) -> list[Job]:
        """Up to `limit` jobs, newest first, older than `before` (created_at, id). Erased ones only if asked for."""
        query = sa.select(jobs).order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(limit)
        query = query.where(jobs.c.status == status if status else jobs.c.status != Status.EXPIRED)
        if before is not None:
            last = (sa.literal(before[0], jobs.c.created_at.type), sa.literal(before[1]))
            query = query.where(sa.tuple_(jobs.c.created_at, jobs.c.id) < sa.tuple_(*last))
        with self.engine.connect() as connection:
            return [_job_of(row) for row in connection.execute(query).mappings()]

    def cancel(self, job_id: str) -> Job:
        """Cancel at once if it waits, as soon as its worker notices if it runs. Raises NotFound, Gone, Conflict."""
        with writing(self.engine) as connection:
            job = _found(connection, job_id)
            if job.status is Status.EXPIRED:
                raise Gone("The job is erased.")
            if job.status is Status.CANCELED or job.cancel_requested:
                return job
            if job.status in FINISHED:
                raise Conflict(f"The job has already {job.status}.")
            if job.status is Status.QUEUED:
                return _save(connection, job.moved_to(Status.CANCELED, self.clock()))
            return _save(connection, job.changed(cancel_requested=True))

    def erase(self, job_id: str) -> Job:
        """Leave nothing of the job but its id and times; a worker that holds it has lost it. Raises NotFound."""
        with writing(self.engine) as connection:
            job = _found(connection, job_id)
            forget(connection, job_id)
            forget_call(connection, job_id)
            return job if job.status is Status.EXPIRED else _save(connection, job.erased(self.clock()))

    def expire(self, finished_before: datetime) -> list[Job]:
        """Erase the rows of all jobs that ended before that time; their folders are the caller's."""
        old = sa.select(jobs).where(jobs.c.status.in_(FINISHED), jobs.c.completed_at < finished_before)
        with writing(self.engine) as connection:
            rows = connection.execute(old.with_for_update(skip_locked=True))
            found = [_job_of(row) for row in rows.mappings()]
            for job in found:
                forget(connection, job.id)
                forget_call(connection, job.id)
            return [_save(connection, job.erased(self.clock())) for job in found]

    # --- the worker's side

    def claim(self, owner: str) -> Job | None:
        """Take the job that is first in line, or None. It is running afterwards, with a new attempt."""
        first = sa.select(jobs).where(jobs.c.status == Status.QUEUED).order_by(jobs.c.due_at, jobs.c.id).limit(1)
        with writing(self.engine) as connection:
            row = connection.execute(first.with_for_update(skip_locked=True)).mappings().first()
            if row is None:
                return None
            now = self.clock()
            job = _job_of(row)
            lease = self._lease(connection)
            taken = {"owner": owner, "lease_until": lease, "attempt": job.attempt + 1, "started_at": now}
            return _save(connection, job.moved_to(Status.RUNNING, now, **taken, stage=None, progress=0.0))

    def renew(self, claim: Claim, stage: str | None, progress: float) -> Signal:
        """Renew the lease and say how far the work is."""
        with writing(self.engine, durable=False) as connection:
            job = _held(connection, claim)
            if job is None:
                return Signal.LOST
            seen = {"stage": stage, "progress": progress}
            moved = (job.stage, job.progress) != (stage, progress)
            revision = job.revision + moved
            _save(connection, job.changed(**seen, lease_until=self._lease(connection), revision=revision))
            return Signal.CANCEL if job.cancel_requested else Signal.GO

    def finish(self, claim: Claim, outcome: Outcome) -> bool:
        """End the attempt and, with SUCCEEDED, publish its files. False if the job was lost: nothing changed then.

        A job whose cancellation was accepted ends as canceled, whatever its attempt came to.
        """
        with writing(self.engine) as connection:
            job = _held(connection, claim)
            if job is None:
                return False
            _save(connection, _ended(job, outcome, self.clock()))
        return True

    def reap(self, dead: Collection[str] = ()) -> list[Job]:
        """Take jobs back whose lease ran out or whose owner is in `dead`: queued again, or failed after too many."""
        with writing(self.engine) as connection:
            now = self.clock()
            lost = sa.or_(jobs.c.lease_until < self.common_time(connection), jobs.c.owner.in_(list(dead)))
            # A row that is locked is being renewed, finished or taken back by somebody else.
            query = sa.select(jobs).where(jobs.c.status == Status.RUNNING, lost).with_for_update(skip_locked=True)
            found = [_job_of(row) for row in connection.execute(query).mappings()]
            return [_save(connection, self._after_loss(job, now)) for job in found]

    def lose(self, claim: Claim, why: Failure = TOO_MANY_ATTEMPTS) -> None:
        """Count the attempt as one that came to nothing; after too many the job fails, with `why`."""
        with writing(self.engine) as connection:
            job = _held(connection, claim)
            if job is not None:
                _save(connection, self._after_loss(job, self.clock(), why))

    def owners(self) -> set[str]:
        """Who holds a job."""
        query = sa.select(jobs.c.owner).where(jobs.c.status == Status.RUNNING).distinct()
        with self.engine.connect() as connection:
            return set(connection.execute(query).scalars())

    # ---

    def common_time(self, connection: Connection) -> datetime:
        """The same for every process, whatever its machine's clock says."""
        return time_of(connection) if self._by_database else self.clock()

    def _lease(self, connection: Connection) -> datetime:
        return self.common_time(connection) + timedelta(seconds=self._settings.lease_s)

    def _after_loss(self, job: Job, now: datetime, why: Failure = TOO_MANY_ATTEMPTS) -> Job:
        lost = job.lost_attempts + 1
        if job.cancel_requested:
            return job.moved_to(Status.CANCELED, now, lost_attempts=lost)
        if lost >= self._settings.max_attempts:
            return job.moved_to(Status.FAILED, now, lost_attempts=lost, error=why)
        return job.moved_to(Status.QUEUED, now, lost_attempts=lost, stage=None, progress=0.0)

    def _of_key(self, connection: Connection, key: str | None) -> Job | None:
        if key is None:
            return None
        row = connection.execute(sa.select(jobs).where(jobs.c.idempotency_key == key)).mappings().first()
        return None if row is None else _job_of(row)

    def _refuse_if_full(self, connection: Connection) -> None:
        waiting = sa.select(sa.func.count()).where(jobs.c.status == Status.QUEUED)
        count = connection.execute(waiting).scalar_one()
        if count >= self._settings.queue_limit:
            raise Overloaded(f"{count} jobs are waiting already; try again later.")


def _ended(job: Job, outcome: Outcome, now: datetime) -> Job:
    if job.cancel_requested:
        return job.moved_to(Status.CANCELED, now)
    if outcome.status is Status.SUCCEEDED:
        results = {"published": job.attempt, "warnings": outcome.warnings, "progress": 1.0}
        return job.moved_to(Status.SUCCEEDED, now, **results)
    if outcome.status is Status.QUEUED:
        return job.moved_to(Status.QUEUED, now, stage=None, progress=0.0)
    return job.moved_to(outcome.status, now, error=outcome.error)


def _found(connection: Connection, job_id: str, *, lock: bool = True) -> Job:
    query = sa.select(jobs).where(jobs.c.id == job_id)
    query = query.with_for_update() if lock else query
    # PostgreSQL cannot even be asked for an id with a NUL in it.
    row = None if "\0" in job_id else connection.execute(query).mappings().first()
    if row is None:
        raise NotFound("There is no such job.")
    return _job_of(row)


def _held(connection: Connection, claim: Claim) -> Job | None:
    mine = (jobs.c.id == claim.job_id, jobs.c.attempt == claim.attempt, jobs.c.owner == claim.owner)
    query = sa.select(jobs).where(*mine, jobs.c.status == Status.RUNNING).with_for_update()
    row = connection.execute(query).mappings().first()
    return None if row is None else _job_of(row)


def _save(connection: Connection, job: Job) -> Job:
    connection.execute(sa.update(jobs).where(jobs.c.id == job.id).values(_row_of(job)))
    return job


def _job_of(row: Mapping[Any, Any]) -> Job:
    return Job(**row)


def _row_of(job: Job) -> dict[str, Any]:
    return {
        **dict(job),
        "status": job.status.value,
        "priority": job.priority.value,
        "warnings": [notice.model_dump() for notice in job.warnings],
        "error": job.error.model_dump() if job.error else None,
    }
