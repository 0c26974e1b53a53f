"""Servers that several layers of tests talk to, each started when the first test asks for it, and a disk to fill."""

import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services import S3, Postgres, RabbitMQ, Redis


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def redis() -> Iterator[Redis]:
    server = Redis()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    server = RabbitMQ()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3]:
    server = S3()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def s3(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty place in an S3 store, with what is needed to reach it in the environment."""
    for name, value in s3_server.environment_of_clients().items():
        monkeypatch.setenv(name, value)
    return f"s3://{s3_server.bucket}/{secrets.token_hex(4)}"


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> Redis | RabbitMQ:
    """A real broker."""
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.services)])
def database_url(request: pytest.FixtureRequest) -> str:
    """Where the jobs are: the SQLite file of the data folder, or a new database in a real PostgreSQL."""
    return "" if request.param == "sqlite" else request.getfixturevalue("postgres").database()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB, for real; only root may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
