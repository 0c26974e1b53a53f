"""Deliveries: what is to be sent to a PACS, and what it has accepted."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

TIME: sa.types.TypeEngine[Any] = sa.Double().with_variant(sa.TIMESTAMP(timezone=True), "postgresql")


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "deliveries",
        sa.Column("job_id", sa.String(64), primary_key=True),
        sa.Column("destination", sa.String(16), primary_key=True),
        sa.Column("name", sa.String(16), primary_key=True),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due_at", TIME, nullable=False),
        sa.Column("delivered_at", TIME),
        sa.Column("error", sa.String(64)),
    )
    op.create_index("deliveries_due", "deliveries", ["delivered_at", "due_at"])
