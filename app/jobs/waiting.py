"""What the queue can say about itself: places, expected times, counts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from app.jobs.job import Job, Status, utc_now
from app.jobs.store import Store
from app.jobs.tables import jobs

#: Finished jobs that the estimate learns from.
_LEARN_FROM = 20


@dataclass(frozen=True)
class Place:
    """position: 1 is next. eta_s: seconds until the job should be finished; None before there is experience."""

    position: int
    eta_s: float | None


def place_of(store: Store, job: Job, workers: int = 1) -> Place | None:
    """Where a queued job stands in line; None for any other."""
    if job.status is not Status.QUEUED:
        return None
    ahead = sa.and_(
        jobs.c.status == Status.QUEUED,
        sa.tuple_(jobs.c.due_at, jobs.c.id) < sa.tuple_(sa.literal(job.due_at, jobs.c.due_at.type), sa.literal(job.id)),
    )
    with store.engine.connect() as connection:
        count, voxels = connection.execute(
            sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(jobs.c.voxels), 0)).where(ahead)
        ).one()
        running = connection.execute(
            sa.select(sa.func.coalesce(sa.func.sum(jobs.c.voxels * (1.0 - jobs.c.progress)), 0.0)).where(
                jobs.c.status == Status.RUNNING
            )
        ).scalar_one()
        pace = _seconds_per_voxel(connection)
    eta_s = None if pace is None else pace * ((voxels + running) / max(1, workers) + job.voxels)
    return Place(int(count) + 1, None if eta_s is None else round(float(eta_s), 1))


def counts(store: Store) -> dict[Status, int]:
    """How many jobs there are in each status."""
    query = sa.select(jobs.c.status, sa.func.count()).group_by(jobs.c.status)
    with store.engine.connect() as connection:
        found = {Status(status): int(count) for status, count in connection.execute(query)}
    return {status: found.get(status, 0) for status in Status}


def oldest_waiting_s(store: Store) -> float:
    """How long the longest waiting job has waited."""
    query = sa.select(sa.func.min(jobs.c.created_at, type_=jobs.c.created_at.type)).where(
        jobs.c.status == Status.QUEUED
    )
    with store.engine.connect() as connection:
        since = connection.execute(query).scalar_one()
    waited: timedelta = timedelta() if since is None else utc_now() - since
    return max(0.0, waited.total_seconds())


def _seconds_per_voxel(connection: Connection) -> float | None:
    query = (
        sa.select(jobs.c.started_at, jobs.c.completed_at, jobs.c.voxels)
        .where(jobs.c.status == Status.SUCCEEDED, jobs.c.voxels > 0)
        .order_by(jobs.c.completed_at.desc())
        .limit(_LEARN_FROM)
    )
    rows = connection.execute(query).all()
    if not rows:
        return None
    seconds = sum((end - start).total_seconds() for start, end, _ in rows)
    return float(seconds / sum(voxels for _, _, voxels in rows))
