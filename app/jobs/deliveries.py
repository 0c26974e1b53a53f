"""What is to be sent to a PACS, and what it has accepted: one row for each file and destination.

Rows are made with the job, in its transaction, and looked at once it has succeeded. They are never given up: a row
ends with the acceptance, or with its job.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Literal

import sqlalchemy as sa
from pydantic import AwareDatetime, BaseModel, ConfigDict
from sqlalchemy.engine import Connection, Engine

from app.jobs.database import writing
from app.jobs.job import Status, utc_now
from app.jobs.tables import deliveries, jobs
from app.settings import Settings

#: C-STORE to HEPASEG_DICOM_DESTINATION, or STOW-RS to HEPASEG_DICOMWEB_URL.
Destination = Literal["dicom", "dicomweb"]

#: What is sent: the segmentation first, for the others refer to it; the structure set only if one is written.
DELIVERED = ("seg.dcm", "sr.dcm")
STRUCTURES = "rtstruct.dcm"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 600.0
#: After this time a delivery whose sender died is taken up again; what takes longer may come twice, as one instance.
_SENDING_S = 60.0


class Delivery(BaseModel):
    """A file on its way. `error` says why the last attempt came to nothing; `due_at` when the next one begins."""

    model_config = ConfigDict(frozen=True)

    job_id: str
    destination: Destination
    name: str
    attempts: int
    due_at: AwareDatetime
    delivered_at: AwareDatetime | None
    error: str | None


def delivered(settings: Settings) -> tuple[str, ...]:
    """What of a job is sent."""
    return (*DELIVERED, STRUCTURES) if settings.rtstruct else DELIVERED


def plan(
    connection: Connection, job_id: str, destinations: Sequence[Destination], names: Sequence[str], now: datetime
) -> None:
    """Have results of a job sent once it has succeeded."""
    for destination in destinations:
        for name in names:
            row = {"job_id": job_id, "destination": destination, "name": name, "attempts": 0, "due_at": now}
            connection.execute(sa.insert(deliveries).values(row))


def forget(connection: Connection, job_id: str) -> None:
    """Send nothing of a job any more."""
    connection.execute(sa.delete(deliveries).where(deliveries.c.job_id == job_id))


class Deliveries:
    """The table. `clock` gives aware times."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime] = utc_now) -> None:
        self._engine = engine
        self._clock = clock

    def of(self, job_id: str) -> list[Delivery]:
        """Those of a job."""
        query = sa.select(deliveries).where(deliveries.c.job_id == job_id)
        with self._engine.connect() as connection:
            rows = connection.execute(query.order_by(deliveries.c.destination, deliveries.c.name)).mappings()
            return [Delivery(**row) for row in rows]

    def claim(self, destinations: Sequence[Destination]) -> tuple[Delivery, int] | None:
        """Take what is due first, with the attempt that holds the results; nobody else gets it for a while."""
        now = self._clock()
        due = (
            sa.select(deliveries, jobs.c.published)
            .join(jobs, jobs.c.id == deliveries.c.job_id)
            .where(deliveries.c.delivered_at.is_(None), deliveries.c.due_at <= now)
            .where(jobs.c.status == Status.SUCCEEDED, deliveries.c.destination.in_(destinations))
            .order_by(deliveries.c.due_at, deliveries.c.job_id, deliveries.c.name != DELIVERED[0], deliveries.c.name)
            .limit(1)
            .with_for_update(skip_locked=True, of=deliveries)
        )
        with writing(self._engine) as connection:
            row = connection.execute(due).mappings().first()
            if row is None:
                return None
            taken = {"attempts": row["attempts"] + 1, "due_at": now + timedelta(seconds=_SENDING_S)}
            delivery = Delivery(**{**{key: row[key] for key in Delivery.model_fields}, **taken})
            self._set(connection, delivery, **taken)
            return delivery, int(row["published"])

    def accepted(self, delivery: Delivery) -> None:
        """The destination has it."""
        with writing(self._engine) as connection:
            self._set(connection, delivery, delivered_at=self._clock(), error=None)

    def refused(self, delivery: Delivery, error: str) -> float:
        """It came to nothing: try again later; in how many seconds."""
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(20, delivery.attempts - 1))
        with writing(self._engine) as connection:
            self._set(connection, delivery, error=error, due_at=self._clock() + timedelta(seconds=pause_s))
        return pause_s

    def _set(self, connection: Connection, delivery: Delivery, **values: object) -> None:
        mine = [deliveries.c[key] == getattr(delivery, key) for key in ("job_id", "destination", "name")]
        connection.execute(sa.update(deliveries).where(*mine).values(**values))
