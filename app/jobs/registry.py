"""Workers in the database: who lives, who is ready, and which networks they hold.

The HTTP process never loads ONNX Runtime; what it knows about the networks stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Any, TypeVar

import sqlalchemy as sa
from pydantic import AwareDatetime, BaseModel, ConfigDict
from sqlalchemy.engine import Connection

from app.errors import BrokenModel, NotReady, Overloaded
from app.jobs.database import writing
from app.jobs.liveness import OwnerLocks
from app.jobs.memory import needed_bytes, room_bytes
from app.jobs.store import Store
from app.jobs.tables import workers
from app.settings import Settings

T = TypeVar("T")

#: Leases after which a silent worker counts as gone.
_SILENT_LEASES = 3
#: When to ask again whether there is a worker with more memory.
_LARGER_AFTER_S = 300


class WorkerState(StrEnum):
    """How a worker is doing."""

    #: It loads and checks the networks.
    STARTING = "starting"
    READY = "ready"
    #: A network cannot be used; it has ended and says why.
    BROKEN = "broken"


class WorkerCard(BaseModel):
    """What a worker says about itself. models: role (liver, lesion, crf) → the network's card."""

    model_config = ConfigDict(frozen=True)

    id: str
    state: WorkerState
    detail: str = ""
    models: dict[str, Any] | None = None
    seen_at: AwareDatetime
    #: What its machine or container has at most.
    memory_bytes: int | None = None


class Registry:
    """The table of workers."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._engine = store.engine
        self._time = store.common_time
        self._locks = OwnerLocks.of(settings)
        self._memory_bytes = settings.memory_bytes
        self._silent_after = timedelta(seconds=_SILENT_LEASES * settings.lease_s)

    def say(self, worker: str, state: WorkerState, detail: str = "", models: Mapping[str, Any] | None = None) -> None:
        """Publish how `worker` is doing; rows of workers long gone are dropped."""
        row: dict[str, Any] = {"id": worker, "state": state.value, "detail": detail, "models": models}
        row["memory_bytes"] = room_bytes(self._memory_bytes)
        with writing(self._engine) as connection:
            now = row["seen_at"] = self._time(connection)
            stale = sa.and_(workers.c.seen_at < now - timedelta(days=1), workers.c.id != worker)
            connection.execute(sa.delete(workers).where(sa.or_(workers.c.id == worker, stale)))
            connection.execute(sa.insert(workers).values(row))

    def prepared(self, worker: str, prepare: Callable[[], T]) -> T:
        """What `prepare` gives, telling that `worker` starts; BrokenModel and NotReady are published and raised."""
        self.say(worker, WorkerState.STARTING)
        try:
            return prepare()
        except (BrokenModel, NotReady) as error:
            self.say(worker, WorkerState.BROKEN, error.detail)
            raise

    def beat(self, worker: str) -> None:
        """Say that `worker` lives."""
        with writing(self._engine, durable=False) as connection:
            seen = sa.update(workers).where(workers.c.id == worker).values(seen_at=self._time(connection))
            connection.execute(seen)

    def leave(self, worker: str) -> None:
        """Take a worker that ends in order off the table; its networks stay known."""
        with writing(self._engine) as connection:
            long_ago = self._time(connection) - 2 * self._silent_after
            connection.execute(sa.update(workers).where(workers.c.id == worker).values(seen_at=long_ago))

    def alive(self) -> list[WorkerCard]:
        """Workers that gave a sign lately and whose process has not ended, latest first."""
        lately = [card for card in self._lately() if card.state is not WorkerState.BROKEN]
        dead = self._locks.dead(card.id for card in lately)
        return [card for card in lately if card.id not in dead]

    def ready(self) -> list[WorkerCard]:
        """Workers that would take a job now."""
        return [card for card in self.alive() if card.state is WorkerState.READY]

    def refuse_if_too_large(self, voxels: int) -> None:
        """Raise Overloaded if no worker that is ready has the memory for a scan of that size."""
        room = [card.memory_bytes for card in self.ready() if card.memory_bytes is not None]
        needed = needed_bytes(voxels)
        if room and needed > max(room):
            gib = f"about {needed / 1024**3:.1f} GiB of memory, and the largest worker has {max(room) / 1024**3:.1f}"
            raise Overloaded(f"This scan would need {gib}; try again when a larger one is there.", _LARGER_AFTER_S)

    def broken(self) -> str | None:
        """Why no worker lives, if one ended lately over its networks; else None."""
        said = [card.detail for card in self._lately() if card.state is WorkerState.BROKEN]
        return said[0] if said and not self.alive() else None

    def models(self) -> dict[str, Any] | None:
        """The cards of the networks that the latest worker holds or held; None before the first was ready."""
        with self._engine.connect() as connection:
            return next((card.models for card in _all(connection) if card.models is not None), None)

    def _lately(self) -> list[WorkerCard]:
        with self._engine.connect() as connection:
            since = self._time(connection) - self._silent_after
            return [card for card in _all(connection) if card.seen_at >= since]


def _all(connection: Connection) -> list[WorkerCard]:
    query = sa.select(workers).order_by(workers.c.seen_at.desc())
    return [WorkerCard(**row) for row in connection.execute(query).mappings()]
