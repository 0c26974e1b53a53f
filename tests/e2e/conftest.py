"""Fixtures of the HTTP tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from service import Service


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[Service]:
    """A service without a worker."""
    service = Service(tmp_path / "data")
    yield service
    service.stop()


@pytest.fixture
def service(idle: Service) -> Service:
    """A service with a worker."""
    idle.start_worker()
    return idle


@pytest.fixture(scope="session")
def scan(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return tiny.save_scan(tmp_path_factory.mktemp("scan") / "ct.nii.gz").read_bytes()


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return tiny.save_reference(tmp_path_factory.mktemp("reference") / "labels.nii.gz").read_bytes()
