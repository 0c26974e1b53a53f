"""How the tables came to be what they are: numbered steps, run by Alembic on SQLite and PostgreSQL alike."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy.engine import Connection


def configuration(connection: Connection) -> Config:
    """What Alembic needs to know; nothing is read from a file."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def upgrade(connection: Connection, present: str | None) -> None:
    """Take the steps that are missing, within the transaction of `connection`.

    present: "unversioned" if the tables were made before there were migrations; they are those of the first.
    """
    config = configuration(connection)
    if present == "unversioned":
        command.stamp(config, "0001")
    command.upgrade(config, "head")
