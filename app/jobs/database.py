"""Engines on SQLite and PostgreSQL whose tables are up to date, and transactions that begin as writers should.

What differs between the two databases stands here and nowhere else.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine

from app.errors import InvalidRequest
from app.settings import Settings

#: The last migration; a database that has it is not looked at further, which keeps the start fast.
SCHEMA = "0004"

#: How long a writer waits for another one.
_WAIT_S = 10
#: How soon what SQLite refused on the spot is tried again.
_RETRY_S = 0.01
#: Names of the advisory locks in PostgreSQL; any numbers, as long as they stay.
_MIGRATION_LOCK = 0x4865_7001
_ADMISSION_LOCK = 0x4865_7002
#: What PostgreSQL ends by itself, so that a stopped process holds nobody up.
_GUARDS = {"lock_timeout": _WAIT_S, "statement_timeout": 3 * _WAIT_S, "idle_in_transaction_session_timeout": _WAIT_S}


def open_engine(settings: Settings) -> Engine:
    """An engine on the database of `settings`, with tables made or brought up to date. Raises InvalidRequest."""
    url = settings.database_url
    if not url:
        engine = _sqlite(settings.data_dir / "hepaseg.sqlite")
    elif url.startswith(("postgresql://", "postgres://")):
        engine = _postgresql(sa.make_url(url))
    elif url.startswith("sqlite:///"):
        engine = _sqlite(Path(url.removeprefix("sqlite:///")))
    else:
        raise InvalidRequest("HEPASEG_DATABASE_URL begins with postgresql:// or sqlite:///.")
    try:
        migrate(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


def writing(engine: Engine, *, durable: bool = True) -> AbstractContextManager[Connection]:
    """A transaction that writes. On SQLite it excludes other writers from its start; on PostgreSQL rows are locked.

    A sign of life need not be durable: without waiting for the disk, it holds the others up a hundred times shorter.
    """
    return engine.execution_options(writes=True, durable=durable).begin()


def admit_one_at_a_time(connection: Connection) -> None:
    """Have this transaction be the only one that adds jobs, so that what it counts stays true until it ends."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADMISSION_LOCK)))


def is_shared(engine: Engine) -> bool:
    """Whether processes on several machines may use it, whose clocks need not agree."""
    return engine.dialect.name == "postgresql"


def time_of(connection: Connection) -> datetime:
    """What a shared database's own clock says now."""
    now: datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return now


def migrate(engine: Engine) -> None:
    """Bring the tables up to date; of several processes that try, one does it."""
    with engine.connect() as connection:
        if _is_up_to_date(schema_of(connection)):
            return
    from app.jobs.migrations import upgrade  # Alembic, which a start on a database that is up to date does without

    with writing(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
        present = schema_of(connection)
        if not _is_up_to_date(present):
            upgrade(connection, present)


def _is_up_to_date(present: str | None) -> bool:
    """Also newer than this code is up to date: in a rolling restart old code meets new tables, which only grow."""
    return present is not None and present.isdigit() and present >= SCHEMA


def schema_of(connection: Connection) -> str | None:
    """The last migration of these tables; "unversioned" if they are older than migrations, None if there are none."""
    inspector = sa.inspect(connection)
    if inspector.has_table("alembic_version"):
        version = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        return None if version is None else str(version)
    return "unversioned" if inspector.has_table("jobs") else None


def _postgresql(url: URL) -> Engine:
    guards = " ".join(f"-c {name}={1000 * seconds}" for name, seconds in _GUARDS.items())
    arguments = {"connect_timeout": 5, "application_name": "hepaseg", "options": guards}
    # Parameters hold what clients chose, such as keys and addresses: what fails is logged without them.
    # A connection that a restart of the database has cut is noticed and replaced before it is used.
    try:
        engine = sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            pool_recycle=1800,
            connect_args=arguments,
            hide_parameters=True,
        )
    except ModuleNotFoundError as error:
        raise InvalidRequest(f"PostgreSQL needs `pip install hepaseg[cluster]` ({error}).") from None
    sa.event.listen(engine, "begin", _on_postgresql_begin)
    return engine


def _on_postgresql_begin(connection: Connection) -> None:
    if not connection.get_execution_options().get("durable", True):
        connection.exec_driver_sql("SET LOCAL synchronous_commit = off")


def _sqlite(path: Path) -> Engine:
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": _WAIT_S}, hide_parameters=True)
    sa.event.listen(engine, "connect", _on_sqlite_connect)
    sa.event.listen(engine, "begin", _on_sqlite_begin)
    return engine


def _on_sqlite_connect(connection: sqlite3.Connection, _record: object) -> None:
    # The driver must not open transactions by itself: `_on_sqlite_begin` decides how they begin.
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {_WAIT_S * 1000}")
    _write_ahead(connection)


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log; once switched, a database stays so.

    Of two connections that switch a new database at once SQLite refuses one on the spot, whatever busy_timeout says,
    for each would wait for the other.
    """
    end = time.monotonic() + _WAIT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(_RETRY_S)
        else:
            return


def _on_sqlite_begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    writes = options.get("writes", False)
    connection.exec_driver_sql(f"PRAGMA synchronous = {'FULL' if options.get('durable', True) else 'NORMAL'}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
