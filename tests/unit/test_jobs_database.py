"""The tables and how they came to be, on SQLite and on a real PostgreSQL."""

import sqlite3
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from app.errors import InvalidRequest
from app.jobs import database
from app.jobs.database import SCHEMA, open_engine, schema_of
from app.jobs.migrations import configuration
from app.jobs.store import Order, Store
from app.jobs.tables import metadata
from app.settings import Settings

#: As the service made them before there were migrations.
OLD_TABLES = """
CREATE TABLE jobs (
    id VARCHAR(64) NOT NULL, status VARCHAR(16) NOT NULL, priority VARCHAR(16) NOT NULL, created_at DOUBLE NOT NULL,
    started_at DOUBLE, completed_at DOUBLE, due_at DOUBLE NOT NULL, voxels BIGINT NOT NULL, attempt INTEGER NOT NULL,
    lost_attempts INTEGER NOT NULL, owner VARCHAR(64), lease_until DOUBLE, cancel_requested BOOLEAN NOT NULL,
    stage VARCHAR(32), progress DOUBLE NOT NULL, warnings JSON NOT NULL, error JSON, published INTEGER,
    idempotency_key VARCHAR(255), fingerprint VARCHAR(64), revision INTEGER NOT NULL,
    PRIMARY KEY (id), UNIQUE (idempotency_key));
CREATE INDEX jobs_by_age ON jobs (created_at, id);
CREATE INDEX jobs_in_line ON jobs (status, due_at, id);
CREATE TABLE workers (
    id VARCHAR(64) NOT NULL, state VARCHAR(16) NOT NULL, detail TEXT NOT NULL, models JSON, seen_at DOUBLE NOT NULL,
    PRIMARY KEY (id));
INSERT INTO jobs VALUES ('old', 'queued', 'routine', 1.5e9, NULL, NULL, 1.5e9, 7, 0, 0, NULL, NULL, 0, NULL, 0.0,
    '[]', NULL, NULL, 'k', 'f', 0);
"""


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return Settings(data_dir=tmp_path, database_url=database_url)


def test_the_migrations_make_the_very_tables_that_the_code_speaks_of(settings: Settings):
    engine = open_engine(settings)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
        assert schema_of(connection) == SCHEMA
        assert ScriptDirectory.from_config(configuration(connection)).get_heads() == [SCHEMA]
    engine.dispose()


def test_a_database_from_before_the_migrations_keeps_its_jobs(tmp_path: Path):
    with sqlite3.connect(tmp_path / "hepaseg.sqlite") as old:
        old.executescript(OLD_TABLES)
    old.close()
    store = Store.open(Settings(data_dir=tmp_path))
    assert (store.get("old").voxels, store.get("old").idempotency_key) == (7, "k")
    store.add(Order("new"))
    assert {store.claim("w").id, store.claim("w").id} == {"old", "new"}
    with store.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    store.engine.dispose()


def test_several_processes_may_open_a_new_database_at_once(settings: Settings):
    failed: list[BaseException] = []

    def open_it() -> None:
        try:
            open_engine(settings).dispose()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_a_new_file_that_another_connection_writes_to_is_waited_for(tmp_path: Path):
    # A writer before the switch to the write-ahead log: SQLite refuses the switch on the spot.
    other = sqlite3.connect(tmp_path / "hepaseg.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.3, other.close)
    release.start()
    open_engine(Settings(data_dir=tmp_path)).dispose()
    release.join()


def test_old_code_starts_on_the_tables_of_newer_code(settings: Settings, monkeypatch):
    open_engine(settings).dispose()
    monkeypatch.setattr(database, "SCHEMA", "0001")
    store = Store.open(settings)
    store.add(Order("a"))
    store.engine.dispose()


def test_a_migration_that_fails_leaves_the_tables_as_they_were(settings: Settings, monkeypatch):
    def half(connection: sa.Connection, present: str | None) -> None:
        connection.execute(sa.text("CREATE TABLE jobs (id INTEGER)"))
        raise RuntimeError("power cut")

    monkeypatch.setattr("app.jobs.migrations.upgrade", half)
    with pytest.raises(RuntimeError):
        open_engine(settings)
    monkeypatch.undo()
    store = Store.open(settings)
    store.add(Order("a"))
    store.engine.dispose()


@pytest.mark.parametrize("url", ["mysql://host/name", "hepaseg.sqlite"])
def test_another_kind_of_database_is_refused_in_a_sentence(tmp_path: Path, url: str):
    with pytest.raises(InvalidRequest, match="HEPASEG_DATABASE_URL"):
        open_engine(Settings(data_dir=tmp_path, database_url=url))


def test_what_a_failed_query_says_does_not_repeat_what_a_client_sent(settings: Settings):
    engine = open_engine(settings)
    with pytest.raises(sa.exc.DBAPIError) as failed, engine.connect() as connection:
        connection.execute(sa.text("SELECT * FROM no_such_table WHERE key = :key"), {"key": "Doe^John"})
    assert "no_such_table" in str(failed.value)
    assert "Doe" not in str(failed.value)
    engine.dispose()


def test_sqlite_may_lie_elsewhere(tmp_path: Path):
    where = tmp_path / "elsewhere" / "jobs.sqlite"
    open_engine(Settings(data_dir=tmp_path / "data", database_url=f"sqlite:///{where}")).dispose()
    assert where.exists()
    assert database.SCHEMA == SCHEMA
