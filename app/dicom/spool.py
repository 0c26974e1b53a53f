"""Instances on their way in, on the disk: nothing that was answered with success is lost by a restart.

spool/arriving/         what an association is sending
spool/open/<key>/       one folder for each series and caller; a hash stands for the UIDs
spool/whole/<key>-<n>/  series to which nothing is added any more

Each folder holds the instances and `caller`, the AE title that sent them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

CALLER = "caller"
_STALE_S = 3600.0


@dataclass
class _Open:
    """A series that may still grow: when it last did, which associations send of it, whether the last broke off."""

    since: float
    senders: set[int] = field(default_factory=set)
    broken: bool = False


class Spool:
    """The folders under `root`. `clock` gives seconds. Series that a former process left open are open again."""

    def __init__(self, root: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.arriving, self._open, self._whole = root / "arriving", root / "open", root / "whole"
        shutil.rmtree(self.arriving, ignore_errors=True)
        for folder in (self.arriving, self._open, self._whole):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._clock = clock
        self._lock = threading.Lock()
        self._series = {folder.name: _Open(clock()) for folder in self._open.iterdir()}

    def put(self, path: Path, uids: tuple[str, str], caller: str, sender: int) -> None:
        """Take a file over. uids: of series and instance; sender: the association. An instance sent twice is one.

        It is safe on the disk when this returns. Raises OSError.
        """
        _sync(path)
        key = _hash(caller, uids[0])
        with self._lock:
            folder = self._open / key
            if key not in self._series:
                folder.mkdir(mode=0o700, exist_ok=True)
                (folder / CALLER).write_text(caller)
                _sync(folder / CALLER)
                _sync(self._open)
            path.rename(folder / f"{_hash(uids[1])}.dcm")
            series = self._series.setdefault(key, _Open(0.0))
            series.since, series.broken = self._clock(), False
            series.senders.add(sender)
            descriptor = os.open(folder, os.O_RDONLY)
        # Not while others wait: a slow disk would have all associations stand in one line.
        _sync_and_close(descriptor)

    def ended(self, sender: int, *, broken: bool = False) -> None:
        """An association has ended; broken: without a release, perhaps in the middle of a series."""
        with self._lock:
            for series in self._series.values():
                if sender in series.senders:
                    series.senders.discard(sender)
                    series.since, series.broken = self._clock(), broken

    def close(self, quiet_s: float, broken_s: float) -> None:
        """Take as whole what nobody sends any more and did not grow for `quiet_s`, or `broken_s` if it broke off."""
        with self._lock:
            now = self._clock()
            idle = [(key, each) for key, each in self._series.items() if not each.senders]
            for key in [key for key, each in idle if each.since <= now - (broken_s if each.broken else quiet_s)]:
                (self._open / key).rename(self._whole / f"{key}-{secrets.token_hex(4)}")
                del self._series[key]
        for path in self.arriving.iterdir():  # of associations that were cut off in the middle of a file
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - _STALE_S:
                    path.unlink()

    def whole(self) -> list[Path]:
        """The folders of whole series, oldest first."""
        return sorted(self._whole.iterdir(), key=lambda folder: folder.stat().st_mtime)

    def is_empty(self) -> bool:
        """Whether nothing is open or waits."""
        return not self._series and not any(self._whole.iterdir())


def instances(folder: Path) -> list[Path]:
    """The instances of a series, in an order that does not depend on how they came."""
    return sorted(folder.glob("*.dcm"))


def _hash(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:32]


def _sync(path: Path) -> None:
    _sync_and_close(os.open(path, os.O_RDONLY))


def _sync_and_close(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
