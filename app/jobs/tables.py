"""The tables, and an engine whose writers wait for one another."""

from __future__ import annotations

import sqlite3
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Dialect, Engine


class UtcTime(sa.types.TypeDecorator[datetime]):
    """An aware time, stored as seconds since 1970."""

    impl = sa.Double
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> float | None:  # noqa: ARG002
        """To the database."""
        return None if value is None else value.timestamp()

    def process_result_value(self, value: float | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """From the database."""
        return None if value is None else datetime.fromtimestamp(value, UTC)


#: How long a writer waits for another one.
_WAIT_S = 10

metadata = sa.MetaData()

#: One row a job; the columns are the fields of `Job`.
jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("priority", sa.String(16), nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("started_at", UtcTime),
    sa.Column("completed_at", UtcTime),
    sa.Column("due_at", UtcTime, nullable=False),
    sa.Column("voxels", sa.BigInteger, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("lost_attempts", sa.Integer, nullable=False),
    sa.Column("owner", sa.String(64)),
    sa.Column("lease_until", UtcTime),
    sa.Column("cancel_requested", sa.Boolean, nullable=False),
    sa.Column("stage", sa.String(32)),
    sa.Column("progress", sa.Double, nullable=False),
    sa.Column("warnings", sa.JSON, nullable=False),
    sa.Column("error", sa.JSON(none_as_null=True)),
    sa.Column("published", sa.Integer),
    sa.Column("idempotency_key", sa.String(255), unique=True),
    sa.Column("fingerprint", sa.String(64)),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Index("jobs_in_line", "status", "due_at", "id"),
    sa.Index("jobs_by_age", "created_at", "id"),
)

#: One row a worker process; it says whether it lives, is ready, and which networks it holds.
workers = sa.Table(
    "workers",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("models", sa.JSON(none_as_null=True)),
    sa.Column("seen_at", UtcTime, nullable=False),
)


def sqlite_engine(path: Path) -> Engine:
    """An engine on the file `path`: WAL, every commit on the disk, tables made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": _WAIT_S})
    sa.event.listen(engine, "connect", _on_connect)
    sa.event.listen(engine, "begin", _on_begin)
    with writing(engine) as connection:
        metadata.create_all(connection)
    return engine


def writing(engine: Engine, *, durable: bool = True) -> AbstractContextManager[Connection]:
    """A transaction that excludes other writers from its start, so that what it reads stays true.

    A sign of life need not be durable: without waiting for the disk, it holds the others up a hundred times shorter.
    """
    return engine.execution_options(writes=True, durable=durable).begin()


def _on_connect(connection: sqlite3.Connection, _record: object) -> None:
    # The driver must not open transactions by itself: `_on_begin` decides how they begin.
    connection.isolation_level = None
    for pragma in (f"busy_timeout = {_WAIT_S * 1000}", "journal_mode = WAL"):
        connection.execute(f"PRAGMA {pragma}")


def _on_begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    writes = options.get("writes", False)
    connection.exec_driver_sql(f"PRAGMA synchronous = {'FULL' if options.get('durable', True) else 'NORMAL'}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
