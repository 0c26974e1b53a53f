"""Which workers on this machine live, told by the kernel.

Each worker holds a lock on a file of its own. The kernel lets go of it however the process ends, so a job of a killed
worker is taken back at once and not only when its lease runs out. Process ids would not do: they are used again.
A worker on another machine has no file here; its lease alone speaks for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Self

from app.settings import Settings


class OwnerLocks:
    """The lock files in `folder`, one a worker."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The locks in the data folder."""
        return cls(settings.data_dir / "workers")

    @contextlib.contextmanager
    def holding(self, owner: str) -> Iterator[None]:
        """Keep the file of `owner` locked; the end of the process lets go as well."""
        descriptor = self._taken(owner)
        try:
            yield
        finally:
            os.close(descriptor)

    def dead(self, owners: Iterable[str]) -> set[str]:
        """Those of `owners` whose process has ended; unknown ones are left to their lease."""
        return {owner for owner in owners if self._is_free(owner)}

    def tidy(self, owners: Iterable[str]) -> None:
        """Remove the files of dead workers that hold no job."""
        keep = set(owners)
        for path in self._folder.glob("*.lock"):
            if path.stem not in keep:
                self._is_free(path.stem, path.unlink)

    def _path(self, owner: str) -> Path:
        return self._folder / f"{owner}.lock"

    def _taken(self, owner: str) -> int:
        """The locked file of `owner`; one that was tidied away between its making and its locking is made again."""
        path = self._path(owner)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            # it waits: whoever looks whether the file is free lets go at once
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                return descriptor
            os.close(descriptor)

    def _is_free(self, owner: str, then: Callable[[], None] = lambda: None) -> bool:
        """Whether nobody holds the file; `then` is called while nobody else can."""
        try:
            descriptor = os.open(self._path(owner), os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                then()
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True
