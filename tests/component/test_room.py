"""The commands for many scans keep to the memory that they are allowed, as a worker does."""

from pathlib import Path

import pytest

from app import batch
from app.evaluation import run
from app.evaluation.cases import Case
from app.settings import Settings
from tests.analytic_networks import phantom_models


class RoomError(Exception):
    """Raised in the place of work, with the room that two scans together were given."""


def told(_cases: object, _work: object, _needs: object, room: int) -> None:
    raise RoomError(room)


def test_two_scans_share_what_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = Settings(memory_bytes=123_456_789, models_dir=phantom_models(tmp_path / "models"))
    monkeypatch.setattr(batch, "in_lanes", told)
    monkeypatch.setattr(run, "in_lanes", told)
    with pytest.raises(RoomError, match="123456789"):
        batch.segment_all([batch.Case("a", tmp_path, None, tmp_path)], tmp_path, settings, quiet=True)
    with pytest.raises(RoomError, match="123456789"):
        run.evaluate([Case("a", tmp_path, None)], tmp_path, settings, segments=False)
