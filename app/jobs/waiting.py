"""What the queue can say about itself: places, expected times, counts."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from app.jobs.job import Job, Status, utc_now
from app.jobs.store import Store
from app.jobs.tables import jobs

#: Finished jobs that the estimate learns from.
_LEARN_FROM = 40


@dataclass(frozen=True)
class Pace:
    """How long a scan takes a worker: `start_s` whatever its size, and `voxel_s` for each voxel."""

    start_s: float
    voxel_s: float

    @classmethod
    def learned(cls, seen: Sequence[tuple[int, float]]) -> Self | None:
        """The line nearest to what was seen, (voxels, seconds) each; None before there is experience.

        Neither number is negative: jobs of one size tell only how long a voxel takes.
        """
        if not seen:
            return None
        count, voxels = len(seen), sum(size for size, _ in seen)
        seconds = sum(took for _, took in seen)
        mean, mean_s = voxels / count, seconds / count
        spread = sum((size - mean) ** 2 for size, _ in seen)
        together = sum((size - mean) * (took - mean_s) for size, took in seen)
        if spread > 1e-6 * count * mean**2 and together > 0:
            voxel_s = together / spread
            if mean_s >= voxel_s * mean:
                return cls(mean_s - voxel_s * mean, voxel_s)
        return cls(0.0, seconds / voxels)

    def seconds(self, voxels: int) -> float:
        """How long a scan of that size should take."""
        return self.start_s + self.voxel_s * voxels


@dataclass(frozen=True)
class Place:
    """position: 1 is next. eta_s: seconds until the job should be finished; None before there is experience."""

    position: int
    eta_s: float | None


def place_of(store: Store, job: Job, workers: int = 1) -> Place | None:
    """Where a queued job stands in line; None for any other."""
    if job.status is not Status.QUEUED:
        return None
    mine = sa.tuple_(sa.literal(job.due_at, jobs.c.due_at.type), sa.literal(job.id))
    in_line = (jobs.c.due_at, jobs.c.id)
    ahead = sa.select(jobs.c.voxels).where(jobs.c.status == Status.QUEUED, sa.tuple_(*in_line) < mine)
    running = sa.select(jobs.c.voxels, jobs.c.progress).where(jobs.c.status == Status.RUNNING)
    with store.engine.connect() as connection:
        waiting = list(connection.execute(ahead.order_by(*in_line)).scalars())
        begun = connection.execute(running).all()
        pace = _pace(connection)
    if pace is None:
        return Place(len(waiting) + 1, None)
    left_s = [pace.seconds(voxels) * (1.0 - progress) for voxels, progress in begun]
    eta_s = finished_after_s(left_s, [pace.seconds(voxels) for voxels in [*waiting, job.voxels]], workers)
    return Place(len(waiting) + 1, round(eta_s, 1))


def finished_after_s(running_s: Iterable[float], waiting_s: Iterable[float], workers: int) -> float:
    """Seconds until the last of `waiting_s` is done, each taken in turn by the first worker that is free.

    running_s: what is left of the jobs that workers are at.
    """
    busy = sorted(running_s)
    free = busy + [0.0] * (max(1, workers) - len(busy))
    heapq.heapify(free)
    end = 0.0
    for seconds in waiting_s:
        end = heapq.heappop(free) + seconds
        heapq.heappush(free, end)
    return end


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


def _pace(connection: Connection) -> Pace | None:
    query = (
        sa.select(jobs.c.started_at, jobs.c.completed_at, jobs.c.voxels)
        .where(jobs.c.status == Status.SUCCEEDED, jobs.c.voxels > 0)
        .order_by(jobs.c.completed_at.desc())
        .limit(_LEARN_FROM)
    )
    rows = connection.execute(query).all()
    # A clock that was set back meanwhile makes an end come before its start, from which there is nothing to learn.
    return Pace.learned([(voxels, (end - start).total_seconds()) for start, end, voxels in rows if end >= start])
