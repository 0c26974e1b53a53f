"""Memory of workers: what no worker could hold is refused when it comes."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column."""
    op.add_column("workers", sa.Column("memory_bytes", sa.BigInteger))
