"""The tables. Migrations make them; a test holds both against each other."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect


class UtcTime(sa.types.TypeDecorator[datetime]):
    """An aware time: a timestamp where the database has one with a zone, else seconds since 1970."""

    impl = sa.Double
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> sa.types.TypeEngine[Any]:
        """The type of the column."""
        zoned = dialect.name == "postgresql"
        return dialect.type_descriptor(sa.TIMESTAMP(timezone=True) if zoned else sa.Double())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | float | None:
        """To the database."""
        return value if value is None or dialect.name == "postgresql" else value.timestamp()

    def process_result_value(self, value: datetime | float | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """From the database."""
        if isinstance(value, datetime):
            return value.astimezone(UTC)
        return None if value is None else datetime.fromtimestamp(value, UTC)


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
    sa.Column("memory_bytes", sa.BigInteger),
)

#: One row for each result file and the PACS that it is to be sent to.
deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("job_id", sa.String(64), primary_key=True),
    sa.Column("destination", sa.String(16), primary_key=True),
    sa.Column("name", sa.String(16), primary_key=True),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due_at", UtcTime, nullable=False),
    sa.Column("delivered_at", UtcTime),
    sa.Column("error", sa.String(64)),
    sa.Index("deliveries_due", "delivered_at", "due_at"),
)

#: One row a job whose end is still to be told to somebody.
webhooks = sa.Table(
    "webhooks",
    metadata,
    sa.Column("job_id", sa.String(64), primary_key=True),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due_at", UtcTime, nullable=False),
)
