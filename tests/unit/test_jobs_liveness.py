"""Workers may begin while others tidy: whoever lives keeps the file that says so."""

import fcntl
from pathlib import Path

import pytest

from app.jobs.liveness import OwnerLocks


def test_a_worker_whose_file_is_tidied_away_before_it_is_locked_makes_it_again(tmp_path, monkeypatch):
    locks, flock = OwnerLocks(tmp_path), fcntl.flock

    def late(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        locks.tidy([])
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with locks.holding("w"):
        assert locks.dead(["w"]) == set()
        locks.tidy([])
    assert locks.dead(["w"]) == {"w"}


def test_nobody_can_take_a_file_that_is_being_tidied_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    locks, unlink = OwnerLocks(tmp_path), Path.unlink
    with locks.holding("w"):
        pass
    free: list[set[str]] = []

    def watched(path: Path, *arguments: bool, **options: bool) -> None:
        free.append(locks.dead(["w"]))
        unlink(path, *arguments, **options)

    monkeypatch.setattr(Path, "unlink", watched)
    locks.tidy([])
    assert free == [set()]
    assert list(tmp_path.iterdir()) == []
